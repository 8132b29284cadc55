// One network in full, or two side by side, in the panel.

const entries = (() => {
  const FIGURES = {
    latency: "Latency",
    throughput: "Throughput",
    energy: "Energy",
    net_energy: "Energy above idle",
    power: "Power",
    memory: "Memory",
    parameters: "Parameters",
    macs: "MACs",
    bit_operations: "Bit operations",
    lut: "Lookup tables",
    ff: "Flip-flops",
    dsp: "DSP slices",
    bram18: "Block RAMs",
    uram: "UltraRAMs",
  };
  const figureName = (key) => (Object.hasOwn(FIGURES, key) ? FIGURES[key] : key);
  const part = (title, ...children) => element("section", {}, element("h3", {}, title), ...children);
  const pairs = (lines) =>
    element(
      "dl",
      { class: "pairs" },
      lines
        .filter(([, value]) => value !== null && value !== "" && value !== undefined)
        .flatMap(([label, value]) => [element("dt", {}, label), element("dd", {}, value)]),
    );

  // Everything about one network; `row` is its line on the board, which is there even where the entry was left out.
  function panel(id, row, entry, track, neighbours) {
    const strategy = entry ? entry.strategy : row.strategy;
    const looks = row || parted(strategy);
    const head = element(
      "header",
      {},
      element(
        "p",
        { class: "over" },
        entry && entry.role !== "candidate" ? entry.role : "network",
        " ",
        element("code", {}, words.short(id)),
        entry && [" of ", named(entry.workload)],
      ),
      element(
        "h2",
        { id: "panel-title" },
        marks.swatch(looks.method, looks.family),
        link({ strategy, entry: "", beside: "" }, { title: "About this strategy" }, named(strategy)),
      ),
      neighbours && element("nav", { "aria-label": "Along the front" }, neighbours),
    );
    if (!entry) {
      return [
        head,
        row && tiles(row, track.data),
        element(
          "p",
          { class: "note" },
          "This report holds the plans of the best networks only, and this is not one of them. ",
          "The whole of it: ",
          element("code", {}, shell("shrinkboard", "show", id)),
          ".",
        ),
      ];
    }
    return [
      head,
      row && tiles(row, track.data),
      comparison(id, track),
      part("Layer by layer", layers.picture(entry, track?.data.key)),
      part(
        "What it costs",
        ...entry.costs.map((cost) => costs(cost)),
        element("p", { class: "note" }, "Grey: 95\u00a0% intervals."),
      ),
      part("Accuracy", accuracies(entry)),
      part("Where it comes from", origin(entry)),
      part("Make it again", recreate(id, entry)),
      part(
        "The plan as data",
        element(
          "details",
          {},
          element("summary", {}, "Plan and settings"),
          element("pre", { tabindex: "0" }, JSON.stringify({ plan: entry.plan, knobs: entry.knobs }, null, 1)),
        ),
      ),
    ];
  }

  function tiles(row, data) {
    const tile = (label, value, below) =>
      element(
        "div",
        {},
        element("dt", {}, label),
        element("dd", {}, element("strong", {}, value), element("span", {}, below)),
      );
    return element(
      "dl",
      { class: "tiles" },
      tile(data.metric, `${words.percent(row.accuracy)}\u00a0%`, `${words.points(row.drop)} against dense`),
      row.speedup === null
        ? tile("Size", words.ratio(row.size), "fewer parameters")
        : tile(
            "Speed",
            words.ratio(row.speedup),
            row.low === null ? "as fast as dense" : `95\u00a0%: ${words.interval(row.low, row.high)}`,
          ),
      tile("Parameters", words.count(row.parameters), `${words.share(row.parameters, row.dense_parameters)} of dense`),
      tile("Training", words.seconds(row.total_seconds), `${+row.total_epochs.toFixed(1)} epochs in all`),
    );
  }

  function costs(cost) {
    const values = Object.entries(cost.figures).filter(([, figure]) => figure.value !== null);
    // Figures that are absent for the same reason are named together.
    const reasons = new Map();
    for (const [key, figure] of Object.entries(cost.figures)) {
      if (figure.value === null) reasons.set(figure.reason, [...(reasons.get(figure.reason) || []), figureName(key)]);
    }
    const spread = (value, low, high, range) =>
      low === null || high === null ? value : [value, " ", element("span", { class: "interval" }, range)];
    const ratio = cost.speedup;
    if (ratio && ratio.value === null) reasons.set(ratio.reason, [...(reasons.get(ratio.reason) || []), "speed-up"]);
    return element(
      "div",
      { class: "cost" },
      element(
        "h4",
        {},
        named(cost.key),
        " ",
        element("span", { class: "tag" }, cost.kind),
        cost.unstable && element("span", { class: "tag warn" }, "noisy machine"),
      ),
      pairs([
        [
          "Speed-up",
          ratio && ratio.value !== null
            ? spread(words.ratio(ratio.value), ratio.low, ratio.high, words.interval(ratio.low, ratio.high))
            : null,
        ],
        ...values.map(([key, figure]) => [
          figureName(key),
          spread(
            words.figure(figure.value, figure.unit),
            figure.low,
            figure.high,
            words.range(figure.low, figure.high, figure.unit),
          ),
        ]),
      ]),
      [...reasons].map(([reason, absent]) =>
        element("p", { class: "note" }, [
          `No ${absent.map((one) => (Object.values(FIGURES).includes(one) && /^[A-Z][a-z]/.test(one) ? one[0].toLowerCase() + one.slice(1) : one)).join(", ")}: `,
          named(reason),
        ]),
      ),
      Object.keys(cost.runtime || {}).length
        ? element(
            "p",
            { class: "note" },
            Object.entries(cost.runtime)
              .map(([key, value]) => `${key} ${value}`)
              .join(" · "),
          )
        : null,
    );
  }

  function accuracies(entry) {
    const names = { top1: "top-1", top5: "top-5", miou: "mIoU" };
    const line = (label, scores, dense) =>
      scores && [
        label,
        Object.keys(names)
          .filter((key) => typeof scores[key] === "number")
          .map((key) => `${names[key]} ${words.percent(scores[key])}\u00a0%`)
          .join(", ") + (typeof dense === "number" ? ` (dense network ${words.percent(dense)}\u00a0%)` : ""),
      ];
    const { validation, test, dense_validation, dense_test } = entry.accuracy;
    const own = entry.costs.flatMap((cost) => [
      line(`Validation, as ${cost.target} runs it`, cost.runtime_accuracy),
      line(`Test, as ${cost.target} runs it`, cost.runtime_test),
    ]);
    return pairs(
      [line("Validation", validation, dense_validation), line("Test", test, dense_test), ...own].filter(Boolean),
    );
  }

  function origin(entry) {
    const { training, environment: made, origin: from, subject } = entry;
    const begun = training.starts_from === "initial" ? "from fresh weights" : "from the trained dense network";
    return pairs([
      ["Study", element("span", {}, named(entry.study), `, trial ${entry.trial}, seed ${entry.seed}`)],
      [
        "Chosen from",
        from
          ? element(
              "span",
              {},
              link({ entry: from.entry, beside: "" }, {}, words.short(from.entry)),
              `, trial ${from.trial} of `,
              named(from.study),
              `, search seed ${from.seed}`,
            )
          : null,
      ],
      ["Training", `${+training.epochs.toFixed(2)} epochs in ${words.seconds(training.seconds)}, ${begun}`],
      ["Dense network", `${+training.dense_epochs.toFixed(2)} epochs in ${words.seconds(training.dense_seconds)}`],
      ["Own network", subject?.model ?? null],
      ["Made", `${entry.created.replace("T", " ").replace("Z", " UTC")}`],
      [
        "With",
        `shrinkboard ${made.shrinkboard}, torch ${made.torch}${made.onnxruntime ? `, ONNX Runtime ${made.onnxruntime}` : ""}, Python ${made.python}`,
      ],
      ["On", `${made.cpu}, ${made.platform}`],
      ["Weights", entry.weights ? `SHA-256 ${entry.weights.slice(0, 16)}…` : null],
      ["Method", entry.method ? element("span", {}, `${entry.method.summary} (${entry.method.source})`) : null],
    ]);
  }

  // The commands that make it again; whatever came from an entry is quoted for a shell.
  function recreate(id, entry) {
    const own = entry.subject || {};
    const network = [...(own.model ? ["--model", own.model] : []), ...(own.checkpoint ? ["--checkpoint", "FILE"] : [])];
    const found =
      entry.role === "finalist"
        ? ["Train all finalists of its search", ["finalists", "--study", entry.origin.study]]
        : [
            "Search as it was found",
            [
              "search",
              ...(own.model ? (own.dataset ? ["--dataset", own.dataset] : []) : ["--workload", entry.workload]),
              "--strategy",
              entry.strategy,
              "--target",
              [...new Set(entry.costs.map((cost) => cost.target))].join(",") || "counts",
              "--trials",
              entry.trial + 1,
              "--seed",
              entry.seed,
              ...(own.learning_rate ? ["--learning-rate", own.learning_rate] : []),
            ],
          ];
    const commands = [
      ["Make it again from its plan and seed, measure it, and say what differs", ["verify", id]],
      ["Write it as a file that runs elsewhere", ["export", id, "--format", "onnx", "--out", "network.onnx"]],
      found,
    ].map(([label, command]) => [label, shell("shrinkboard", ...command, ...network)]);
    return element(
      "div",
      {},
      commands.map(([label, command]) =>
        element(
          "div",
          { class: "command" },
          element("p", {}, label),
          element("pre", { tabindex: "0" }, command),
          navigator.clipboard &&
            button(
              "Copy",
              async (event) => {
                const pressed = event.currentTarget;
                await navigator.clipboard.writeText(command);
                pressed.textContent = "Copied";
                setTimeout(() => {
                  pressed.textContent = "Copy";
                }, 1500);
              },
              { "aria-label": `Copy: ${label}` },
            ),
        ),
      ),
    );
  }

  // What to set beside it: the dense network, the front, the best of every strategy; or any other, by a click.
  function comparison(id, track) {
    if (!track) return null;
    const { data, front } = track;
    const dense = data.rows.filter((r) => r.strategy === "dense").slice(0, 1);
    const best = [...new Map(front.map((r) => [r.strategy, r])).values()];
    const offered = [...new Set([...dense, ...front.slice(0, 30), ...best])].filter((r) => r.id !== id);
    const choice = element(
      "select",
      {
        id: "beside",
        onchange: (event) => {
          const { value } = event.currentTarget;
          if (value === "pick") state.go({ beside: id, entry: "" });
          else if (value) state.go({ beside: value });
        },
      },
      element("option", { value: "" }, "choose a network"),
      element("option", { value: "pick" }, "another, picked on the board"),
      offered.map((r) =>
        element(
          "option",
          { value: r.id },
          `${r.strategy} · ${words.percent(r.accuracy)}\u00a0%${r.speedup === null ? "" : ` · ${words.ratio(r.speedup)}`} · ${words.short(r.id)}`,
        ),
      ),
    );
    return element("p", { class: "compare" }, element("label", { for: "beside" }, "Compare with "), choice);
  }

  // Two networks: figures with their differences, and the layers in pairs.
  function compared(ids, rows, found, track) {
    const looks = rows.map((row, i) => row || parted(found[i].strategy));
    const strategy = (i) => (found[i] ? found[i].strategy : rows[i].strategy);
    const title = element(
      "header",
      {},
      element("p", { class: "over" }, "two networks"),
      element("h2", { id: "panel-title" }, named(strategy(0)), " and ", named(strategy(1))),
      element(
        "nav",
        {},
        button("Swap", () => state.go({ entry: ids[1], beside: ids[0] })),
        button("Only the first", () => state.go({ beside: "" })),
      ),
    );
    const column = (i) =>
      element(
        "th",
        { scope: "col" },
        marks.swatch(looks[i].method, looks[i].family),
        link({ entry: ids[i], beside: "" }, {}, named(strategy(i))),
        element("code", {}, words.short(ids[i])),
      );
    const figures =
      rows[0] && rows[1]
        ? element(
            "table",
            { class: "figures" },
            element("caption", {}, "Figures of both networks"),
            element(
              "thead",
              {},
              element(
                "tr",
                {},
                element("td", {}),
                column(0),
                column(1),
                element("th", { scope: "col" }, "Second against first"),
              ),
            ),
            element("tbody", {}, differences(rows[0], rows[1], track.data)),
          )
        : element("p", { class: "note" }, "Only one of the two stands on this board.");
    const missing = ids.filter((_, i) => !found[i]);
    return [
      title,
      part("Figures", figures),
      part(
        "Layer by layer",
        missing.length
          ? element(
              "p",
              { class: "note" },
              `This report does not hold the plan of ${missing.map(words.short).join(" and ")}.`,
            )
          : layers.pair(found[0], found[1], track?.data.key),
      ),
    ];
  }

  function differences(a, b, data) {
    // How the second stands to the first: a share of it where they are near each other, a ratio where they are not.
    const change = (x, y, more, less) => {
      if (!x || !y) return ABSENT;
      const ratio = y / x,
        word = ratio > 1 ? more : less;
      if (Math.abs(ratio - 1) < 5e-3) return "the same";
      return ratio > 0.5 && ratio < 2
        ? `${Math.round(100 * Math.abs(ratio - 1))}\u00a0% ${word}`
        : `${words.ratio(Math.max(ratio, 1 / ratio))} ${word}`;
    };
    const line = (label, show, difference) => [label, show(a), show(b), difference];
    return [
      line(
        `${data.metric}, %`,
        (r) => words.percent(r.accuracy),
        `${words.points(100 * (a.accuracy - b.accuracy))} points`,
      ),
      line(
        "Speed-up",
        (r) =>
          r.low === null
            ? words.ratio(r.speedup)
            : [words.ratio(r.speedup), " ", element("span", { class: "interval" }, words.interval(r.low, r.high))],
        a.low !== null && b.low !== null && a.low <= b.high && b.low <= a.high
          ? "within both intervals"
          : change(a.speedup, b.speedup, "faster", "slower"),
      ),
      line("Latency", (r) => words.seconds(r.latency), change(a.latency, b.latency, "longer", "shorter")),
      line("Energy", (r) => words.joules(r.energy), change(a.energy, b.energy, "more", "less")),
      line("Parameters", (r) => words.count(r.parameters), change(a.parameters, b.parameters, "more", "fewer")),
      line("MACs", (r) => words.count(r.macs), change(a.macs, b.macs, "more", "fewer")),
      line("Size", (r) => words.bytes(r.bytes), change(a.bytes, b.bytes, "larger", "smaller")),
      line(
        "Whole training",
        (r) => words.seconds(r.total_seconds),
        change(a.total_seconds, b.total_seconds, "longer", "shorter"),
      ),
    ]
      .filter(([, x, y]) => x !== ABSENT || y !== ABSENT)
      .map(([label, ...cells]) =>
        element(
          "tr",
          {},
          element("th", { scope: "row" }, label),
          cells.map((cell) => element("td", {}, cell)),
        ),
      );
  }

  return { panel, compared };
})();
