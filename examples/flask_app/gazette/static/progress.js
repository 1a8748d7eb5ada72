// Asks how a job stands until it is over, and then loads the page a last time, for its result.
(() => {
  const address = document.currentScript.dataset.address;
  let pause = 500;

  const show = (id, text) => {
    const element = document.getElementById(id);
    if (element) element.textContent = text;
  };

  const look = async () => {
    try {
      const answer = await fetch(address, { headers: { Accept: "application/json" } });
      if (!answer.ok) throw new Error(answer.status);

      const status = await answer.json();
      if (status.final) return location.reload();

      const bar = document.getElementById("bar");
      bar.max = status.total || 1;
      bar.value = status.done;
      show("done", status.done.toLocaleString("en"));
      show("total", status.total.toLocaleString("en"));
      show("note", status.note || "");

      const badge = document.querySelector("#state .badge");
      badge.textContent = status.state;
      badge.className = `badge ${status.state}`;
      pause = 500;
    } catch {
      pause = Math.min(pause * 2, 10000); // the server is away for a moment
    }

    setTimeout(look, pause);
  };

  setTimeout(look, pause);
})();
