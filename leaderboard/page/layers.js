// The picture of a plan: one line a layer, in the network's order. The bar is as wide as what is left of the layer.

const layers = (() => {
  const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
  const own = (object, key) => (isObject(object) && Object.hasOwn(object, key) ? object[key] : undefined);
  const fraction = (value) => (typeof value === "number" && value >= 0 && value <= 1 ? value : null);
  const text = (value) => (typeof value === "string" ? value : null);

  // Bits of a number format by its name (int4, mf6, e4m3, fp32, bf16); null where the name does not say.
  function bits(format) {
    const minifloat = /^e(\d{1,2})m(\d{1,2})$/.exec(format || "");
    if (minifloat) return 1 + Number(minifloat[1]) + Number(minifloat[2]);
    const other = /^(?:u?int|mf|fp|bf|tf|float|bfloat)(\d{1,2})\b/.exec(format || "");
    return other ? Number(other[1]) : null;
  }

  function read(entry, key) {
    const cost =
      entry.costs.find((one) => one.key === key && Object.keys(one.executed).length) ||
      entry.costs.find((one) => Object.keys(one.executed).length);
    const executed = cost ? cost.executed : {};
    return entry.layers?.length ? recorded(entry.layers, executed) : planned(entry.plan, executed);
  }

  // What became of every layer, as entries tell it since schema 4.
  function recorded(rows, executed) {
    return rows.map((row) => {
      if (row.channels === 0) return { layer: row.name, dropped: true };
      const runs = own(executed, row.name);
      return {
        layer: row.name,
        keep: row.dense_channels ? Math.min(1, row.channels / row.dense_channels) : null,
        part: Boolean(row.part_of),
        channels: row.channels,
        sparsity: row.density < 1 ? 1 - row.density : null,
        rank: null,
        weights: row.weights,
        activations: row.activations,
        runs: runs && runs[0] !== row.weights ? runs[0] : null,
      };
    });
  }

  // What a plan does, in older entries. Plans are the strategies' own: what is not understood is left to the plan as data.
  function planned(plan, executed) {
    const channels = isObject(plan.channels) ? plan.channels : {};
    const settled = isObject(plan.layers) ? plan.layers : {};
    const dropped = Array.isArray(plan.dropped) ? plan.dropped.filter((one) => typeof one === "string") : [];
    // A factored layer runs as several, named after it.
    const whole = (layer) =>
      Object.hasOwn(settled, layer) || Object.hasOwn(channels, layer)
        ? layer
        : (Object.keys(settled)
            .filter((one) => layer.startsWith(`${one}.`))
            .sort((a, b) => b.length - a.length)[0] ?? layer);
    const names = new Set([...Object.keys(executed).map(whole), ...Object.keys(settled), ...Object.keys(channels)]);
    // A plan that cuts no channels leaves every layer its width.
    const uncut = Object.keys(channels).length ? null : 1;
    const lines = [...names].map((layer) => {
      const settings = own(settled, layer);
      const runs = Object.entries(executed).find(([one]) => whole(one) === layer)?.[1];
      const format = text(own(settings, "weight_format")),
        activation = text(own(settings, "activation_format"));
      return {
        layer,
        keep: fraction(own(channels, layer)) ?? uncut,
        sparsity: fraction(own(settings, "sparsity")),
        rank: Number.isInteger(own(settings, "rank")) ? settings.rank : null,
        weights: format ?? (runs ? runs[0] : null),
        activations: activation ?? (runs ? runs[1] : null),
        runs: runs && format && runs[0] !== format ? runs[0] : null,
      };
    });
    return [...lines, ...dropped.map((layer) => ({ layer, dropped: true }))];
  }

  const shade = (format) => {
    const n = bits(format);
    return n === null
      ? "b-unknown"
      : n >= 32
        ? "b32"
        : n >= 16
          ? "b16"
          : n >= 8
            ? "b8"
            : n >= 6
              ? "b6"
              : n >= 4
                ? "b4"
                : "b2";
  };

  // The bar of one layer, growing to the right, or to the left beside another network. Its area is what is left: as
  // wide as the channels, and filled as high as the weights that are not zero.
  function bar(line, mirrored) {
    const svg = drawn("svg", {
      viewBox: "0 0 100 10",
      preserveAspectRatio: "none",
      class: "bar",
      "aria-hidden": "true",
    });
    const put = (kind, width, height) =>
      svg.append(drawn("rect", { class: kind, x: mirrored ? 100 - width : 0, width, y: 10 - height, height }));
    if (!line) return svg;
    if (line.dropped) {
      svg.append(drawn("line", { class: "gone", x1: 0, x2: 100, y1: 5, y2: 5 }));
      return svg;
    }
    const width = 100 * (line.keep ?? 1),
      kind = `kept ${line.keep === null ? "follows" : ""} ${shade(line.weights)}`;
    put("room", 100, 10);
    if (line.sparsity) put(`${kind} zeros`, width, 10);
    put(kind, width, 10 * (1 - (line.sparsity || 0)));
    return svg;
  }

  function notes(line) {
    if (!line) return ["not there"];
    if (line.dropped) return ["dropped"];
    return [
      line.channels && `${line.channels}\u00a0channels`,
      line.weights &&
        (line.activations && line.activations !== line.weights
          ? `${line.weights} × ${line.activations}`
          : line.weights),
      line.runs && `runs as ${line.runs}`,
      line.rank !== null && `rank ${line.rank}`,
      line.sparsity && `${+(100 * line.sparsity).toPrecision(3)}\u00a0% zeros`,
    ].filter(Boolean);
  }

  const kept = (line) =>
    !line || line.dropped || line.keep === null ? "" : `${+(100 * line.keep).toPrecision(3)}\u00a0%`;

  function legend(lines) {
    const known = lines.flat().filter((line) => line && !line.dropped);
    const formats = new Map();
    for (const { weights } of known)
      if (weights) formats.set(shade(weights), (formats.get(shade(weights)) || new Set()).add(weights));
    const most = (names) => extreme(Math.max, [0, ...[...names].map((one) => bits(one) ?? 0)]);
    return element(
      "ul",
      { class: "keys" },
      [...formats]
        .sort((a, b) => most(b[1]) - most(a[1]))
        .map(([kind, names]) =>
          element(
            "li",
            {},
            drawn(
              "svg",
              { viewBox: "0 0 18 10", class: "bar", "aria-hidden": "true" },
              drawn("rect", { class: `kept ${kind}`, width: 18, height: 10 }),
            ),
            [...names].sort().join(", "),
          ),
        ),
    );
  }

  function explained(lines) {
    const known = lines.filter((line) => !line.dropped);
    const parts = [
      known.some((l) => l.sparsity)
        ? "A bar is as wide as the share of the layer's channels that is left, and filled as high as its weights that are not zero."
        : "A bar is as wide as the share of the layer's channels that is left.",
    ];
    if (known.some((l) => l.keep !== null) && known.some((l) => l.keep === null)) {
      parts.push(
        known.some((l) => l.part)
          ? "Pale bars are parts of a layer that was factored: they have no dense width to be set against."
          : "Pale bars have no width of their own: they follow a layer that they are joined to, or give the classes.",
      );
    }
    if (lines.some((l) => l.dropped)) parts.push("Struck layers are gone from the network.");
    return element("p", { class: "note" }, parts.join(" "));
  }

  // One network.
  function picture(entry, key) {
    const lines = read(entry, key);
    if (!lines.length) return element("p", { class: "note" }, "This plan changes no single layer.");
    return element(
      "div",
      {},
      legend([lines]),
      element(
        "table",
        { class: "layers" },
        element("caption", {}, "What is left of every layer"),
        element(
          "thead",
          {},
          element(
            "tr",
            {},
            ["Layer", "Kept", "", "How"].map((label, i) =>
              element(i === 2 ? "td" : "th", { scope: i === 2 ? null : "col" }, label),
            ),
          ),
        ),
        element(
          "tbody",
          {},
          lines.map((line) =>
            element(
              "tr",
              { class: line.dropped && "dropped" },
              element("th", { scope: "row" }, named(line.layer)),
              element("td", { class: "amount" }, kept(line)),
              element("td", { class: "picture" }, bar(line)),
              element("td", { class: "how" }, notes(line).join(", ")),
            ),
          ),
        ),
      ),
      explained(lines),
    );
  }

  // Two networks, their layers side by side.
  function pair(first, second, key) {
    const [a, b] = [read(first, key), read(second, key)];
    const at = (lines, layer) => lines.find((line) => line.layer === layer) || null;
    const order = [...new Set([...(a.length >= b.length ? a : b), ...a, ...b].map((line) => line.layer))];
    if (!order.length) return element("p", { class: "note" }, "These plans change no single layer.");
    const differs = (x, y) => JSON.stringify(x) !== JSON.stringify(y);
    const side = (line, mirrored) => [
      element("td", { class: "how" }, notes(line).join(", ")),
      element("td", { class: "amount" }, kept(line)),
      element("td", { class: "picture" }, bar(line, mirrored)),
    ];
    return element(
      "div",
      {},
      legend([a, b]),
      element(
        "table",
        { class: "layers pair" },
        element("caption", {}, "What is left of every layer in both networks"),
        element(
          "thead",
          {},
          element(
            "tr",
            {},
            element("th", { scope: "colgroup", colspan: 3 }, "First"),
            element("th", { scope: "col" }, "Layer"),
            element("th", { scope: "colgroup", colspan: 3 }, "Second"),
          ),
        ),
        element(
          "tbody",
          {},
          order.map((layer) => {
            const [x, y] = [at(a, layer), at(b, layer)];
            return element(
              "tr",
              { class: differs(x, y) ? "differs" : null },
              side(x, true),
              element("th", { scope: "row" }, named(layer)),
              side(y, false).reverse(),
            );
          }),
        ),
      ),
      explained([...a, ...b]),
    );
  }

  return { picture, pair };
})();
