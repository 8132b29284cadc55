// How a network looks in pictures and lists: colour and outline say the method, the filling says the number format.

const marks = (() => {
  const COLOURS = 10;
  // Outlines about one unit around the origin, alike in area. Nine of them and ten colours: 90 methods differ.
  const OUTLINES = [
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
  const DENSE = { colour: "kd", outline: 0 };
  let styles = new Map(),
    families = [],
    kinds = [],
    sheets = new Map();

  // The methods and formats of a track; the dense network always looks the same.
  function learn(rows) {
    const names = [...new Set(rows.map((row) => row.method))].filter((method) => method !== "dense").sort();
    // Controls of methods come last: they stand among finals only, where the methods are to look as among searches.
    const methods = [...names.filter((name) => !name.includes("@")), ...names.filter((name) => name.includes("@"))];
    styles = new Map(methods.map((method, i) => [method, { colour: `k${i % COLOURS}`, outline: i % OUTLINES.length }]));
    families = [...new Set(rows.map((row) => row.family))].sort();
    const numbers = new Map();
    kinds = [];
    for (const row of rows) {
      const key = JSON.stringify([row.method, row.family, row.unstable]);
      if (!numbers.has(key)) numbers.set(key, kinds.push(row) - 1);
      row.kind = numbers.get(key);
    }
    sheets = new Map();
  }

  const style = (method) => styles.get(method) || DENSE;
  const filling = (family) =>
    families.length < 2 || family === "int" ? "solid" : family === "fp32" ? "hollow" : "dotted";

  // For text and tables, in SVG.
  function swatch(method, family) {
    const { colour, outline } = style(method);
    const kind = family ? filling(family) : "solid";
    return drawn(
      "svg",
      { viewBox: "-8 -8 16 16", class: `swatch ${colour} ${kind}`, "aria-hidden": "true" },
      drawn("path", { d: OUTLINES[outline], transform: "scale(5)", "vector-effect": "non-scaling-stroke" }),
      kind === "dotted" && drawn("circle", { r: 1.8, class: "dot" }),
    );
  }

  const strategy = (row) => element("span", { class: "strategy" }, swatch(row.method, row.family), named(row.strategy));

  // Thousands of points are stamped from one drawing of each kind: the drawing of a row at a size in CSS pixels, of
  // which each is `scale` device pixels.
  function stamps(size, scale) {
    const key = `${size} ${scale}`;
    if (!sheets.has(key)) sheets.set(key, []);
    const sheet = sheets.get(key);
    return (row) => (sheet[row.kind] ??= stamped(kinds[row.kind], size, scale));
  }

  function stamped({ method, family, unstable }, size, scale) {
    const { colour, outline } = style(method),
      kind = filling(family);
    const ink = resolved(colour),
      card = resolved("card");
    const canvas = element("canvas", {});
    canvas.width = canvas.height = 2 * Math.ceil((size * 1.5 + (unstable ? 4 : 1)) * scale);
    const pen = canvas.getContext("2d");
    pen.translate(canvas.width / 2, canvas.height / 2);
    pen.scale(scale, scale);
    const shape = new Path2D();
    shape.addPath(new Path2D(OUTLINES[outline]), new DOMMatrix().scale(size));
    pen.lineJoin = "round";
    if (kind === "hollow") {
      pen.fillStyle = card;
      pen.fill(shape);
      pen.strokeStyle = ink;
      pen.lineWidth = Math.max(1.25, size / 3.2);
      pen.stroke(shape);
    } else {
      pen.strokeStyle = card;
      pen.lineWidth = 1.5;
      pen.stroke(shape);
      pen.fillStyle = ink;
      pen.fill(shape);
    }
    if (kind === "dotted") {
      pen.fillStyle = card;
      pen.beginPath();
      pen.arc(0, 0, size * 0.38, 0, 7);
      pen.fill();
    }
    if (unstable) {
      pen.strokeStyle = ink;
      pen.lineWidth = 1;
      pen.setLineDash([2, 2]);
      pen.beginPath();
      pen.arc(0, 0, size * 1.5 + 2, 0, 7);
      pen.stroke();
    }
    return canvas;
  }

  // Colours as the style sheet has them now, light or dark.
  const colours = new Map();
  function resolved(colour) {
    if (!colours.has(colour)) {
      const probe = element("i", { class: `probe ${colour}` });
      document.body.append(probe);
      colours.set(colour, getComputedStyle(probe).color);
      probe.remove();
    }
    return colours.get(colour);
  }

  function forget() {
    colours.clear();
    sheets = new Map();
  }

  return {
    learn,
    swatch,
    strategy,
    stamps,
    style,
    resolved,
    forget,
    get families() {
      return families;
    },
  };
})();
