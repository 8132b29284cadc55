"use strict";
// Draws a board, {tracks: [{workload, target, key, kind, dense, rows}]}: for every track two pictures and a table.
// Whatever came from an entry is set as text, never as markup.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const COLOURS = 10;
  const FIRST_ROWS = 100; // what is laid out at once; a longer table is shown whole on request
  // Outlines about one unit around the origin, alike in area. Nine shapes and ten colours: 90 strategies differ.
  const SHAPES = [
    "M1 0A1 1 0 1 1 -1 0A1 1 0 1 1 1 0Z",
    "M-.9 -.9H.9V.9H-.9Z",
    "M0 -1.2L1.1 .85H-1.1Z",
    "M0 -1.3L1.1 0L0 1.3L-1.1 0Z",
    "M0 1.2L1.1 -.85H-1.1Z",
    "M-.4 -1.15H.4V-.4H1.15V.4H.4V1.15H-.4V.4H-1.15V-.4H-.4Z",
    "M0 -1.2L1.14 -.37L.7 .97H-.7L-1.14 -.37Z",
    "M0 -1.4L.38 -.45L1.33 -.43L.58 .2L.83 1.13L0 .6L-.83 1.13L-.58 .2L-1.33 -.43L-.38 -.45Z",
    "M-.5 -1.15L0 -.65L.5 -1.15L1.15 -.5L.65 0L1.15 .5L.5 1.15L0 .65L-.5 1.15L-1.15 .5L-.65 0L-1.15 -.5Z",
  ];

  const element = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
  const drawn = (name, attributes = {}, ...children) => fill(document.createElementNS(SVG, name), attributes, children);
  function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== null) node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  }

  // Figures as people write them; null is an absent one.
  const absent = "–";
  const significant = (x) => (x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x.toFixed(2));
  function scaled(x, units) {
    if (x === null) return absent;
    const [size, unit] = units.find(([size]) => x >= size) || units[units.length - 1];
    return significant(x / size) + unit;
  }
  const format = {
    percent: (x) => (100 * x).toFixed(2),
    points: (x) => (x > 0 ? "−" : x < 0 ? "+" : "") + Math.abs(x).toFixed(2),
    ratio: (x) => (x === null ? absent : x.toFixed(2) + "×"),
    interval: (row) => (row.low === null ? "" : row.low.toFixed(2) + "–" + row.high.toFixed(2)),
    seconds: (x) => x === 0 ? "0 s" : scaled(x, [[60, " min"], [1, " s"], [1e-3, " ms"], [1e-6, " µs"], [1e-9, " ns"]]),
    joules: (x) => scaled(x, [[1, " J"], [1e-3, " mJ"], [1e-6, " µJ"], [1e-9, " nJ"]]),
    count: (x) => (x < 1000 ? String(x) : scaled(x, [[1e9, " G"], [1e6, " M"], [1e3, " k"]])),
    bytes: (x) => (x < 1000 ? x + " B" : scaled(x, [[1e9, " GB"], [1e6, " MB"], [1e3, " kB"]])),
  };

  function duration(x) {
    const [size, unit] = [[3600, " h"], [60, " min"], [1, " s"], [1e-3, " ms"], [1e-6, " µs"]].find(([size]) => x >= size * (1 - 1e-9)) || [1e-9, " ns"];
    return `${+(x / size).toPrecision(4)}${unit}`;
  }

  const COLUMNS = [
    { name: "strategy", label: "strategy", kind: "text strategy" },
    { name: "accuracy", label: "acc. %", show: (r) => format.percent(r.accuracy), down: true },
    { name: "drop", label: "± dense", show: (r) => format.points(r.drop) },
    { name: "speedup", label: "speed-up", show: (r) => format.ratio(r.speedup), down: true },
    { name: "low", label: "95 %", kind: "interval", show: format.interval, down: true },
    { name: "latency", label: "latency", show: (r) => format.seconds(r.latency) },
    { name: "energy", label: "energy", show: (r) => format.joules(r.energy), optional: true },
    { name: "parameters", label: "params", show: (r) => format.count(r.parameters) },
    { name: "macs", label: "MACs", show: (r) => format.count(r.macs) },
    { name: "bytes", label: "size", show: (r) => format.bytes(r.bytes) },
    { name: "total_seconds", label: "training", kind: "minor", show: (r) => format.seconds(r.total_seconds) },
    { name: "total_epochs", label: "epochs", kind: "minor", show: (r) => String(+r.total_epochs.toFixed(1)) },
    { name: "id", label: "entry", kind: "text id", show: (r) => r.id.slice(0, 8) },
  ];

  const mark = (style, size, unstable) =>
    drawn("path", { d: SHAPES[style % SHAPES.length], transform: `scale(${size})`, class: unstable ? "shape unstable" : "shape",
      "vector-effect": "non-scaling-stroke" });
  const swatch = (style, unstable) =>
    drawn("svg", { viewBox: "-7 -7 14 14", class: `k${style % COLOURS}`, "aria-hidden": "true" }, mark(style, 5, unstable));

  const extreme = (choose, start, values) => values.reduce((best, value) => choose(best, value), start);

  // Round steps for an axis that runs from low to high.
  function ticks(low, high, wanted) {
    const raw = (high - low) / wanted;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
    return { found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
  }

  function ratios(low, high, wanted) {
    const all = [];
    for (let k = Math.floor(Math.log2(low)) - 1; k <= Math.log2(high) + 1; k++) all.push(2 ** k, 1.5 * 2 ** k);
    const inside = all.filter((x) => x >= low && x <= high);
    if (inside.length < 3) return ticks(low, high, wanted / 2).found;
    if (inside.length <= wanted) return inside;
    const powers = inside.filter((x) => Number.isInteger(Math.log2(x)));
    const every = Math.ceil(powers.length / wanted);
    return powers.filter((x) => Math.log2(x) % every === 0);
  }

  // Round durations; a range too short to hold three of them is divided evenly.
  function durations(low, high, wanted) {
    const all = [];
    for (let k = -9; k < 2; k++) for (const m of [1, 2, 5]) if (m * 10 ** k < 60) all.push(m * 10 ** k);
    all.push(...[1, 2, 5, 10, 20].map((m) => 60 * m));
    for (let k = 0; k < 6; k++) all.push(...[1, 2, 5].map((m) => 3600 * m * 10 ** k));
    const inside = all.filter((x) => x >= low && x <= high);
    if (inside.length < 3) return ticks(low, high, wanted / 2).found;
    const every = Math.ceil(inside.length / wanted);
    return inside.filter((x, i) => i % every === 0);
  }

  // What accuracy is set against: the figure, where it is good (to the right or to the left), and its front.
  const VIEWS = [
    { name: "speed", heading: "Accuracy against speed", axis: "speed-up over the dense network →", rising: true, height: 0.5,
      value: (r) => r.speedup, low: (r) => r.low || r.speedup, high: (r) => r.high ?? r.speedup, front: (r) => r.front,
      dense: () => 1, span: [0.95, 1.1], ticks: ratios, label: (x) => `${+x.toPrecision(3)}×`,
      spoken: (r) => `${format.ratio(r.speedup)} as fast${r.front ? ", on the front" : ""}` },
    { name: "training", heading: "Accuracy against training", axis: "← whole training, the dense network's included", rising: false, height: 0.36,
      value: (r) => r.total_seconds || null, low: (r) => r.total_seconds, high: (r) => r.total_seconds, front: (r) => r.training_front,
      dense: (data) => data.dense.seconds || null, span: null, ticks: durations, label: duration,
      spoken: (r) => `trained in ${format.seconds(r.total_seconds)}${r.training_front ? ", on the front" : ""}` },
  ];

  function track(data, index, styles) {
    const timed = data.rows.some((r) => r.speedup !== null);
    const state = { hidden: new Set(), frontOnly: false, whole: false, sort: timed ? "speedup" : "total_seconds", down: timed, all: false };
    const title = element("h2", {}, data.workload);
    const [, fingerprint] = data.key.split("@");
    const about = fingerprint ? `${data.target}, machine ${fingerprint}` : data.target;
    const sub = element("p", { class: "sub" }, element("span", { class: "tag" }, data.kind), ` on ${about} · ${data.rows.length} networks, `
      + `${data.rows.filter((r) => r.front).length} on the front of speed, ${data.rows.filter((r) => r.training_front).length} on that of training`);
    const bar = element("div", { class: "bar" });
    const known = VIEWS.filter((view) => data.rows.some((r) => view.value(r) !== null));
    const pictures = (known.length ? known : VIEWS.slice(0, 1))
      .map((view) => ({ view, holder: element("div"), note: element("p", { class: "note" }), nodes: new Map(), lit: null }));
    const tableHolder = element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Table of ${data.workload} on ${data.key}` });
    const more = element("button", { class: "more", type: "button", onclick: () => { state.all = true; table(); } });
    const switches = element("div", { class: "bar switches" });
    const head = element("div", { class: "head" }, element("div", {}, title, sub), switches);
    const figures = pictures.map(({ view, holder, note }) => element("figure", {}, element("h3", {}, view.heading), holder, note));
    const section = element("section", { id: `track-${index}` }, head, bar, ...figures, tableHolder, more);
    const columns = COLUMNS.filter((c) => !c.optional || data.rows.some((r) => r[c.name] !== null));

    const seen = [...new Set(data.rows.map((r) => r.strategy))].sort();
    for (const strategy of seen) {
      bar.append(element("button", { class: "chip", type: "button", "aria-pressed": "true", title: "Show or hide", onclick: (event) => {
        const hide = !state.hidden.has(strategy);
        state.hidden[hide ? "add" : "delete"](strategy);
        event.currentTarget.setAttribute("aria-pressed", String(!hide));
        filter();
      } }, swatch(styles.get(strategy)), element("bdi", {}, strategy)));
    }
    const toggle = (label, name, then) => switches.append(element("button", { class: "chip switch", type: "button", "aria-pressed": "false", onclick: (event) => {
      state[name] = !state[name];
      event.currentTarget.setAttribute("aria-pressed", String(state[name]));
      then();
    } }, label));
    toggle("Front only", "frontOnly", () => filter());
    toggle("Whole range", "whole", () => pictures.forEach(chart));

    const visible = (r, front) => !state.hidden.has(r.strategy) && (!state.frontOnly || front(r));
    const onAny = (r) => r.front || r.training_front;

    function chart(picture) {
      const { view, holder, nodes } = picture;
      const width = Math.max(280, holder.clientWidth || 900);
      const narrow = width < 560;
      const height = Math.round(Math.min(920 * view.height, Math.max(300, width * view.height)));
      const box = { left: 44, right: width - 14, top: 26, bottom: height - 42 };
      const rows = data.rows.filter((r) => view.value(r) !== null);
      const frontRows = rows.filter(view.front).sort((a, b) => view.value(a) - view.value(b) || b.accuracy - a.accuracy);

      // Ten points below the dense network is where the ranking stops counting; what lost far more would press the rest
      // flat against the upper edge.
      const dense = data.dense;
      const near = rows.filter((r) => r.accuracy >= dense.accuracy - 0.1);
      const scope = state.whole || !near.length ? rows : near;
      let top = extreme(Math.max, dense.accuracy, scope.map((r) => r.accuracy));
      let bottom = extreme(Math.min, dense.accuracy, scope.map((r) => r.accuracy));
      const pad = Math.max(0.002, (top - bottom) * 0.07);
      top = Math.min(1.002, top + pad); bottom = Math.max(-0.002, bottom - pad);
      const denseValue = view.dense(data);
      const [least, most] = view.span || [denseValue ?? Infinity, denseValue ?? -Infinity];
      const largest = extreme(Math.max, most, scope.map(view.high));
      const smallest = extreme(Math.min, least, scope.map(view.low));
      const margin = Math.max(0.04, 0.04 * Math.log2(largest / smallest));
      const left = Math.log2(smallest) - margin, right = Math.log2(largest) + margin;
      const x = (s) => box.left + (Math.log2(s) - left) / (right - left) * (box.right - box.left);
      const y = (a) => box.bottom - (a - bottom) / (top - bottom) * (box.bottom - box.top);

      const clip = `clip-${view.name}-${index}`;
      const svg = drawn("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, height, role: "group",
        "aria-label": `${view.heading} of ${rows.length} networks; the table below holds the same figures` });
      svg.append(drawn("defs", {}, drawn("clipPath", { id: clip }, drawn("rect", { x: box.left, y: box.top - 8, width: box.right - box.left + 8, height: box.bottom - box.top + 8 }))));
      const scale = ticks(100 * bottom, 100 * top, 6);
      for (const value of scale.found) {
        svg.append(drawn("line", { class: "grid", x1: box.left, x2: box.right, y1: y(value / 100), y2: y(value / 100) }));
        svg.append(drawn("text", { x: box.left - 8, y: y(value / 100) + 4, "text-anchor": "end" }, value.toFixed(scale.digits)));
      }
      for (const value of view.ticks(2 ** left, 2 ** right, narrow ? 5 : 10)) {
        svg.append(drawn("line", { class: "grid", x1: x(value), x2: x(value), y1: box.top, y2: box.bottom }));
        svg.append(drawn("text", { x: x(value), y: box.bottom + 18, "text-anchor": "middle" }, view.label(value)));
      }
      svg.append(drawn("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
      svg.append(drawn("text", view.rising ? { x: box.right, y: height - 6, "text-anchor": "end" } : { x: box.left, y: height - 6 }, view.axis));
      svg.append(drawn("text", { x: 0, y: 12 }, "↑ accuracy, %"));

      const inside = drawn("g", { "clip-path": `url(#${clip})` });
      svg.append(inside);
      if (frontRows.length) {
        // From the end where nothing is given up: the front falls away from there.
        const falling = view.rising ? frontRows : [...frontRows].reverse();
        const start = view.rising ? box.left : box.right;
        let path = `M${start} ${y(falling[0].accuracy)}`;
        falling.forEach((r, i) => { path += `H${x(view.value(r))}V${i + 1 < falling.length ? y(falling[i + 1].accuracy) : box.bottom}`; });
        inside.append(drawn("path", { class: "under", d: `${path}H${start}Z` }), drawn("path", { class: "step", d: path }));
      }
      inside.append(drawn("line", { class: "dense", x1: box.left, x2: box.right, y1: y(dense.accuracy), y2: y(dense.accuracy) }));
      if (denseValue !== null) inside.append(drawn("line", { class: "dense", x1: x(denseValue), x2: x(denseValue), y1: box.top, y2: box.bottom }));
      inside.append(drawn("text", { x: box.right - 4, y: y(dense.accuracy) - 6, "text-anchor": "end" }, "dense network"));

      nodes.clear();
      const points = drawn("g");
      // Beaten networks first, so that the front lies above them.
      const shown = rows.filter((r) => r.accuracy >= bottom).sort((a, b) => view.front(a) - view.front(b) || view.value(a) - view.value(b));
      for (const row of shown) {
        const style = styles.get(row.strategy);
        const group = drawn("g", { class: `point k${style % COLOURS}${view.front(row) ? "" : " beaten"}${row.unstable ? " unstable" : ""}`,
          transform: `translate(${x(view.value(row)).toFixed(1)} ${y(row.accuracy).toFixed(1)})`, role: "img",
          "aria-label": `${row.strategy}: accuracy ${format.percent(row.accuracy)} percent, ${view.spoken(row)}` });
        if (view.rising && row.low !== null && (row.front || rows.length <= 60)) {
          const from = (x(Math.max(row.low, 2 ** left)) - x(row.speedup)).toFixed(1), to = (x(row.high) - x(row.speedup)).toFixed(1);
          group.append(drawn("path", { class: "whisker", d: `M${from} 0H${to}M${from} -3V3M${to} -3V3` }));
        }
        group.append(mark(style, view.front(row) ? 6 : rows.length > 1000 ? 3 : 4.5, false));
        if (rows.length <= 1000) group.append(drawn("circle", { class: "hit", r: 11 }));
        nodes.set(row, group);
        group.row = row;
        points.append(group);
      }
      inside.append(points);
      browse(picture, points, [...shown].sort((a, b) => view.value(a) - view.value(b) || a.accuracy - b.accuracy));
      holder.replaceChildren(svg);
      mask(picture);
    }

    // The scales do not depend on what is hidden, so hiding only masks: ten thousand networks stay quick.
    function mask({ view, nodes, note }) {
      for (const [row, node] of nodes) node.classList.toggle("off", !visible(row, view.front));
      const rows = data.rows.filter((r) => visible(r, view.front));
      const unknown = rows.filter((r) => view.value(r) === null).length;
      const low = rows.filter((r) => view.value(r) !== null && !nodes.has(r));
      const below = low.length;
      const notes = [];
      if (below) notes.push(`${below} ${below === 1 ? "network lies" : "networks lie"} below this range${low.some(view.front) ? ", some of the front among them" : ""}; “Whole range” shows them.`);
      if (unknown) notes.push(`${unknown} without a ${view.rising ? "speed-up" : "training"} ${unknown === 1 ? "stands" : "stand"} in the table only.`);
      if (view.rising) {
        if (data.rows.some((r) => r.unstable)) notes.push("Hollow marks: measured on a machine that was too noisy.");
        if (data.rows.some((r) => r.low !== null)) notes.push("Bars are 95 % intervals.");
      } else {
        notes.push("Seconds are those of the machine that trained.");
        if (!data.dense.seconds) notes.push("The dense network came from a checkpoint; its own training is not counted.");
      }
      note.textContent = notes.join(" ");
    }

    // One tab stop for the picture; arrow keys go from network to network.
    function browse({ view, nodes }, points, order) {
      if (!order.length) return;
      const shows = (r) => visible(r, view.front);
      const point = (row) => light(row, row && nodes.get(row));
      let current = order.find((r) => view.front(r) && shows(r)) || order[0];
      nodes.get(current).setAttribute("tabindex", "0");
      const rowOf = (event) => event.target.closest("g.point")?.row;
      points.addEventListener("pointerover", (event) => { const row = rowOf(event); if (row) point(row); });
      points.addEventListener("pointerout", () => point(null));
      points.addEventListener("click", (event) => { const row = rowOf(event); if (row) point(row); });
      points.addEventListener("focusin", (event) => { const row = rowOf(event); if (row) point(row); });
      points.addEventListener("focusout", () => point(null));
      points.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
        if (event.key === "Escape") point(null);
        if (!step) return;
        event.preventDefault();
        let at = order.indexOf(current) + step;
        while (order[at] && !shows(order[at])) at += step;
        const next = order[at];
        if (!next) return;
        nodes.get(current).removeAttribute("tabindex");
        current = next;
        nodes.get(current).setAttribute("tabindex", "0");
        nodes.get(current).focus();
      });
    }

    // A network chosen in one picture is lit in the others too; the tip stands beside `node`.
    function light(row, node) {
      for (const picture of pictures) {
        if (picture.lit) picture.lit.classList.remove("on");
        picture.lit = (row && picture.nodes.get(row)) || null;
        if (picture.lit) picture.lit.classList.add("on");
      }
      tip(row, node);
    }

    function table() {
      const rows = data.rows.filter((r) => visible(r, onAny));
      const value = (r) => r[state.sort];
      rows.sort((a, b) => {
        const u = value(a), v = value(b);
        if (u === null || v === null) return (u === null) - (v === null);
        const order = typeof u === "string" ? u.localeCompare(v) : u - v;
        return state.down ? -order : order;
      });
      const names = element("tr", {}, ...columns.map((c) => element("th", { class: c.kind || null, scope: "col",
        "aria-sort": state.sort === c.name ? (state.down ? "descending" : "ascending") : null }, element("button", { type: "button", onclick: () => {
        state.down = state.sort === c.name ? !state.down : Boolean(c.down);
        state.sort = c.name;
        table();
        tableHolder.querySelectorAll("th button")[columns.indexOf(c)].focus();
      } }, c.label))));
      const body = element("tbody");
      for (const row of state.all ? rows : rows.slice(0, FIRST_ROWS)) {
        body.append(element("tr", { class: row.front ? "front" : null }, ...columns.map((c) => c.name === "strategy"
          ? element("td", { class: c.kind }, element("span", {}, swatch(styles.get(row.strategy), row.unstable), element("bdi", {}, row.strategy)))
          : element("td", { class: c.kind || null, title: c.name === "id" ? `study ${row.study}, trial ${row.trial}, entry ${row.id}` : null }, c.show(row)))));
      }
      tableHolder.replaceChildren(element("table", {}, element("caption", {}, `${data.workload} on ${data.key}`), element("thead", {}, names), body));
      more.hidden = state.all || rows.length <= FIRST_ROWS;
      more.textContent = `Show all ${rows.length} rows`;
    }

    function filter() { pictures.forEach(mask); table(); }
    return { section, start: () => {
      pictures.forEach(chart);
      table();
      const { holder } = pictures[0];
      let width = holder.clientWidth;
      new ResizeObserver(() => { if (holder.clientWidth !== width) { width = holder.clientWidth; pictures.forEach(chart); } }).observe(holder);
    } };
  }

  // How much faster than the dense network's a training epoch is, where it was measured.
  function faster(row) {
    const found = ["fp32", "bf16"].filter((p) => row[`epoch_${p}`] && row[`dense_epoch_${p}`])
      .map((p) => `${format.ratio(row[`dense_epoch_${p}`] / row[`epoch_${p}`])} in ${p}`);
    return found.join(", ") || absent;
  }

  function tip(row, node) {
    const box = document.getElementById("tip");
    box.hidden = !row;
    if (!row) return;
    const share = (part, whole) => (whole ? ` · ${(100 * part / whole).toFixed(0)} %` : "");
    const lines = [
      ["accuracy", `${format.percent(row.accuracy)} % (${format.points(row.drop)})`],
      ["speed-up", format.ratio(row.speedup) + (row.low === null ? "" : ` (${format.interval(row)})`)],
      ["latency", format.seconds(row.latency)],
      ["energy", format.joules(row.energy)],
      ["parameters", format.count(row.parameters) + share(row.parameters, row.dense_parameters)],
      ["MACs", format.count(row.macs) + share(row.macs, row.dense_macs)],
      ["size", format.bytes(row.bytes)],
      ["training", `${format.seconds(row.total_seconds)}, ${+row.total_epochs.toFixed(1)} epochs`],
      ["of it this recipe", `${format.seconds(row.seconds)}, ${+row.epochs.toFixed(1)} epochs`],
      ["a training epoch", faster(row)],
      ["entry", row.id.slice(0, 8)],
    ].filter(([, value]) => value !== absent);
    if (row.unstable) lines.push(["measured", "machine unstable"]);
    box.replaceChildren(element("strong", {}, element("bdi", {}, row.strategy)),
      element("dl", {}, ...lines.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])));
    const at = node.querySelector(".shape").getBoundingClientRect(), size = box.getBoundingClientRect();
    const room = document.documentElement.clientWidth;
    const x = at.right + 12 + size.width < room ? at.right + 12 : Math.max(8, at.left - 12 - size.width);
    const y = Math.max(8, Math.min(at.top - 12, document.documentElement.clientHeight - size.height - 8));
    box.style.left = `${x + scrollX}px`;
    box.style.top = `${y + scrollY}px`;
  }

  const board = JSON.parse(document.getElementById("data").textContent);
  const names = [...new Set(board.tracks.flatMap((t) => t.rows.map((r) => r.strategy)))].sort();
  const styles = new Map(names.map((name, i) => [name, i]));
  const main = document.getElementById("board");
  const drawnTracks = board.tracks.map((data, i) => track(data, i, styles));
  main.replaceChildren(...drawnTracks.map((t) => t.section));
  drawnTracks.forEach((t) => t.start());
  if (!board.tracks.length) main.append(element("p", {}, "There are no entries yet."));
  if (board.tracks.length > 1) {
    document.getElementById("tracks").append(...board.tracks.map((t, i) => element("a", { href: `#track-${i}` }, `${t.workload} · ${t.key}`)));
  }
  document.getElementById("about").textContent = `Written ${board.written}. Results of different machines, and measured and modelled ones, `
    + "are never ranked together. Speed-up is the latency of the dense network divided by that of the candidate.";
})();
