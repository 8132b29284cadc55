// Choice of the track, filters and legend, light and dark, and the short answers above the pictures.

const controls = (() => {
  let tracks = [];
  const set = (change) => state.go({ ...change, page: 1 });

  function start(listed) {
    tracks = listed;
    const workload = byId("workload"),
      target = byId("target");
    workload.replaceChildren(
      ...[...new Set(tracks.map((t) => t.workload))].map((one) => element("option", { value: one }, one)),
    );
    const anew = { method: [], format: [], drop: null, latency: null, zoom: "", split: "", axis: "" };
    workload.addEventListener("change", () => {
      const same = tracks.find((t) => t.workload === workload.value && t.key === target.value);
      set({ ...anew, workload: workload.value, target: same ? same.key : "" });
    });
    target.addEventListener("change", () => set({ ...anew, workload: workload.value, target: target.value }));
    for (const field of ["drop", "latency"]) {
      byId(field).addEventListener("input", (event) => {
        const { value, validity } = event.currentTarget;
        const number =
          value.trim() === "" || !validity.valid ? null : Number(value) * (field === "latency" ? unit.size : 1);
        state.adjust({ [field]: number, page: 1 });
      });
    }
    byId("front").addEventListener("change", (event) => set({ front: event.currentTarget.checked }));
    byId("reset").addEventListener("click", () =>
      set({ method: [], format: [], drop: null, latency: null, front: false, zoom: "", whole: false }),
    );
  }

  let unit = { size: 1e-3, text: "ms" };

  function show(data, model, choices) {
    const { method, format, drop, latency, front } = state.now;
    byId("workload").value = data.workload;
    byId("target").replaceChildren(
      ...tracks
        .filter((t) => t.workload === data.workload)
        .map((t) =>
          element(
            "option",
            { value: t.key, selected: t.key === data.key },
            t.key.includes("@") ? `${t.target}, machine ${t.key.split("@")[1]}` : t.key,
          ),
        ),
    );
    const track = tracks.find((t) => t.workload === data.workload && t.key === data.key);
    byId("kind").textContent = data.kind;
    byId("kind").title =
      data.kind === "measured" ? "Timed on the machine itself" : "Worked out by a model of the device";
    byId("split").replaceChildren(
      ...(track.searched && track.finals
        ? [
            ["searched", false, "Searches"],
            ["finals", true, "Finals"],
          ].map(([value, finals, label]) =>
            button(label, () => set({ split: value, zoom: "" }), {
              "aria-pressed": String(data.finals === finals),
              title: finals
                ? "Trained again on fresh seeds, and tested once"
                : "As the searches saw them, on validation",
            }),
          )
        : []),
    );
    byId("summary").textContent =
      `${words.many(data.rows.length, "network", "networks")} of ${words.many(new Set(data.rows.map((r) => r.strategy)).size, "strategy", "strategies")}, ` +
      `${data.finals ? "on the test split" : "on the validation split"}${data.matched > data.rows.length ? `; the first ${data.rows.length.toLocaleString("en")} of ${data.matched.toLocaleString("en")}` : ""}`;

    const slowest = data.dense.latency ?? data.rows.reduce((most, r) => Math.max(most, r.latency || 0), 0);
    unit = [
      { size: 1, text: "s" },
      { size: 1e-3, text: "ms" },
      { size: 1e-6, text: "µs" },
    ].find(({ size }) => slowest >= size) || { size: 1e-6, text: "µs" };
    byId("latency-unit").textContent = unit.text;
    byId("latency-field").hidden = !data.rows.some((r) => r.latency !== null);
    for (const [field, value] of [
      ["drop", drop],
      ["latency", latency === null ? null : +(latency / unit.size).toPrecision(6)],
    ]) {
      const input = byId(field);
      if (document.activeElement !== input) input.value = value ?? "";
    }
    byId("front").checked = front;

    const chips = (holder, all, picked, field, swatch) => {
      const focused = holder.contains(document.activeElement) && document.activeElement.value;
      holder.replaceChildren(
        ...all.map((one) =>
          element(
            "button",
            {
              type: "button",
              class: "chip",
              value: one,
              "aria-pressed": String(picked.includes(one)),
              onclick: () =>
                set({ [field]: picked.includes(one) ? picked.filter((p) => p !== one) : [...picked, one] }),
            },
            swatch(one),
            named(one),
          ),
        ),
      );
      if (focused) [...holder.children].find((chip) => chip.value === focused)?.focus();
      holder.classList.toggle("picking", picked.length > 0);
      holder.parentElement.hidden = all.length < 2;
    };
    const methods = [...new Set(data.rows.map((r) => r.method))].sort(
      (a, b) => (b === "dense") - (a === "dense") || (a > b) - (a < b),
    );
    chips(byId("methods"), methods, method, "method", (one) => marks.swatch(one));
    chips(byId("formats"), marks.families, format, "format", (one) => marks.swatch("dense", one));

    byId("axis").replaceChildren(
      ...(choices.length > 1
        ? choices.map((which) =>
            button(axes[which].switch, () => state.go({ axis: which, zoom: "" }), {
              "aria-pressed": String(model.which === which),
            }),
          )
        : []),
    );
    const filtered = method.length || format.length || drop !== null || latency !== null || front;
    byId("reset").hidden = !filtered;
    byId("shown").textContent = filtered
      ? `${model.count.toLocaleString("en")} of ${words.many(data.rows.length, "network", "networks")} shown`
      : "";
  }

  return { start, show };
})();

