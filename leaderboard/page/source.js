// Where the data comes from: a report holds it, a served page asks for it. Both give the API's own answers.

const source = (() => {
  const held = JSON.parse(byId("data").textContent);

  // Columns become rows, with what the page derives from them.
  function track(answer) {
    const columns = Object.entries(answer.rows);
    const rows = answer.rows.id.map((_, i) => {
      const row = Object.fromEntries(columns.map(([column, values]) => [column, values[i]]));
      return Object.assign(row, parted(row.strategy), {
        size: row.parameters ? row.dense_parameters / row.parameters : null,
      });
    });
    return { ...answer, rows, sorted: sorter(rows) };
  }

  // The rows by a column, absent figures last and equals by accuracy; every order is made once, for filters keep it.
  function sorter(rows) {
    const orders = new Map();
    return (column, down) => {
      const key = `${down ? "-" : ""}${column}`;
      if (!orders.has(key)) {
        const sign = down ? -1 : 1;
        orders.set(
          key,
          [...rows].sort((a, b) => {
            const u = a[column],
              v = b[column];
            if (u === v) return b.accuracy - a.accuracy;
            if (u === null || v === null) return u === null ? 1 : -1;
            return u < v ? -sign : sign;
          }),
        );
      }
      return orders.get(key);
    };
  }

  if (held) {
    const at = (answer, workload, key) => answer.workload === workload && answer.key === key;
    const found = (answers, fits) => answers.find(fits) ?? null;
    return {
      written: held.written,
      tracks: async () => held.tracks,
      board: async (workload, key, finals) => {
        const answer = found(held.boards, (one) => at(one, workload, key) && one.finals === finals);
        return answer && track(answer);
      },
      entry: async (id) => (Object.hasOwn(held.entries, id) ? held.entries[id].entry : null),
      ranking: async (workload, key) => found(held.rankings, (one) => at(one, workload, key))?.ranking ?? null,
      strategy: async (workload, key, strategy) =>
        found(held.strategies, (one) => at(one, workload, key) && one.name === strategy),
    };
  }

  async function ask(path, parameters) {
    const response = await fetch(`/api/${path}?${new URLSearchParams(parameters)}`);
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error);
    return answer;
  }
  const entries = new Map();
  return {
    written: null,
    tracks: async () => (await ask("tracks", {})).tracks,
    board: async (workload, target, finals) => {
      const { tracks } = await ask("board", { workload, target, finals, limit: 20000 });
      return tracks.length ? track(tracks[0]) : null;
    },
    entry: async (id) => {
      if (!entries.has(id)) entries.set(id, (await ask(`entries/${encodeURIComponent(id)}`, {})).entry);
      return entries.get(id);
    },
    ranking: async (workload, target) => (await ask("ranking", { workload, target })).ranking,
    strategy: async (workload, target, strategy) =>
      (await ask("strategies", { workload, target, strategy })).strategies[0] ?? null,
  };
})();
