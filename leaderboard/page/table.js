// The same figures as the pictures, to read, sort and follow: one row a network, fifty at a time.

const table = (() => {
  const PAGE = 50;
  const COLUMNS = [
    { name: "strategy", label: "Strategy", kind: "text" },
    { name: "accuracy", label: "Accuracy, %", show: (r) => words.percent(r.accuracy), down: true },
    {
      name: "drop",
      label: "± dense",
      show: (r) => words.points(r.drop),
      help: "Points of accuracy against the dense network",
    },
    {
      name: "speedup",
      label: "Speed-up",
      show: (r) => words.ratio(r.speedup),
      down: true,
      help: "Latency of the dense network divided by this one's",
    },
    {
      name: "low",
      label: "95 % interval",
      kind: "minor",
      show: (r) => words.interval(r.low, r.high),
      down: true,
      help: "Of the speed-up",
    },
    { name: "latency", label: "Latency", show: (r) => words.seconds(r.latency) },
    { name: "energy", label: "Energy", show: (r) => words.joules(r.energy) },
    { name: "parameters", label: "Parameters", show: (r) => words.count(r.parameters) },
    {
      name: "macs",
      label: "MACs",
      show: (r) => words.count(r.macs),
      help: "Multiplications with addition of one inference",
    },
    { name: "bytes", label: "Size", show: (r) => words.bytes(r.bytes) },
    {
      name: "total_seconds",
      label: "Training",
      kind: "minor",
      show: (r) => words.seconds(r.total_seconds),
      help: "The whole training, the dense network's included where the method starts from it",
    },
    { name: "total_epochs", label: "Epochs", kind: "minor", show: (r) => String(+r.total_epochs.toFixed(1)) },
    { name: "id", label: "Entry", kind: "text id" },
  ];
  const holder = byId("table");

  // Which columns hold anything on this track.
  const present = (data) => COLUMNS.filter((c) => data.rows.some((r) => r[c.name] !== null));

  function sorting(data) {
    const asked = state.now.sort,
      column = asked.replace(/^-/, "");
    if (COLUMNS.some((c) => c.name === column)) return { column, down: asked.startsWith("-") };
    return data.rows.some((r) => r.speedup !== null)
      ? { column: "speedup", down: true }
      : { column: "parameters", down: false };
  }

  function head(columns, { column, down }) {
    return element(
      "tr",
      {},
      columns.map((c) =>
        element(
          "th",
          {
            class: c.kind,
            scope: "col",
            title: c.help,
            "aria-sort": column === c.name ? (down ? "descending" : "ascending") : null,
          },
          button(
            c.label,
            () => state.go({ sort: (column === c.name ? !down : c.down) ? `-${c.name}` : c.name, page: 1 }),
            { "data-sort": c.name },
          ),
        ),
      ),
    );
  }

  function line(row, columns, front) {
    return element(
      "tr",
      {
        class: front.has(row) && "front",
        "data-id": row.id,
        onclick: (event) => {
          if (!event.target.closest("a")) state.go(opening(row.id));
        },
      },
      columns.map((c) =>
        c.name === "strategy"
          ? element("th", { scope: "row", class: "text" }, marks.strategy(row))
          : c.name === "id"
            ? element(
                "td",
                { class: c.kind },
                link(() => opening(row.id), { title: `study ${row.study}, trial ${row.trial}` }, words.short(row.id)),
              )
            : element("td", { class: c.kind }, c.show(row)),
      ),
    );
  }

  function pages(count, current) {
    const last = Math.max(1, Math.ceil(count / PAGE));
    if (last === 1) return [];
    const to = (page, label) => button(label, () => state.go({ page }), { disabled: page < 1 || page > last });
    return [
      to(current - 1, "← Previous"),
      element(
        "span",
        {},
        `${(PAGE * (current - 1) + 1).toLocaleString("en")}–${Math.min(count, PAGE * current).toLocaleString("en")} of ${count.toLocaleString("en")}`,
      ),
      to(current + 1, "Next →"),
    ];
  }

  // `shown(row)` says which rows pass, `count` how many they are; those of `front` are set off.
  function show(data, shown, count, front) {
    const columns = present(data),
      order = sorting(data);
    const current = Math.min(state.now.page, Math.max(1, Math.ceil(count / PAGE)));
    const lines = data
      .sorted(order.column, order.down)
      .filter(shown)
      .slice(PAGE * (current - 1), PAGE * current);
    // A header that was pressed keeps the focus through the new table.
    const focused = holder.contains(document.activeElement) && document.activeElement.dataset.sort;
    holder.replaceChildren(
      element(
        "table",
        {},
        element("caption", {}, `Networks of ${data.workload} on ${data.key}`),
        element("thead", {}, head(columns, order)),
        element(
          "tbody",
          {},
          lines.map((row) => line(row, columns, front)),
        ),
      ),
    );
    if (focused) holder.querySelector(`[data-sort="${focused}"]`)?.focus();
    byId("pages").replaceChildren(...pages(count, current));
    byId("no-rows").hidden = count > 0;
  }

  return { show };
})();
