// What the dashboard does where scripts run. Everything works without it: these are shortcuts.
"use strict";

(() => {
  const root = document.documentElement;
  const body = document.body;
  const live = document.getElementById("live");
  const lost = document.getElementById("lost");

  root.classList.add("scripted");

  const every = (selector, within = document) => Array.from(within.querySelectorAll(selector));

  const shown = (element) =>
    document.dispatchEvent(new CustomEvent("oban:shown", { detail: { root: element } }));

  // Times go on by themselves, so that a page is new only when what it tells is.

  // Up to so many seconds, in units of so many: as formats.py, and the sentences about jobs.
  const UNITS = [
    [90, 1, "second"], [5400, 60, "minute"], [129600, 3600, "hour"], [Infinity, 86400, "day"],
  ];
  const MARKS = [
    [31557600, "y"], [2630016, "mo"], [86400, "d"], [3600, "h"], [60, "min"], [1, "s"],
  ];

  const inWords = (seconds) => {
    const [, length, name] = UNITS.find(([most]) => seconds < most);
    const count = Math.round(seconds / length);

    return `${count.toLocaleString("en")} ${name}${count === 1 ? "" : "s"}`;
  };

  const asDuration = (seconds) => {
    for (let index = 0; index < MARKS.length; index += 1) {
      const [step, mark] = MARKS[index];

      if (seconds < step) continue;

      const first = `${Math.floor(seconds / step)} ${mark}`;
      const next = MARKS[index + 1];
      const second = next ? Math.floor((seconds % step) / next[0]) : 0;

      return second ? `${first} ${second} ${next[1]}` : first;
    }

    return "0 s";
  };

  const tick = () => {
    const now = Date.now();

    for (const element of every("time[data-time]")) {
      const kind = element.dataset.time;

      if (kind === "at" || kind === "clock") continue;

      const seconds = (now - Date.parse(element.dateTime)) / 1000;
      let text;

      if (kind === "for") {
        text = asDuration(Math.max(0, Math.round(seconds)));
      } else if (Math.abs(seconds) < 0.95) {
        text = "just now";
      } else {
        text = seconds > 0 ? `${inWords(seconds)} ago` : `in ${inWords(-seconds)}`;
      }

      if (element.textContent !== text) element.textContent = text;
    }
  };

  // Refreshing, by htmx. It waits while somebody is in the middle of something.

  let interval = Number(body.dataset.refresh) || 0;
  let timer = 0;
  let asked = false;
  let etag = "";
  let kept = null;
  const opened = Date.now();

  // What was said of the last thing done goes away at some refresh; what failed waits to be read.
  const SAID_FOR = 10_000;

  const forget = () => {
    const said = document.querySelector(".said");

    if (!said || Date.now() - opened < SAID_FOR || said.matches(":hover, :focus-within")) return;
    if (said.querySelector(".notice.done")) said.remove();
  };

  const isBusy = () => {
    const focused = document.activeElement;
    const writes =
      focused && live.contains(focused) && focused.matches("textarea, select, input:not([type=checkbox])");
    const selection = document.getSelection();
    const marks =
      selection && !selection.isCollapsed && selection.anchorNode && live.contains(selection.anchorNode);

    return Boolean(writes || marks || live.querySelector("details.confirm[open]"));
  };

  const refresh = (whatever) => {
    if (!live || !window.htmx || asked || document.hidden || (!whatever && isBusy())) return;

    window.htmx.trigger(live, "refresh");
  };

  const wait = () => {
    window.clearTimeout(timer);

    if (interval > 0 && !document.hidden) {
      timer = window.setTimeout(() => {
        refresh(false);
        wait();
      }, interval * 1000);
    }
  };

  document.addEventListener("visibilitychange", () => {
    refresh(false);
    wait();
  });

  document.addEventListener("htmx:configRequest", (event) => {
    asked = true;

    if (etag) event.detail.headers["If-None-Match"] = etag;
  });

  document.addEventListener("htmx:afterRequest", (event) => {
    asked = false;
    const status = event.detail.xhr ? event.detail.xhr.status : 0;

    if (lost) lost.hidden = status !== 0 && status < 500;
    if (status !== 0 && status < 400) forget();
  });

  document.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.target !== live) return;

    const focused = document.activeElement;
    kept = {
      ticked: new Set(every("input[type=checkbox]:checked", live).map((box) => box.id)),
      details: new Map(every("details[id]", live).map((item) => [item.id, item.open])),
      focused: focused && live.contains(focused) ? focused.id : "",
      scrolled: new Map(every("pre[id]", live).map((item) => [item.id, item.scrollTop])),
    };
    etag = event.detail.xhr.getResponseHeader("ETag") || "";
  });

  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target !== live || !kept) return;

    for (const box of every("input[type=checkbox][id]", live)) box.checked = kept.ticked.has(box.id);

    for (const item of every("details[id]", live)) {
      if (kept.details.has(item.id)) item.open = kept.details.get(item.id);
    }

    for (const item of every("pre[id]", live)) item.scrollTop = kept.scrolled.get(item.id) || 0;

    const focused = kept.focused && document.getElementById(kept.focused);

    if (focused) focused.focus({ preventScroll: true });

    mark();
    count();
    tick();
    shown(live);
  });

  // For a moment new elements have the classes of the old ones with their id, and then their own.
  document.addEventListener("htmx:afterSettle", mark);

  // Rows: one is the current one, and stays so when the list is new. Where it is gone, the next step
  // goes on from its place.

  let chosen = "";
  let place = -1;

  const rows = () => every("tr[data-row]");

  function mark() {
    rows().forEach((row, index) => {
      row.classList.toggle("current", row.id === chosen);

      if (row.id === chosen) place = index;
    });
  }

  const step = (by) => {
    const all = rows();

    if (all.length === 0) return;

    const at = all.findIndex((row) => row.id === chosen);
    let next = at + by;

    // The row at the place of one that is gone was the next one.
    if (at < 0) next = place < 0 ? (by > 0 ? 0 : all.length - 1) : place + (by > 0 ? 0 : by);

    place = Math.min(all.length - 1, Math.max(0, next));
    chosen = all[place].id;
    mark();
    all[place].scrollIntoView({ block: "nearest" });
  };

  const current = () => document.querySelector("tr.current");

  // Ticked rows: how many there are, and all at once.

  function count() {
    for (const form of every("form[data-selection]")) {
      const boxes = every("tbody input[type=checkbox]", form);
      const ticked = boxes.filter((box) => box.checked).length;
      const all = form.querySelector("input[data-all]");
      const told = form.querySelector("[data-ticked]");

      if (all) {
        all.checked = ticked > 0 && ticked === boxes.length;
        all.indeterminate = ticked > 0 && ticked < boxes.length;
      }

      if (told) told.textContent = ticked ? `${ticked} selected` : "";

      form.classList.toggle("has-selection", ticked > 0);
    }
  }

  document.addEventListener("change", (event) => {
    const box = event.target;

    if (box.matches("input[data-all]")) {
      for (const each of every("tbody input[type=checkbox]", box.form)) each.checked = box.checked;
    }

    if (box.matches("input[type=checkbox]")) count();

    if (box.matches("form.choices select")) {
      if (box.name === "refresh") interval = Number(box.value);

      box.form.requestSubmit();
    }

    if (box.matches("select[data-submits]")) box.form.requestSubmit();
  });

  // Buttons.

  const copied = (button) => {
    const before = button.textContent;
    button.textContent = "Copied";
    window.setTimeout(() => { button.textContent = before; }, 1200);
  };

  document.addEventListener("click", (event) => {
    const copy = event.target.closest("[data-copy]");
    const opens = event.target.closest("[data-open]");
    const closes = event.target.closest("[data-close]");

    // One may be within another one.
    for (const other of every("details.confirm[open]")) {
      if (!other.contains(event.target)) other.open = false;
    }

    if (closes) closes.parentElement.remove();

    if (copy) {
      const text = document.getElementById(copy.dataset.copy).textContent;

      if (navigator.clipboard) {
        navigator.clipboard.writeText(text).then(() => copied(copy), () => {});
      } else {
        // Pages that came without TLS have no clipboard; what is marked can be copied by hand.
        document.getSelection().selectAllChildren(document.getElementById(copy.dataset.copy));
      }
    }

    if (opens) {
      const dialog = document.getElementById(opens.dataset.open);

      if (dialog.tagName === "DIALOG") dialog.showModal();
      else dialog.open = !dialog.open;
    }
  });

  // Keys.

  let went = 0;

  const writing = (element) =>
    element.matches("input:not([type=checkbox]), textarea, select, [contenteditable]");

  document.addEventListener("keydown", (event) => {
    const { key } = event;

    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;

    if (key === "Escape") {
      const open = every("details.confirm[open]").pop();

      if (open) {
        open.open = false;
        open.querySelector("summary").focus();
      }

      if (event.target.matches("input, textarea")) event.target.blur();

      return;
    }

    if (writing(event.target) || document.querySelector("dialog[open]")) return;

    if (went && Date.now() - went < 1500) {
      const link = every("a[data-go]").find((each) => each.dataset.go === key);
      went = 0;

      if (link) {
        event.preventDefault();
        link.click();

        return;
      }
    }

    const row = current();

    if (key === "g") {
      went = Date.now();
    } else if (key === "?") {
      document.getElementById("help").showModal();
    } else if (key === "/") {
      const filter = document.querySelector("[data-filter]");

      if (!filter) return;

      event.preventDefault();
      filter.focus();
      filter.select();
    } else if (key === "j") {
      step(1);
    } else if (key === "k") {
      step(-1);
    } else if (key === "r") {
      refresh(true);
    } else if (key === "x" && row) {
      const box = row.querySelector("input[type=checkbox]");

      if (box) box.click();
    } else if (key === "Enter" && row && !event.target.closest("a, button, summary")) {
      const link = row.querySelector("a");
      event.preventDefault();

      if (link) link.click();
    }
  });

  const page = document.querySelector(".bar nav a[aria-current]");

  if (page) page.parentElement.scrollLeft = page.offsetLeft - page.parentElement.offsetLeft - 40;

  count();
  tick();
  window.setInterval(() => { if (!document.hidden) tick(); }, 1000);
  wait();
  shown(document);
})();
