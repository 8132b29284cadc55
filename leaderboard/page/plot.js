// A picture of accuracy against another figure. Scales and lines are SVG; the points, up to ten thousand of them, are a
// canvas between two layers of it. One point at a time is an element: it can be focused, and walked with arrow keys.

class Plot {
  static #made = 0;
  #name = ++Plot.#made;
  #holder;
  #axis;
  #told;
  #layers;
  #model = null;
  #place = null;
  #at = null;
  #cursor = null;
  #echo = null;
  #full = {};
  #dragged = false;

  // `open(row)` is told of a point that is chosen, `zoomed(range)` of a range that is drawn (null: the whole),
  // `pointed(row)` of one that is pointed at (null: none any more).
  constructor(axis, open, zoomed = () => {}, pointed = () => {}) {
    this.#axis = axis;
    this.#told = { open, zoomed, pointed };
    this.#holder = element("div", { class: "plot" });
    this.#layers = {
      back: drawn("svg", { "aria-hidden": "true" }),
      points: element("canvas", { "aria-hidden": "true" }),
      fore: drawn("svg", {}),
    };
    this.#holder.append(...Object.values(this.#layers));
    this.#listenToPointer();
    this.#listenToKeys();
    new ResizeObserver(() => {
      if (this.#holder.clientWidth !== this.#place?.width) this.draw();
    }).observe(this.#holder);
  }

  get node() {
    return this.#holder;
  }

  // {data, shown, front, all, limits: {drop, latency}, whole, zoom, height}: the track, its rows that pass the filters,
  // their front and that of all, what is drawn of the plane, and the height in pixels by the width.
  show(model) {
    this.#model = model;
    this.draw();
  }

  draw() {
    if (!this.#model || !this.#holder.clientWidth) return;
    const axis = this.#axis,
      { data, shown, front } = this.#model;
    const width = this.#holder.clientWidth,
      height = this.#model.height(width);
    const box = { left: 46, right: width - 16, top: 28, bottom: height - 44 };
    const range = this.#range();
    const x = (value) =>
      box.left + ((Math.log2(value) - range.left) / (range.right - range.left)) * (box.right - box.left);
    const y = (accuracy) =>
      box.bottom - ((accuracy - range.bottom) / (range.top - range.bottom)) * (box.bottom - box.top);
    const least = 2 ** range.left,
      most = 2 ** range.right;
    const inside = (r) =>
      r.accuracy >= range.bottom && r.accuracy <= range.top && axis.value(r) >= least && axis.value(r) <= most;
    const known = shown.filter((r) => axis.value(r) !== null);
    const rows = known.filter(inside),
      best = front.filter(inside);
    this.#place = { width, height, box, range, x, y, rows, best, front: new Set(front), known: known.length };

    for (const svg of [this.#layers.back, this.#layers.fore]) {
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      svg.setAttribute("height", height);
    }
    this.#holder.style.height = `${height}px`;
    this.#drawScales();
    this.#drawPoints();
    this.#drawAbove();
    this.#holder.dataset.drawn = rows.length;
  }

  // How many of the rows lie outside the range that is drawn, and whether one of the front does.
  get outside() {
    const { rows, known, best, front } = this.#place || { rows: [], known: 0, best: [], front: new Set() };
    return { count: known - rows.length, front: best.length < front.size };
  }

  // Of the whole track, so that the picture stands still while filters change.
  #range() {
    const { data, whole, zoom } = this.#model;
    if (zoom) return zoom;
    if (this.#full.data !== data || this.#full.whole !== whole)
      this.#full = { data, whole, range: this.#fullRange(data, whole) };
    return this.#full.range;
  }

  #fullRange(data, whole) {
    const axis = this.#axis;
    const dense = data.dense.accuracy;
    const rows = data.rows.filter((r) => axis.value(r) !== null);
    // Ten points below the dense network is where the ranking stops counting; what lost far more would press the rest
    // flat against the upper edge.
    const near = rows.filter((r) => r.accuracy >= dense - 0.1);
    const scope = whole || !near.length ? rows : near;
    const accuracies = [dense, ...scope.map((r) => r.accuracy)];
    let top = extreme(Math.max, accuracies),
      bottom = extreme(Math.min, accuracies);
    const pad = Math.max(0.002, (top - bottom) * 0.08);
    top = Math.min(1.002, top + pad);
    bottom = Math.max(-0.002, bottom - pad);
    const denseValue = axis.dense(data);
    const values = [
      ...(axis.span || (denseValue ? [denseValue] : [])),
      ...scope.flatMap((r) => [axis.value(r), axis.low(r) || axis.value(r), axis.high(r) ?? axis.value(r)]),
    ];
    const largest = values.length ? extreme(Math.max, values) : 2,
      smallest = values.length ? extreme(Math.min, values) : 1;
    const margin = Math.max(0.04, 0.04 * Math.log2(largest / smallest));
    return { left: Math.log2(smallest) - margin, right: Math.log2(largest) + margin, bottom, top };
  }

  #drawScales() {
    const { width, height, box, range, x, y } = this.#place;
    const axis = this.#axis,
      { data, limits, front, all } = this.#model;
    const svg = this.#layers.back;
    svg.replaceChildren();
    const clip = `clip-${this.#name}`;
    svg.append(
      drawn(
        "defs",
        {},
        drawn(
          "clipPath",
          { id: clip },
          drawn("rect", {
            x: box.left,
            y: box.top - 8,
            width: box.right - box.left + 8,
            height: box.bottom - box.top + 8,
          }),
        ),
      ),
    );
    const scale = axes.steps(100 * range.bottom, 100 * range.top, Math.max(3, (box.bottom - box.top) / 60));
    for (const value of scale.found) {
      svg.append(drawn("line", { class: "grid", x1: box.left, x2: box.right, y1: y(value / 100), y2: y(value / 100) }));
      svg.append(
        drawn("text", { x: box.left - 8, y: y(value / 100) + 4, "text-anchor": "end" }, value.toFixed(scale.digits)),
      );
    }
    for (const value of axis.ticks(
      2 ** range.left,
      2 ** range.right,
      Math.max(3, Math.min(10, (box.right - box.left) / 70)),
    )) {
      svg.append(drawn("line", { class: "grid", x1: x(value), x2: x(value), y1: box.top, y2: box.bottom }));
      svg.append(drawn("text", { x: x(value), y: box.bottom + 18, "text-anchor": "middle" }, axis.label(value)));
    }
    svg.append(drawn("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
    svg.append(
      drawn(
        "text",
        axis.rising ? { x: box.right, y: height - 6, "text-anchor": "end" } : { x: box.left, y: height - 6 },
        axis.caption,
      ),
    );
    svg.append(drawn("text", { x: 0, y: 12 }, `↑ ${data.metric}, %`));

    const inside = drawn("g", { "clip-path": `url(#${clip})` });
    svg.append(inside);
    if (front.length) {
      const shape = this.#steps(front);
      inside.append(drawn("path", { class: "under", d: shape.area }), drawn("path", { class: "step", d: shape.line }));
    }
    if (all.some((r, i) => r !== front[i])) {
      inside.append(drawn("path", { class: "step others", d: this.#steps(all).line }));
    }
    const shade = (x1, y1, x2, y2) =>
      x2 > x1 &&
      y2 > y1 &&
      inside.append(drawn("rect", { class: "beyond", x: x1, y: y1, width: x2 - x1, height: y2 - y1 }));
    if (limits.drop !== null) {
      shade(box.left, Math.max(box.top - 8, y(data.dense.accuracy - limits.drop / 100)), box.right, box.bottom);
    }
    if (limits.latency && axis === axes.speed && data.dense.latency) {
      shade(box.left, box.top - 8, Math.min(box.right, x(data.dense.latency / limits.latency)), box.bottom);
    }
    const denseValue = axis.dense(data),
      level = y(data.dense.accuracy);
    inside.append(drawn("line", { class: "dense", x1: box.left, x2: box.right, y1: level, y2: level }));
    if (denseValue)
      inside.append(
        drawn("line", { class: "dense", x1: x(denseValue), x2: x(denseValue), y1: box.top, y2: box.bottom }),
      );
  }

  // The step line of a front, and the area below it.
  #steps(front) {
    const { box, x, y } = this.#place,
      axis = this.#axis;
    // From the end where nothing is given up: the front falls away from there.
    const falling = [...front].reverse();
    const start = axis.rising ? box.left : box.right;
    let line = `M${start} ${y(falling[0].accuracy)}`;
    falling.forEach((r, i) => {
      line += `H${x(axis.value(r))}V${i + 1 < falling.length ? y(falling[i + 1].accuracy) : box.bottom}`;
    });
    return { line, area: `${line}H${start}Z` };
  }

  #drawPoints() {
    const { width, height, box, x, y, rows, best, front } = this.#place,
      axis = this.#axis;
    const canvas = this.#layers.points;
    // Twice as fine at least, so that a printed page is sharp too; thousands of points are no sharper for it.
    const many = rows.length;
    const scale = Math.max(many > 2000 ? 1 : 2, devicePixelRatio || 1);
    canvas.width = width * scale;
    canvas.height = height * scale;
    const pen = canvas.getContext("2d");
    pen.beginPath();
    pen.rect(
      box.left * scale,
      (box.top - 10) * scale,
      (box.right - box.left + 16) * scale,
      (box.bottom - box.top + 10) * scale,
    );
    pen.clip();
    const beaten = rows.filter((r) => !front.has(r));
    const size = many > 3000 ? 2.5 : many > 600 ? 3.25 : 4.25;
    const put = (stamp, row) => {
      const left = x(axis.value(row)) * scale - stamp.width / 2,
        top = y(row.accuracy) * scale - stamp.height / 2;
      pen.drawImage(stamp, Math.round(left), Math.round(top));
    };
    const whisker = (row, ink) => {
      if (axis.low(row) === null || axis.high(row) === null) return;
      const [from, to, at] = [x(Math.max(axis.low(row), 1e-9)), x(axis.high(row)), y(row.accuracy)].map(
        (v) => v * scale,
      );
      const cap = 3 * scale;
      pen.strokeStyle = ink;
      pen.lineWidth = 1.25 * scale;
      pen.beginPath();
      for (const [a, b, c, d] of [
        [from, at, to, at],
        [from, at - cap, from, at + cap],
        [to, at - cap, to, at + cap],
      ]) {
        pen.moveTo(a, b);
        pen.lineTo(c, d);
      }
      pen.stroke();
    };
    pen.globalAlpha = many > 3000 ? 0.45 : 0.6;
    if (many <= 60) beaten.forEach((row) => whisker(row, marks.resolved(marks.style(row.method).colour)));
    const small = marks.stamps(size, scale),
      large = marks.stamps(many > 3000 ? 4.5 : 5.75, scale);
    for (const row of beaten) put(small(row), row);
    pen.globalAlpha = 0.8;
    best.forEach((row) => whisker(row, marks.resolved(marks.style(row.method).colour)));
    pen.globalAlpha = 1;
    for (const row of best) put(large(row), row);
  }

  #drawAbove() {
    const { box, rows } = this.#place;
    const svg = this.#layers.fore;
    const focused = this.#cursor && this.#cursor === document.activeElement;
    svg.setAttribute("role", "group");
    svg.setAttribute(
      "aria-label",
      `${this.#axis.title}: ${words.many(rows.length, "network", "networks")}. Left and right go from one to the next, ` +
        "up and down along the front, Enter opens one. The table below holds the same figures.",
    );
    this.#echo = drawn("circle", { class: "echo", r: 9, visibility: "hidden" });
    svg.replaceChildren(this.#labels(), this.#echo);
    const level = this.#place.y(this.#model.data.dense.accuracy);
    if (level > box.top - 8 && level < box.bottom)
      svg.append(drawn("text", { x: box.left + 4, y: level - 6, class: "halo" }, "dense network"));
    if (rows.length) {
      const start = rows.includes(this.#at) ? this.#at : this.#place.best[0] || rows[0];
      this.#cursor = drawn("g", { class: "cursor", tabindex: "0", role: "button" }, drawn("circle", { r: 9 }));
      svg.append(this.#cursor);
      this.#put(start);
      if (focused) this.#cursor.focus();
    } else {
      this.#cursor = null;
      svg.append(
        drawn(
          "text",
          { x: (box.left + box.right) / 2, y: (box.top + box.bottom) / 2, "text-anchor": "middle", class: "empty" },
          this.#place.known ? "None of those shown lies in this range" : "No network to draw",
        ),
      );
    }
  }

  // Names beside points of the front, one for each strategy, where there is room.
  #labels() {
    const group = drawn("g", { class: "labels", "aria-hidden": "true" });
    const { width, box, x, y, best } = this.#place,
      axis = this.#axis;
    if (width < 560) return group;
    const taken = [];
    const named = new Set();
    for (const row of best) {
      if (named.has(row.strategy) || named.size >= 8 || row.method === "dense") continue;
      const text = row.strategy.length > 24 ? `${row.strategy.slice(0, 23)}…` : row.strategy;
      const [cx, cy, length] = [x(axis.value(row)), y(row.accuracy), 6.6 * text.length];
      const right = axis.rising;
      const place = {
        x1: right ? cx + 10 : cx - 10 - length,
        x2: right ? cx + 10 + length : cx - 10,
        y1: cy - 17,
        y2: cy - 3,
      };
      const free =
        place.x1 > box.left &&
        place.x2 < box.right + 12 &&
        place.y1 > box.top - 14 &&
        taken.every(
          (other) => place.x2 < other.x1 || place.x1 > other.x2 || place.y2 < other.y1 || place.y1 > other.y2,
        ) &&
        best.every(
          (r) =>
            r === row ||
            x(axis.value(r)) < place.x1 - 6 ||
            x(axis.value(r)) > place.x2 + 6 ||
            y(r.accuracy) < place.y1 - 6 ||
            y(r.accuracy) > place.y2 + 6,
        );
      if (!free) continue;
      named.add(row.strategy);
      taken.push(place);
      group.append(
        drawn(
          "text",
          {
            x: right ? cx + 10 : cx - 10,
            y: cy - 6,
            "text-anchor": right ? "start" : "end",
            class: marks.style(row.method).colour,
          },
          text,
        ),
      );
    }
    return group;
  }

  #order() {
    const axis = this.#axis;
    return [...this.#place.rows].sort((a, b) => axis.value(a) - axis.value(b) || a.accuracy - b.accuracy);
  }

  // Moves the one element that stands for a point.
  #put(row) {
    const { x, y, front } = this.#place,
      axis = this.#axis;
    this.#at = row;
    this.#cursor.setAttribute("transform", `translate(${x(axis.value(row)).toFixed(1)} ${y(row.accuracy).toFixed(1)})`);
    this.#cursor.setAttribute(
      "aria-label",
      `${row.strategy}: ${words.percent(row.accuracy)} percent, ${axis.words(row)}` +
        `${front.has(row) ? ", on the front" : ""}, entry ${words.short(row.id)}`,
    );
  }

  #nearest(event) {
    if (!this.#place) return null;
    const { x, y, rows, front } = this.#place,
      axis = this.#axis;
    const frame = this.#holder.getBoundingClientRect();
    const px = event.clientX - frame.left,
      py = event.clientY - frame.top;
    const reach = event.pointerType === "touch" ? 28 : 16;
    let best = null,
      least = reach * reach;
    for (const row of rows) {
      // The front lies above the others, and is what one points at.
      const distance = ((x(axis.value(row)) - px) ** 2 + (y(row.accuracy) - py) ** 2) * (front.has(row) ? 0.6 : 1);
      if (distance < least) [best, least] = [row, distance];
    }
    return best;
  }

  // Rings a network that is pointed at elsewhere, where it is drawn here too.
  echo(row) {
    if (!this.#echo) return;
    const there = row && this.#place.rows.includes(row);
    this.#echo.setAttribute("visibility", there ? "visible" : "hidden");
    if (!there) return;
    this.#echo.setAttribute("cx", this.#place.x(this.#axis.value(row)));
    this.#echo.setAttribute("cy", this.#place.y(row.accuracy));
  }

  // A point that is pointed at or focused: ringed, with its figures beside it.
  #light(row) {
    this.#holder.classList.toggle("pointing", Boolean(row));
    this.#told.pointed(row);
    if (!row || !this.#cursor) return tip.hide();
    this.#put(row);
    tip.show(row, this.#cursor.querySelector("circle"));
  }

  #listenToPointer() {
    const fore = this.#layers.fore;
    let from = null,
      band = null;
    const spot = (event) => {
      const frame = this.#holder.getBoundingClientRect(),
        { box } = this.#place;
      return {
        x: Math.min(box.right, Math.max(box.left, event.clientX - frame.left)),
        y: Math.min(box.bottom, Math.max(box.top - 8, event.clientY - frame.top)),
      };
    };
    fore.addEventListener("pointermove", (event) => {
      if (!from) return this.#light(this.#nearest(event));
      const to = spot(event);
      if (!band && Math.hypot(to.x - from.x, to.y - from.y) < 8) return;
      band ||= fore.appendChild(drawn("rect", { class: "band" }));
      for (const [key, value] of Object.entries({
        x: Math.min(from.x, to.x),
        y: Math.min(from.y, to.y),
        width: Math.abs(to.x - from.x),
        height: Math.abs(to.y - from.y),
      }))
        band.setAttribute(key, value);
      this.#light(null);
    });
    fore.addEventListener("pointerleave", () => {
      if (document.activeElement !== this.#cursor) this.#light(null);
    });
    fore.addEventListener("pointerdown", (event) => {
      if (event.pointerType !== "mouse" || event.button || !this.#place) return;
      from = spot(event);
      fore.setPointerCapture(event.pointerId);
    });
    fore.addEventListener("pointerup", (event) => {
      const drag = band && { from, to: spot(event) };
      band?.remove();
      from = band = null;
      if (!drag) return;
      this.#dragged = true;
      const { box, range } = this.#place;
      const across = (px) => range.left + ((px - box.left) / (box.right - box.left)) * (range.right - range.left);
      const up = (py) => range.bottom + ((box.bottom - py) / (box.bottom - box.top)) * (range.top - range.bottom);
      const [left, right] = [drag.from.x, drag.to.x].sort((a, b) => a - b).map(across);
      const [top, bottom] = [drag.from.y, drag.to.y].sort((a, b) => a - b).map(up);
      if (right - left > 1e-6 && top - bottom > 1e-6) this.#told.zoomed({ left, right, bottom, top });
    });
    fore.addEventListener("click", (event) => {
      if (this.#dragged) return void (this.#dragged = false);
      const row = this.#nearest(event);
      if (row) this.#told.open(row);
    });
    fore.addEventListener("dblclick", (event) => {
      if (!this.#nearest(event)) this.#told.zoomed(null);
    });
  }

  #listenToKeys() {
    const fore = this.#layers.fore;
    fore.addEventListener("focusin", () => this.#light(this.#at));
    fore.addEventListener("focusout", () => this.#light(null));
    fore.addEventListener("keydown", (event) => {
      const order = this.#order();
      if (event.key === "Escape") return this.#light(null);
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        return this.#told.open(this.#at);
      }
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowUp: 1, ArrowDown: -1 }[event.key];
      const along = event.key === "ArrowUp" || event.key === "ArrowDown";
      let at = order.indexOf(this.#at) + (step || 0);
      while (along && order[at] && !this.#place.front.has(order[at])) at += step;
      if (event.key === "Home") at = 0;
      else if (event.key === "End") at = order.length - 1;
      else if (!step) return;
      event.preventDefault();
      if (order[at]) this.#light(order[at]);
    });
  }
}

const extreme = (choose, values) => values.reduce((best, value) => choose(best, value));

// The figures of the point that is pointed at, beside it; spoken by a screen reader too.
const tip = (() => {
  const box = byId("tip");
  function show(row, node) {
    const lines = [
      ["accuracy", `${words.percent(row.accuracy)}\u00a0% (${words.points(row.drop)})`],
      [
        "speed-up",
        row.speedup === null
          ? ABSENT
          : words.ratio(row.speedup) + (row.low === null ? "" : ` (${words.interval(row.low, row.high)})`),
      ],
      ["latency", words.seconds(row.latency)],
      ["energy", words.joules(row.energy)],
      ["parameters", `${words.count(row.parameters)}, ${words.share(row.parameters, row.dense_parameters)}`],
      ["training", words.seconds(row.total_seconds)],
      ["measured", row.unstable ? "on a noisy machine" : ABSENT],
    ].filter(([, value]) => value !== ABSENT);
    box.replaceChildren(
      marks.strategy(row),
      element("dl", {}, ...lines.flatMap(([label, value]) => [element("dt", {}, label), element("dd", {}, value)])),
    );
    box.hidden = false;
    const at = node.getBoundingClientRect(),
      size = box.getBoundingClientRect();
    const room = document.documentElement.clientWidth;
    const x = at.right + 10 + size.width < room ? at.right + 10 : Math.max(8, at.left - 10 - size.width);
    const y = Math.max(8, Math.min(at.top - 12, document.documentElement.clientHeight - size.height - 8));
    box.style.left = `${x + scrollX}px`;
    box.style.top = `${y + scrollY}px`;
  }
  return {
    show,
    hide: () => {
      box.hidden = true;
    },
  };
})();
