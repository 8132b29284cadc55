// The page itself: reads the address, asks for the track, and draws what passes the filters.

const board = (() => {
  let tracks = [],
    data = null,
    model = null,
    axis = axes.speed;
  const zoomed = (which) => (range) =>
    state.go({ zoom: range ? [which, ...Object.values(range).map((x) => +x.toPrecision(7))].join(",") : "" });
  const open = (row) => state.go(opening(row.id));
  const plots = Object.fromEntries(
    ["speed", "size", "energy", "training"].map((which) => [
      which,
      new Plot(axes[which], open, zoomed(which), (row) => {
        for (const other of Object.values(plots)) if (other !== plots[which]) other.echo(row);
      }),
    ]),
  );

  async function start() {
    theme.start();
    try {
      tracks = await source.tracks();
      if (!tracks.length)
        return said(
          "There are no results yet. A search fills the board:",
          "shrinkboard search --workload digits/cnn --strategy pca_l1,uniform --target cpu-onnxruntime --trials 10",
        );
      controls.start(tracks);
      panel.start();
      state.listen(changed);
      await load();
    } catch (error) {
      said(`The board cannot be shown: ${error.message}`);
    }
  }

  function said(text, command) {
    byId("message").replaceChildren(text, ...(command ? [element("pre", { tabindex: "0" }, command)] : []));
    byId("message").hidden = false;
    byId("board").hidden = true;
  }

  // The track and the split that the address names, or the first that there is.
  function chosen() {
    const { workload, target, split } = state.now;
    const fits = tracks.filter(
      (t) => (!workload || t.workload === workload) && (!target || t.key === target || t.target === target),
    );
    // Unasked, one that was measured, then one that has a speed-up at all.
    const best = (some) => some.find((t) => t.timed && t.kind === "measured") || some.find((t) => t.timed) || some[0];
    const track = best(fits) || best(tracks.filter((t) => t.workload === workload)) || best(tracks);
    const finals =
      split === "finals" ? track.finals : split === "searched" ? !track.searched : track.finals && !track.searched;
    return { track, finals };
  }

  // Of two loads under way only the later one counts.
  let loads = 0;
  async function load() {
    const own = ++loads,
      { track, finals } = chosen();
    const answer = await source.board(track.workload, track.key, finals);
    if (own !== loads) return;
    data = answer && { ...answer, metric: track.metric, finals };
    if (!data) return said("This track holds no results any more.");
    marks.learn(data.rows);
    byId("message").hidden = true;
    byId("board").hidden = false;
    document.title = `${track.workload} on ${track.target} · shrinkboard`;
    draw();
    panel.show({ data, front: model.front, axis });
    rankings.show(null);
    if (!track.finals) return;
    const ranking = await source.ranking(track.workload, track.key);
    if (own === loads) rankings.show(ranking);
  }

  async function changed(before) {
    tip.hide();
    if (state.differs(before, "workload", "target", "split"))
      return load().catch((error) => said(`The board cannot be shown: ${error.message}`));
    if (state.differs(before, "method", "format", "drop", "latency", "front", "axis", "whole", "zoom")) draw();
    else if (state.differs(before, "sort", "page")) table.show(data, model.shown, model.count, new Set(model.front));
    if (state.differs(before, "entry", "beside", "strategy")) panel.show({ data, front: model.front, axis });
  }

  function filter() {
    const { method, format, drop, latency } = state.now;
    const methods = new Set(method),
      families = new Set(format);
    return (r) =>
      (!methods.size || methods.has(r.method)) &&
      (!families.size || families.has(r.family)) &&
      (drop === null || r.drop <= drop + 1e-9) &&
      (latency === null || (r.latency !== null && r.latency <= latency * (1 + 1e-9)));
  }

  // Both pictures are as high, so that their levels of accuracy meet where they stand side by side.
  const height = (width) => {
    const room = byId("pictures").clientWidth;
    return Math.round(
      Math.min(480, Math.max(300, (width < room - 60 ? room : width) * (width < room - 60 ? 0.36 : 0.6))),
    );
  };

  function draw() {
    const has = (which) => data.rows.some((r) => axes[which].value(r) !== null);
    const choices = ["speed", "size", "energy"].filter(has);
    const which = choices.includes(state.now.axis) ? state.now.axis : choices[0] || "size";
    axis = axes[which];
    const passes = filter(),
      passing = data.rows.filter(passes);
    const fronts = Object.fromEntries([which, "training"].map((one) => [one, frontOf(data, axes[one], passes)]));
    const whole =
      passing.length === data.rows.length
        ? fronts
        : Object.fromEntries([which, "training"].map((one) => [one, frontOf(data, axes[one], () => true)]));
    const best = new Set([...fronts[which], ...fronts.training]);
    const shown = state.now.front ? (r) => best.has(r) : passes;
    model = { shown, count: state.now.front ? best.size : passing.length, front: fronts[which], which };
    const zoom = zoomOf();
    const about = (one) => ({
      data,
      shown: state.now.front ? fronts[one] : passing,
      front: fronts[one],
      all: whole[one],
      limits: { drop: state.now.drop, latency: state.now.latency },
      whole: state.now.whole,
      zoom: zoom && zoom.which === one ? zoom.range : null,
      height,
    });
    controls.show(data, model, choices);
    cards.show(data, passing, axis);
    picture("main", which, about(which));
    byId("second").hidden = !has("training");
    later(() => {
      table.show(data, shown, model.count, new Set(fronts[which]));
      if (has("training")) picture("second", "training", about("training"));
      byId("strategies").replaceChildren(strategies.list(passing, fronts[which], axis));
    });
  }

  // What may wait until the rest is on the screen: it stands below, and is busy until then.
  let waiting = 0;
  function later(work) {
    clearTimeout(waiting);
    byId("board").setAttribute("aria-busy", "true");
    requestAnimationFrame(() => {
      clearTimeout(waiting);
      waiting = setTimeout(() => {
        work();
        byId("board").setAttribute("aria-busy", "false");
      });
    });
  }

  // The part of a picture that the address asks for, in powers of two and accuracies; null for the whole, or nonsense.
  function zoomOf() {
    const [which, ...numbers] = state.now.zoom.split(",");
    const [left, right, bottom, top] = numbers.map(Number);
    const sound =
      numbers.length === 4 &&
      left > -64 &&
      right < 64 &&
      right - left > 1e-4 &&
      bottom > -1 &&
      top < 2 &&
      top - bottom > 1e-5;
    return sound ? { which, range: { left, right, bottom, top } } : null;
  }

  function picture(place, which, about) {
    const figure = byId(place),
      plot = plots[which];
    figure.querySelector("h3").textContent = axes[which].title;
    const holder = figure.querySelector(".holder");
    if (holder.firstChild !== plot.node) holder.replaceChildren(plot.node);
    plot.show(about);
    const { count, front } = plot.outside;
    const unknown = about.shown.filter((r) => axes[which].value(r) === null).length;
    const notes = [
      count &&
        `${words.many(count, "network lies", "networks lie")} outside this range${front ? ", some of the front among them" : ""}. `,
      unknown &&
        `${words.many(unknown, "network", "networks")} without ${axes[which].absent} ${unknown === 1 ? "stands" : "stand"} in the table only. `,
      which === "speed" && data.rows.some((r) => r.low !== null) && "Bars are 95 % intervals. ",
      which === "speed" && data.rows.some((r) => r.unstable) && "Dashed rings: measured on a noisy machine. ",
      which === "training" && "Seconds are those of the machine that trained. ",
      which === "training" &&
        data.dense.seconds === 0 &&
        "The dense network came from a checkpoint; its training is not counted. ",
    ];
    figure
      .querySelector(".note")
      .replaceChildren(
        ...notes.filter(Boolean),
        ...(about.zoom ? [button("Leave this section", () => state.go({ zoom: "" }), { class: "text" })] : []),
        ...(!about.zoom && count
          ? [button("Show the whole range", () => state.go({ whole: true }), { class: "text" })]
          : []),
        ...(!about.zoom && about.whole
          ? [button("Show the upper ten points", () => state.go({ whole: false }), { class: "text" })]
          : []),
      );
  }

  return {
    start,
    repaint: () => {
      for (const plot of Object.values(plots)) plot.draw();
    },
  };
})();
