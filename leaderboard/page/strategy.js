// A strategy: what it is, what was tried, its own front against all others, its best networks; and the list of all.

const strategies = (() => {
  const LIMITS = [0.5, 1, 2];

  // The best of a row's axis that loses at most so many points.
  const within = (rows, drop, axis) =>
    rows
      .filter((r) => r.drop <= drop + 1e-9 && axis.value(r) !== null)
      .reduce(
        (best, r) =>
          best && (axis.rising ? axis.value(best) >= axis.value(r) : axis.value(best) <= axis.value(r)) ? best : r,
        null,
      );

  function list(rows, front, axis) {
    const byName = new Map();
    for (const row of rows) {
      if (!byName.has(row.strategy)) byName.set(row.strategy, []);
      byName.get(row.strategy).push(row);
    }
    const onFront = new Set(front);
    const lines = [...byName].map(([strategy, own]) => ({
      strategy,
      own,
      best: within(own, 1, axis),
      on: own.filter((r) => onFront.has(r)).length,
    }));
    lines.sort(
      (a, b) =>
        (b.best ? axis.value(b.best) : 0) - (a.best ? axis.value(a.best) : 0) ||
        (a.strategy > b.strategy) - (a.strategy < b.strategy),
    );
    const figure = (row) =>
      row
        ? element(
            "td",
            {},
            link(() => opening(row.id), {}, axis.show(row)),
          )
        : element("td", {}, ABSENT);
    return element(
      "table",
      {},
      element("caption", {}, "Strategies"),
      element(
        "thead",
        {},
        element(
          "tr",
          {},
          element("th", { scope: "col", class: "text" }, "Strategy"),
          element("th", { scope: "col" }, "Networks"),
          element("th", { scope: "col" }, "On the front"),
          element("th", { scope: "col" }, "Most accurate, %"),
          LIMITS.map((limit) => element("th", { scope: "col" }, `Best within ${words.many(limit, "point", "points")}`)),
        ),
      ),
      element(
        "tbody",
        {},
        lines.map(({ strategy, own, on }) =>
          element(
            "tr",
            {},
            element(
              "th",
              { scope: "row", class: "text" },
              link({ strategy }, { class: "strategy" }, marks.swatch(own[0].method, own[0].family), named(strategy)),
            ),
            element("td", {}, own.length.toLocaleString("en")),
            element("td", {}, on || ABSENT),
            element(
              "td",
              {},
              words.percent(
                extreme(
                  Math.max,
                  own.map((r) => r.accuracy),
                ),
              ),
            ),
            LIMITS.map((limit) => figure(within(own, limit, axis))),
          ),
        ),
      ),
    );
  }

  function tried(setting) {
    if (setting.distinct > 1 && setting.low !== null && setting.values.every((value) => !Number.isNaN(Number(value)))) {
      const figure = (x) => String(+x.toPrecision(4)).replace("-", "−");
      return `${figure(setting.low)} to ${figure(setting.high)}, ${words.many(setting.distinct, "value", "values")}`;
    }
    return setting.values.join(", ") + (setting.distinct > setting.values.length ? ", …" : "");
  }

  function panel(strategy, answer, track, axis) {
    const { data } = track;
    const own = data.rows.filter((r) => r.strategy === strategy);
    const front = frontOf(data, axis, (r) => r.strategy === strategy);
    const ahead = front.filter((r) => track.front.includes(r)).length;
    const looks = parted(strategy);
    const plot = new Plot(axis, (row) => state.go(opening(row.id)));
    queueMicrotask(() =>
      plot.show({
        data,
        shown: own,
        front,
        all: frontOf(data, axis, (r) => r.strategy !== strategy),
        limits: { drop: null, latency: null },
        whole: state.now.whole,
        zoom: null,
        height: (width) => Math.max(260, Math.min(380, width * 0.55)),
      }),
    );
    const method = answer?.method;
    return [
      element(
        "header",
        {},
        element("p", { class: "over" }, "strategy"),
        element("h2", { id: "panel-title" }, marks.swatch(looks.method, looks.family), named(strategy)),
      ),
      method
        ? element(
            "div",
            {},
            element("p", { class: "summary" }, method.summary),
            element("p", { class: "note" }, `Source: ${method.source}`),
          )
        : element(
            "p",
            { class: "note" },
            "Its entries were made before entries described their method. ",
            element("code", {}, "shrinkboard strategies"),
            " does, where it is installed.",
          ),
      element(
        "section",
        {},
        element("h3", {}, "Its front against all others"),
        element(
          "p",
          { class: "note" },
          `${words.many(own.length, "network", "networks")}, ${ahead || "none"} on the front of all. The dashed line is the front of the other strategies.`,
        ),
        plot.node,
      ),
      element("section", {}, element("h3", {}, "Its best networks"), best(own, front, axis, data)),
      element(
        "section",
        {},
        element("h3", {}, "Settings tried"),
        answer && answer.settings.length
          ? settings(answer)
          : element("p", { class: "note" }, answer ? "It has none." : "They are not in this report."),
      ),
      button(
        "Show only this strategy",
        () => state.go({ strategy: "", method: [looks.method], format: [looks.family], page: 1 }),
        { class: "wide" },
      ),
    ];
  }

  function best(own, front, axis, data) {
    const rows = (front.length ? front : own).slice(0, 12);
    return element(
      "table",
      { class: "figures" },
      element("caption", {}, "Its best networks"),
      element(
        "thead",
        {},
        element(
          "tr",
          {},
          ["Entry", `${data.metric}, %`, "± dense", axis.switch, "Parameters"].map((label, i) =>
            element("th", { scope: "col", class: i ? null : "text" }, label),
          ),
        ),
      ),
      element(
        "tbody",
        {},
        rows.map((r) =>
          element(
            "tr",
            {},
            element(
              "th",
              { scope: "row", class: "text" },
              link(() => opening(r.id), {}, element("code", {}, words.short(r.id))),
            ),
            element("td", {}, words.percent(r.accuracy)),
            element("td", {}, words.points(r.drop)),
            element("td", {}, axis.value(r) === null ? ABSENT : axis.show(r)),
            element("td", {}, words.count(r.parameters)),
          ),
        ),
      ),
    );
  }

  function settings(answer) {
    return element(
      "div",
      {},
      element(
        "dl",
        { class: "pairs" },
        answer.settings.flatMap((one) => [element("dt", {}, named(one.name)), element("dd", {}, tried(one))]),
      ),
      element(
        "p",
        { class: "note" },
        `As the search varied them in its newest ${words.many(answer.of_entries, "entry", "entries")}: whole numbers are often levels, which the strategy turns into ratios and bits. A name with * stands for all layers.`,
      ),
    );
  }

  return { list, panel, within, LIMITS };
})();
