// What is shown, kept in the address: a link gives the same view, back and forward work.

const state = (() => {
  const number = (text) => (text.trim() !== "" && Number.isFinite(Number(text)) ? Number(text) : null);
  // Every field: its value where the address does not name it, and how its texts in the address are read.
  const text = ["", ([value]) => value];
  const list = [[], (values) => values];
  const flag = [false, ([value]) => value === "1"];
  const limit = [null, ([value]) => number(value)];
  const FIELDS = {
    workload: text,
    target: text,
    split: text,
    method: list,
    format: list,
    drop: limit,
    latency: limit,
    front: flag,
    axis: text,
    whole: flag,
    zoom: text,
    sort: text,
    page: [1, ([value]) => Math.max(1, Math.trunc(number(value) ?? 1))],
    entry: text,
    beside: text,
    strategy: text,
  };
  const heard = [];
  let now = read();

  function read() {
    const given = new URLSearchParams(location.search);
    return Object.fromEntries(
      Object.entries(FIELDS).map(([field, [absent, parse]]) => [
        field,
        given.has(field) ? parse(given.getAll(field)) : absent,
      ]),
    );
  }

  function address(change) {
    const query = new URLSearchParams();
    for (const [field, value] of Object.entries({ ...now, ...change })) {
      const absent = FIELDS[field][0];
      if (value === absent || value === null) continue;
      for (const one of Array.isArray(value) ? value : [value === true ? "1" : value]) query.append(field, one);
    }
    return query.size ? `?${query}` : location.pathname;
  }

  function set(next, written) {
    const before = now;
    if (written) history[written](null, "", address(next));
    now = written ? { ...now, ...next } : read();
    heard.forEach((listener) => listener(before));
  }

  addEventListener("popstate", () => set(null, null));

  return {
    get now() {
      return now;
    },
    address,
    // A step that the back button undoes; and a change that it does not stop at, such as typing.
    go: (change) => set(change, "pushState"),
    adjust: (change) => set(change, "replaceState"),
    listen: (listener) => heard.push(listener),
    differs: (before, ...fields) => fields.some((field) => String(before[field]) !== String(now[field])),
  };
})();
