// The ranking of strategies, where finalists were trained and tested: who is better, how surely, and what each reaches.

const rankings = (() => {
  const GAIN = { measured: "speed-up", modelled: "modelled speed-up", parameters: "gain in parameters" };

  const cell = (label, attributes) => element("th", { scope: "col", ...attributes }, label);
  const within = (estimate, show) =>
    estimate.low === null
      ? show(estimate.mean)
      : [
          show(estimate.mean),
          " ",
          element("span", { class: "interval" }, `${show(estimate.low)}–${show(estimate.high)}`),
        ];

  // A mean with its interval, on the scale that all of them fill.
  function span(estimate, [least, most]) {
    const x = (value) => 100 * Math.max(0, Math.min(1, (value - least) / (most - least)));
    const svg = drawn("svg", {
      viewBox: "0 0 100 16",
      preserveAspectRatio: "none",
      class: "span",
      "aria-hidden": "true",
    });
    svg.append(drawn("line", { class: "scale", x1: 0, x2: 100, y1: 8, y2: 8 }));
    if (estimate.low !== null)
      svg.append(drawn("line", { class: "whisker", x1: x(estimate.low), x2: x(estimate.high), y1: 8, y2: 8 }));
    svg.append(drawn("line", { class: "mean", x1: x(estimate.mean), x2: x(estimate.mean), y1: 2, y2: 14 }));
    return svg;
  }

  const known = (strategy) =>
    link(
      { strategy },
      { class: "strategy" },
      marks.swatch(parted(strategy).method, parted(strategy).family),
      named(strategy),
    );

  function order(ranking) {
    const ends = ranking.strategies.flatMap(({ hypervolume: h }) =>
      h ? [h.mean, h.low ?? h.mean, h.high ?? h.mean] : [],
    );
    const low = extreme(Math.min, ends),
      high = extreme(Math.max, ends),
      pad = 0.1 * (high - low) || 0.01;
    const scale = [low - pad, high + pad];
    return element(
      "table",
      {},
      element("caption", {}, "Ranking of strategies"),
      element(
        "thead",
        {},
        element(
          "tr",
          {},
          cell("Rank"),
          cell("Strategy", { class: "text" }),
          cell("Hypervolume, 95 % interval", { colspan: 2 }),
          cell("On the front"),
          cell("Searches"),
        ),
      ),
      element(
        "tbody",
        {},
        ranking.strategies.map((one) =>
          element(
            "tr",
            {},
            element("td", {}, one.rank ?? ABSENT),
            element("th", { scope: "row", class: "text" }, known(one.name)),
            ...(one.hypervolume
              ? [
                  element("td", { class: "wide" }, span(one.hypervolume, scale)),
                  element(
                    "td",
                    {},
                    within(one.hypervolume, (x) => x.toFixed(3)),
                  ),
                ]
              : [element("td", { class: "wide" }), element("td", {}, "no finalists")]),
            element(
              "td",
              {},
              one.front_probability === null ? ABSENT : `${Math.round(100 * one.front_probability)}\u00a0%`,
            ),
            element("td", {}, one.hypervolume ? one.hypervolume.n : ABSENT),
          ),
        ),
      ),
    );
  }

  function reached(ranking) {
    const lines = ranking.strategies.filter((one) => one.at_gain.length || one.at_drop.length);
    if (!lines.length) return null;
    const value = (at, estimate, show) =>
      element(
        "td",
        {
          title:
            estimate && estimate.low !== null ? `95 % interval ${show(estimate.low)} to ${show(estimate.high)}` : null,
        },
        estimate ? show(estimate.mean) : ABSENT,
        at.reached && at.reached < at.seeds
          ? element("span", { class: "interval" }, ` ${at.reached}/${at.seeds}`)
          : null,
      );
    const [first] = lines;
    return element(
      "table",
      {},
      element("caption", {}, "What each strategy reaches"),
      element(
        "thead",
        {},
        element(
          "tr",
          {},
          element("td", {}),
          cell(`Accuracy on test, %, at a ${GAIN[ranking.track]} of`, {
            colspan: first.at_gain.length,
            scope: "colgroup",
          }),
          cell("Gain when losing at most", { colspan: first.at_drop.length, scope: "colgroup" }),
        ),
        element(
          "tr",
          {},
          cell("Strategy", { class: "text" }),
          first.at_gain.map((at) => cell(`${at.wanted}×`)),
          first.at_drop.map((at) => cell(words.many(+(100 * at.wanted).toPrecision(6), "point", "points"))),
        ),
      ),
      element(
        "tbody",
        {},
        lines.map((one) =>
          element(
            "tr",
            {},
            element("th", { scope: "row", class: "text" }, known(one.name)),
            one.at_gain.map((at) => value(at, at.accuracy, words.percent)),
            one.at_drop.map((at) => value(at, at.gain, words.ratio)),
          ),
        ),
      ),
    );
  }

  function show(ranking) {
    const holder = byId("ranking");
    holder.hidden = !ranking;
    if (!ranking) return;
    const table = (content, label) =>
      element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, content);
    const fixed = reached(ranking);
    const said = [...ranking.deviations, ...ranking.notes];
    holder.replaceChildren(
      element("h2", { id: "ranking-title" }, "Ranking of strategies"),
      element(
        "p",
        { class: "note" },
        "Finalists were chosen on validation, trained again on fresh seeds and scored on the test split. Hypervolume is the share of the reachable plane of accuracy and " +
          `${GAIN[ranking.track]} that a strategy's networks cover; strategies that could not be told apart share a rank. `,
        "Benchmark ",
        element("code", {}, named(ranking.benchmark)),
        `: ${words.many(ranking.trials, "trial", "trials")} a search, ${words.many(ranking.search_seeds, "search", "searches")} a strategy, ${words.many(ranking.final_seeds, "seed", "seeds")} a finalist.`,
      ),
      table(order(ranking), "Table of ranks"),
      ...(fixed
        ? [
            element("h3", {}, "At fixed speeds and losses"),
            table(fixed, "Table of what is reached"),
            element(
              "p",
              { class: "note" },
              "Small numbers such as 2/3: only so many searches reached it, so it does not compare with what all reached.",
            ),
          ]
        : []),
      ...(said.length
        ? [
            element(
              "details",
              {},
              element("summary", {}, "Notes on this ranking"),
              element(
                "ul",
                { class: "note" },
                said.map((line) => element("li", {}, named(line))),
              ),
            ),
          ]
        : []),
    );
  }

  return { show };
})();
