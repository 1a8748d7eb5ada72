// Charts that go on by themselves. Where this does not run, those that came with the page stay.
"use strict";

(() => {
  const place = document.querySelector("[data-charts]");

  if (!place || !window.uPlot) return;

  // Seconds between two looks: nodes tell what they counted every ten.
  const EVERY = 5;
  const HEIGHT = 168;

  const refresh = Number(document.body.dataset.refresh) || 0;
  const drawn = new Map();
  let last = null;
  let asked = false;

  const number = (value) => {
    if (value === 0) return "0";

    for (const [step, mark] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (value >= step * 0.99995) return `${(value / step).toFixed(1).replace(/\.0$/, "")}${mark}`;
    }

    return Number.isInteger(value) ? String(value) : value.toFixed(value >= 1 ? 1 : 2);
  };

  const time = (seconds) => {
    if (seconds === 0) return "0 s";
    if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
    if (seconds < 0.9995) return `${Number((seconds * 1e3).toPrecision(3))} ms`;
    if (seconds < 59.95) return `${seconds.toFixed(1).replace(/\.0$/, "")} s`;
    if (seconds < 3600) return `${Math.round(seconds / 6) / 10} min`;
    if (seconds < 86400) return `${Math.round(seconds / 360) / 10} h`;

    return `${Math.round(seconds / 8640) / 10} d`;
  };

  const said = (unit, value) => {
    if (value === null || value === undefined) return "–";
    if (unit === "time") return time(value);

    return unit === "rate" ? `${number(value)}/s` : number(value);
  };

  const two = (value) => String(value).padStart(2, "0");

  // On the clocks of whoever looks: the day where marks are days apart, else the time, with seconds
  // where they are less than a minute apart.
  const clock = (mark, apart) => {
    const at = new Date(mark * 1000);

    if (apart >= 86400) return `${at.getDate()} ${at.toLocaleString("en", { month: "short" })}`;

    const seconds = apart < 60 ? `:${two(at.getSeconds())}` : "";

    return `${two(at.getHours())}:${two(at.getMinutes())}${seconds}`;
  };

  // The colour of a class, which is another one in the dark.
  const colour = (kind) => {
    const probe = document.createElement("span");
    probe.className = kind;
    probe.hidden = true;
    place.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();

    return found;
  };

  // Values between two gaps: no line leads to them, so that they are drawn as dots.
  const alone = (plot, number, shown) => {
    if (shown) return null;

    const values = plot.data[number];
    const found = [];

    for (let index = 0; index < values.length; index += 1) {
      if (values[index] != null && values[index - 1] == null && values[index + 1] == null) {
        found.push(index);
      }
    }

    return found.length ? found : null;
  };

  const newest = (values) => {
    for (let index = values.length - 1; index >= 0; index -= 1) {
      if (values[index] !== null) return values[index];
    }

    return null;
  };

  const highest = (values) => {
    const known = values.filter((value) => value !== null);

    return known.length ? Math.max(...known) : null;
  };

  // The table below a chart: at the newest time, or where the mouse is.
  const fillLegend = (card, chart, index) => {
    const body = card.querySelector("[data-legend]");
    body.replaceChildren();

    for (const line of chart.lines) {
      const row = document.createElement("tr");
      const name = document.createElement("td");
      const swatch = document.createElement("span");
      const label = document.createElement("span");
      swatch.className = `swatch ${line.kind}`;
      label.className = "name";
      label.title = line.shown;
      label.textContent = line.shown;
      name.append(swatch, label);
      row.append(name);
      const value = index === null ? newest(line.values) : line.values[index];

      for (const each of [value, highest(line.values)]) {
        const cell = document.createElement("td");
        cell.className = "n";
        cell.textContent = said(chart.unit, each);
        row.append(cell);
      }

      body.append(row);
    }
  };

  const options = (card, chart, width) => ({
    width,
    height: HEIGHT,
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, sync: { key: "oban" }, points: { size: 6 } },
    scales: {
      x: { time: true },
      y: { range: (_, __, most) => [0, most > 0 ? most * 1.08 : 1] },
    },
    series: [
      {},
      ...chart.lines.map((line) => ({
        label: line.label,
        stroke: colour(line.kind),
        width: 1.6,
        points: { show: false, filter: alone, size: 6, width: 0, fill: colour(line.kind) },
      })),
    ],
    axes: [
      {
        stroke: colour("faint"),
        grid: { show: false },
        ticks: { show: false },
        size: 24,
        space: 72,
        values: (_, marks, __, ___, apart) => marks.map((mark) => clock(mark, apart)),
      },
      {
        stroke: colour("faint"),
        grid: { stroke: colour("chart-grid"), width: 1 },
        ticks: { show: false },
        size: 58,
        values: (_, marks) => marks.map((mark) => said(chart.unit, mark)),
      },
    ],
    hooks: {
      setCursor: [(plot) => {
        const { idx } = plot.cursor;
        fillLegend(card, drawn.get(card).chart, idx === undefined ? null : idx);
      }],
    },
  });

  const draw = (card, chart) => {
    const plotted = card.querySelector("[data-plot]");
    const before = drawn.get(card);
    const names = chart.lines.map((line) => `${line.kind} ${line.label}`).join("\n");
    const data = [chart.times, ...chart.lines.map((line) => line.values.slice(0, chart.times.length))];
    card.querySelector("[data-figure]").textContent = chart.figure;

    if (before && before.plot && before.names === names) {
      before.chart = chart;
      before.plot.setData(data);
      const { idx } = before.plot.cursor;
      fillLegend(card, chart, idx === undefined ? null : idx);

      return;
    }

    if (before && before.plot) before.plot.destroy();

    if (chart.lines.length === 0 || chart.times.length === 0) {
      // What the page says of a chart without curves stays as long as there never were any.
      if (before && before.plot) plotted.replaceChildren();

      drawn.set(card, { chart, names, plot: null });
      fillLegend(card, chart, null);

      return;
    }

    plotted.replaceChildren();
    drawn.set(card, { chart, names, plot: null });
    drawn.get(card).plot = new window.uPlot(
      options(card, chart, Math.max(160, plotted.clientWidth)), data, plotted,
    );
    fillLegend(card, chart, null);
  };

  const drawAll = (anew) => {
    if (!last) return;

    for (const chart of last) {
      const card = place.querySelector(`[data-chart="${CSS.escape(chart.name)}"]`);

      if (!card) continue;

      const before = drawn.get(card);

      // Colours are fixed when a chart is made.
      if (anew && before && before.plot) {
        before.plot.destroy();
        drawn.delete(card);
      }

      draw(card, chart);
    }
  };

  const look = () => {
    if (asked || document.hidden) return;

    asked = true;
    fetch(place.dataset.charts, { headers: { Accept: "application/json" }, credentials: "same-origin" })
      .then((response) => (response.ok ? response.json() : null))
      .then((found) => {
        if (found) {
          last = found.charts;
          drawAll(false);
        }
      })
      // What is there stays; app.js tells that the connection was lost.
      .catch(() => {})
      .finally(() => { asked = false; });
  };

  new ResizeObserver(() => {
    for (const [card, { plot }] of drawn) {
      const width = card.querySelector("[data-plot]").clientWidth;

      if (plot && width > 0 && width !== plot.width) plot.setSize({ width, height: HEIGHT });
    }
  }).observe(place);

  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll(true));
  look();

  if (refresh > 0) {
    window.setInterval(look, Math.max(EVERY, refresh) * 1000);
    document.addEventListener("visibilitychange", look);
  }
})();
