// Figures as people read them; an absent one is null.

const ABSENT = "–";

const words = {
  percent: (x) => (x === null ? ABSENT : (100 * x).toFixed(2)),
  points: (x) => (x === null ? ABSENT : (x > 0 ? "−" : x < 0 ? "+" : "±") + Math.abs(x).toFixed(2)),
  ratio: (x) => (x === null ? ABSENT : `${x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x.toFixed(2)}×`),
  interval: (low, high) => (low === null || high === null ? "" : `${low.toFixed(2)}–${high.toFixed(2)}`),
  seconds: (x) =>
    x === 0
      ? "0 s"
      : scaled(x, [
          [3600, "\u00a0h"],
          [60, "\u00a0min"],
          [1, "\u00a0s"],
          [1e-3, "\u00a0ms"],
          [1e-6, "\u00a0µs"],
          [1e-9, "\u00a0ns"],
        ]),
  joules: (x) =>
    scaled(x, [
      [1, "\u00a0J"],
      [1e-3, "\u00a0mJ"],
      [1e-6, "\u00a0µJ"],
      [1e-9, "\u00a0nJ"],
    ]),
  count: (x) =>
    x !== null && x < 1000
      ? String(+x.toFixed(2))
      : scaled(x, [
          [1e9, "\u00a0G"],
          [1e6, "\u00a0M"],
          [1e3, "\u00a0k"],
        ]),
  bytes: (x) =>
    x !== null && x < 1000
      ? `${Math.round(x)}\u00a0B`
      : scaled(x, [
          [1e9, "\u00a0GB"],
          [1e6, "\u00a0MB"],
          [1e3, "\u00a0kB"],
        ]),
  share: (part, whole) => (whole ? `${significant((100 * part) / whole)}\u00a0%` : ABSENT),
  many: (n, one, several) => `${n.toLocaleString("en")} ${n === 1 ? one : several}`,
  short: (id) => id.slice(0, 8),
  // A figure of a cost, by its unit.
  figure(value, unit) {
    if (unit === "s") return words.seconds(value);
    if (unit === "J") return words.joules(value);
    if (unit === "B") return words.bytes(value);
    const sized = value !== null && value < 1 && value > 0 ? String(+value.toPrecision(3)) : words.count(value);
    return unit === "1"
      ? sized
      : unit === "1/s"
        ? `${sized}${/[GMk]$/.test(sized) ? "" : "\u00a0"}/s`
        : `${sized}\u00a0${unit}`;
  },
  // Its interval; the unit is said once where both ends have the same.
  range(low, high, unit) {
    const [from, to] = [words.figure(low, unit), words.figure(high, unit)];
    const [, size] = from.split("\u00a0");
    return `${to.endsWith(`\u00a0${size}`) ? from.split("\u00a0")[0] : from}–${to}`;
  },
};

function significant(x) {
  return x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x.toFixed(2);
}

function scaled(x, units) {
  if (x === null) return ABSENT;
  const [size, unit] = units.find(([size]) => x >= size) || units[units.length - 1];
  return significant(x / size) + unit;
}

// A command line that a shell reads as it is shown: whatever is not plain is quoted, what is not ASCII is escaped.
function shell(...parts) {
  return parts
    .map((part) => {
      const text = String(part);
      if (/^[A-Za-z0-9_@%+=:,./-]+$/.test(text)) return text;
      if (/^[ -~]*$/.test(text)) return `'${text.replaceAll("'", "'\\''")}'`;
      const escaped = [...text].map((c) =>
        /[ -~]/.test(c) && !"'\\".includes(c)
          ? c
          : c < "\x80"
            ? `\\${c}`
            : `\\U${c.codePointAt(0).toString(16).padStart(8, "0")}`,
      );
      return `$'${escaped.join("")}'`;
    })
    .join(" ");
}

// What a strategy's name says: the method that shapes the network, and the family of its number formats.
// `snip+int@shuffle` is the method `snip@shuffle` in `int`; a name without a + keeps fp32, unless it is itself a
// family.
const FAMILIES = ["int", "minifloat"];
function parted(strategy) {
  const [whole, ...control] = strategy.split("@");
  const at = whole.lastIndexOf("+");
  if (at > 0) return { method: [whole.slice(0, at), ...control].join("@"), family: whole.slice(at + 1) || "fp32" };
  return FAMILIES.includes(whole) ? { method: "dense", family: whole } : { method: strategy, family: "fp32" };
}
