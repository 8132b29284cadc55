// The panel at the side: one network, two of them, or a strategy, as the address says.

const panel = (() => {
  const dialog = byId("panel"),
    body = byId("panel-body");
  let opener = null;

  function start() {
    byId("panel-close").addEventListener("click", close);
    dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      close();
    });
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) close();
    });
    // A browser may close it by itself, as at a second Escape.
    dialog.addEventListener("close", () => {
      if (state.now.entry || state.now.strategy) close();
    });
    byId("pick-cancel").addEventListener("click", () => state.go({ beside: "" }));
  }

  const close = () => state.go({ entry: "", beside: "", strategy: "" });

  // `track` is what the board shows: {data, front, axis}.
  async function show(track) {
    const { entry, beside, strategy } = state.now;
    byId("pick").hidden = !(beside && !entry);
    if (beside && !entry) byId("pick-id").textContent = words.short(beside);
    if (!entry && !strategy) {
      if (dialog.open) dialog.close();
      if (opener?.isConnected) opener.focus();
      opener = null;
      return;
    }
    const asked = [entry, beside, strategy].join();
    let content;
    try {
      content = entry
        ? await network(entry, beside, track)
        : strategies.panel(
            strategy,
            await source.strategy(track.data.workload, track.data.key, strategy),
            track,
            track.axis,
          );
    } catch (error) {
      content = [element("h2", { id: "panel-title" }, "Not found"), element("p", {}, error.message)];
    }
    // Another one may have been asked for meanwhile.
    if (asked !== [state.now.entry, state.now.beside, state.now.strategy].join()) return;
    dialog.classList.toggle("wide", Boolean(entry && beside));
    body.replaceChildren(...content.filter(Boolean));
    if (!dialog.open) {
      opener = document.activeElement;
      dialog.showModal();
    }
    body.scrollTop = 0;
    body.focus();
  }

  async function network(id, other, track) {
    const row = (one) => track.data.rows.find((r) => r.id === one) || null;
    const found = await Promise.all([id, other].filter(Boolean).map((one) => source.entry(one)));
    const unknown = [id, other].filter((one, i) => one && !found[i] && !row(one));
    if (unknown.length)
      return [
        element("h2", { id: "panel-title" }, "Not found"),
        element("p", {}, `There is no network ${unknown.join(" and ")} on this board.`),
      ];
    if (other) return entries.compared([id, other], [row(id), row(other)], found, track);
    return entries.panel(id, row(id), found[0], track, neighbours(id, track));
  }

  // The networks before and after this one on the front.
  function neighbours(id, { front, axis }) {
    const at = front.findIndex((r) => r.id === id);
    if (at < 0) return null;
    const to = (row, label) => button(label, () => state.adjust({ entry: row.id }), { disabled: !row });
    const [best, more] = axis.rising ? ["Faster →", "← More accurate"] : ["Cheaper →", "← More accurate"];
    return [
      to(front[at + 1], more),
      element("span", {}, `${front.length - at} of ${front.length} on the front`),
      to(front[at - 1], axis === axes.size ? "Smaller →" : best),
    ];
  }

  return { start, show };
})();