// What a loss of accuracy buys: the best network within half a point, one and two, or within more where none is so
// good.
const cards = (() => {
  function show(data, rows, axis) {
    const usual = [...strategies.LIMITS, 5, 10];
    const first = usual.findIndex((limit) => rows.some((r) => r.drop <= limit && axis.value(r) !== null));
    const asked = state.now.drop > 0 ? [state.now.drop] : [];
    const limits = [...new Set([...asked, ...usual.slice(Math.min(2, Math.max(0, first - 1)))])]
      .slice(0, 3)
      .sort((a, b) => a - b);
    const better = axis === axes.speed ? "fastest" : axis === axes.size ? "smallest" : "most frugal";
    byId("cards-title").textContent = `The ${better} network that loses at\u00a0most\u00a0…`;
    byId("cards").replaceChildren(
      ...limits.map((limit) => {
        const row = strategies.within(rows, limit, axis);
        return element(
          "li",
          {},
          element("span", { class: "limit" }, words.many(limit, "point", "points")),
          row
            ? link(
                () => opening(row.id),
                {},
                element("strong", {}, axis.show(row)),
                element(
                  "span",
                  { class: "unit" },
                  axis === axes.speed ? "as fast" : axis === axes.size ? "fewer parameters" : "an inference",
                ),
                marks.strategy(row),
                element(
                  "span",
                  { class: "below" },
                  `${words.percent(row.accuracy)}\u00a0%${row.latency === null ? "" : ` · ${words.seconds(row.latency)}`}`,
                ),
              )
            : element("span", { class: "none" }, "none of those shown"),
        );
      }),
    );
  }
  return { show };
})();

// Light and dark: as the system has it, unless a visitor chose. Paper is light.
const theme = (() => {
  const NEXT = { system: "light", light: "dark", dark: "system" };
  let chosen = "system";

  function put(value) {
    document.documentElement.dataset.theme = value;
    repaint();
  }

  // What is not drawn by the style sheet.
  function repaint() {
    marks.forget();
    board.repaint();
  }

  function choose(value) {
    chosen = Object.hasOwn(NEXT, value) ? value : "system";
    byId("theme").textContent = `Theme: ${chosen}`;
    put(chosen);
  }

  function start() {
    // Without storage, as where a visitor forbids it, the choice lasts as long as the page.
    const kept = (use) => {
      try {
        return use(localStorage);
      } catch {
        return null;
      }
    };
    choose(kept((storage) => storage.getItem("shrinkboard-theme")));
    byId("theme").addEventListener("click", () => {
      choose(NEXT[chosen]);
      kept((storage) => storage.setItem("shrinkboard-theme", chosen));
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
    addEventListener("beforeprint", () => put("light"));
    addEventListener("afterprint", () => put(chosen));
  }
  return { start };
})();
