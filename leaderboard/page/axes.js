// What accuracy is set against: a figure, where it is good (to the right or to the left), and round values on it.

const axes = (() => {
  // Round steps for an axis that runs from low to high.
  function steps(low, high, wanted) {
    const raw = (high - low) / wanted;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * (1 - 1e-9));
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
    return { found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
  }

  // Of round values on a logarithmic axis, as many as there is room for; a range that holds fewer than three of them is
  // divided evenly.
  function thinned(all, low, high, wanted) {
    const inside = all.filter((x) => x >= low && x <= high);
    if (inside.length < 3) return steps(low, high, wanted).found.filter((x) => x > 0);
    const every = Math.ceil(inside.length / wanted);
    return inside.filter((x, i) => i % every === 0);
  }

  function ratios(low, high, wanted) {
    const doubled = [];
    for (let k = Math.floor(Math.log2(low)); k <= Math.log2(high) + 1; k++) doubled.push(2 ** k);
    const halves = doubled.flatMap((x) => [x, 1.5 * x]);
    const inside = halves.filter((x) => x >= low && x <= high);
    return thinned(inside.length <= wanted ? halves : doubled, low, high, wanted);
  }

  function decades(low, high, wanted) {
    const all = [];
    for (let k = Math.floor(Math.log10(low)); k <= Math.log10(high); k++)
      all.push(...[1, 2, 5].map((m) => m * 10 ** k));
    return thinned(all, low, high, wanted);
  }

  function durations(low, high, wanted) {
    const all = [];
    for (let k = -9; k < 2; k++) for (const m of [1, 2, 5]) if (m * 10 ** k < 60) all.push(m * 10 ** k);
    all.push(...[1, 2, 5, 10, 20].map((m) => 60 * m));
    for (let k = 0; k < 6; k++) all.push(...[1, 2, 5].map((m) => 3600 * m * 10 ** k));
    return thinned(all, low, high, wanted);
  }

  const unit = (x, units) => {
    const [size, text] = units.find(([size]) => x >= size * (1 - 1e-9)) || units[units.length - 1];
    return `${+(x / size).toPrecision(3)}${text}`;
  };
  const times = (x) => `${+x.toPrecision(3)}×`;

  return {
    steps,
    speed: {
      column: "speedup",
      title: "Accuracy against speed",
      switch: "Speed",
      caption: "times as fast as the dense network →",
      rising: true,
      value: (r) => r.speedup,
      low: (r) => r.low,
      high: (r) => r.high,
      dense: () => 1,
      span: [0.95, 1.1],
      ticks: ratios,
      label: times,
      show: (r) => words.ratio(r.speedup),
      words: (r) => `${words.ratio(r.speedup)} as fast`,
      absent: "a speed-up",
    },
    size: {
      column: "size",
      title: "Accuracy against size",
      switch: "Size",
      caption: "times fewer parameters than the dense network →",
      rising: true,
      value: (r) => r.size,
      low: () => null,
      high: () => null,
      dense: () => 1,
      span: [0.95, 1.1],
      ticks: ratios,
      label: times,
      show: (r) => words.ratio(r.size),
      words: (r) => `${words.ratio(r.size)} fewer parameters`,
      absent: "parameters",
    },
    energy: {
      column: "energy",
      title: "Accuracy against energy",
      switch: "Energy",
      caption: "← energy of one inference",
      rising: false,
      value: (r) => r.energy || null,
      low: () => null,
      high: () => null,
      dense: () => null,
      span: null,
      ticks: decades,
      label: (x) =>
        unit(x, [
          [1, " J"],
          [1e-3, " mJ"],
          [1e-6, " µJ"],
          [1e-9, " nJ"],
        ]),
      show: (r) => words.joules(r.energy),
      words: (r) => words.joules(r.energy),
      absent: "an energy",
    },
    training: {
      column: "total_seconds",
      title: "Accuracy against training",
      switch: "Training",
      caption: "← whole training, the dense network's included",
      rising: false,
      value: (r) => r.total_seconds || null,
      low: () => null,
      high: () => null,
      dense: (data) => data.dense.seconds || null,
      span: null,
      ticks: durations,
      label: (x) =>
        unit(x, [
          [3600, " h"],
          [60, " min"],
          [1, " s"],
          [1e-3, " ms"],
          [1e-6, " µs"],
        ]),
      show: (r) => words.seconds(r.total_seconds),
      words: (r) => `trained in ${words.seconds(r.total_seconds)}`,
      absent: "a training",
    },
  };
})();

// The Pareto front of those rows that pass, the best of the axis first: whoever is more accurate than all before. Equal
// ones stand together.
function frontOf(data, axis, passes) {
  const front = [];
  let best = -1;
  for (const row of data.sorted(axis.column, axis.rising)) {
    if (axis.value(row) === null || !passes(row)) continue;
    const last = front[front.length - 1];
    if (row.accuracy > best || (last && row.accuracy === last.accuracy && axis.value(row) === axis.value(last)))
      front.push(row);
    best = Math.max(best, row.accuracy);
  }
  return front;
}
