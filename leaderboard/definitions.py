"""Where benchmarks are found: shipped beside this file or kept in a storage; and how the next version is made.

Definitions are added and never changed. For one workload and target key the highest version holds, wherever it stands;
of two with the same version that in the storage, by which its finalists were made.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from .benchmark import Benchmark
from .errors import LeaderboardError, quoted
from .exchange import read_files
from .replicates import arrange, on_front, points
from .store import Store

_SHIPPED = Path(__file__).parent / "benchmarks"


def shipped_benchmarks() -> list[Benchmark]:
    """Those that come with shrinkboard, by name and version."""
    found = [read_benchmark(file) for file in _SHIPPED.glob("*.json")]
    return sorted(found, key=lambda benchmark: (benchmark.name, benchmark.version))


def known_benchmarks(store: Store) -> list[Benchmark]:
    """Those in the storage and those that are shipped, by name and version; one that is in both stands once."""
    found = {benchmark.id: benchmark for benchmark in (*shipped_benchmarks(), *store.benchmarks())}
    return sorted(found.values(), key=lambda benchmark: (benchmark.name, benchmark.version))


def current_benchmark(store: Store, workload: str, key: str) -> Benchmark | None:
    """The definition that holds for a workload on a target key; None where there is none."""
    return _highest(b for b in (*shipped_benchmarks(), *store.benchmarks()) if (b.workload, b.key) == (workload, key))


def benchmark_of(store: Store, workload: str, target: str) -> Benchmark:
    """The definition that holds for a workload on a target, by its name or key; raises `LeaderboardError`.

    A name will do where only one machine's results have a benchmark, for those of different machines are never mixed.
    """
    found = [b for b in known_benchmarks(store) if b.workload == workload and target in (b.target, b.key)]
    keys = sorted({b.key for b in found})
    if len(keys) > 1:
        raise LeaderboardError(f"target {quoted(target)} has a benchmark for each of {_named(keys)}; give one of them")
    held = current_benchmark(store, workload, keys[0]) if keys else None
    if held is None:
        others = sorted({f"{b.workload} on {b.key}" for b in known_benchmarks(store)})
        known = f"there are {_named(others)}" if others else "there is none yet; run `shrinkboard finalists`"
        raise LeaderboardError(f"no benchmark for workload {quoted(workload)} on target {quoted(target)}; {known}")
    return held


def named_benchmark(store: Store, name: str) -> Benchmark:
    """The one called NAME@VERSION, or the highest version of NAME; raises `LeaderboardError`."""
    known = known_benchmarks(store)
    found = _highest(b for b in known if name in (b.name, b.id))
    if found is None:
        ids = f"there are {_named([b.id for b in known])}" if known else "there is none yet"
        raise LeaderboardError(f"no benchmark {quoted(name)}; {ids}")
    return found


def asked_benchmark(store: Store, workload: str, target: str, asked: str | None = None) -> Benchmark:
    """What `asked` means, a file or the name of a benchmark of this workload and target; None: the one that holds."""
    if asked is None:
        return benchmark_of(store, workload, target)
    found = read_benchmark(Path(asked)) if os.path.isfile(asked) else named_benchmark(store, asked)
    if found.workload != workload or target not in (found.target, found.key):
        raise LeaderboardError(
            f"benchmark {quoted(found.id)} is of {quoted(found.workload)} on {quoted(found.key)}, not of "
            f"{quoted(workload)} on {quoted(target)}"
        )
    return found


def read_benchmark(file: Path) -> Benchmark:
    """The definition in a file; raises `LeaderboardError` that names it."""
    found = read_files([file])
    if len(found.benchmarks) != 1 or found.entries:
        raise LeaderboardError(f"{quoted(str(file))}: one benchmark is expected; `import` takes entries and folders")
    return found.benchmarks[0][1]


def add_benchmark(store: Store, benchmark: Benchmark) -> Benchmark:
    """Adds a definition to a storage; one of its name and version that stands with other content refuses it."""
    if any(shipped.id == benchmark.id and shipped != benchmark for shipped in shipped_benchmarks()):
        raise LeaderboardError(
            f"benchmark {quoted(benchmark.id)} is shipped with other content; a definition is never changed, raise its "
            "version"
        )
    return store.freeze_benchmark(benchmark)


def freeze_front(store: Store, name: str, studies: Sequence[str]) -> Benchmark:
    """The next version of a benchmark, its reference front that of the finalists of pilot studies; now in the storage.

    The front is of their means over fresh seeds on the test split. A pilot's search seed may not be one that the
    benchmark ranks by, or strategies would be held against their own results: `LeaderboardError`, as where a study has
    no finalists or none that counts.
    """
    standing = named_benchmark(store, name)
    finals = store.finals(standing.workload, standing.key)
    chosen = [f for f in finals if f.role == "finalist" and f.chosen]
    there = {f.study for f in chosen}
    for study in studies:
        if study not in there:
            known = f"there are {_named(sorted(map(str, there)))}" if there else "no study has any yet"
            raise LeaderboardError(f"study {quoted(study)} has no finalists for {quoted(standing.key)}; {known}")
    own = [f for f in finals if f.study in studies]
    for f in own:
        if f.search_seed in standing.search_seeds:
            raise LeaderboardError(
                f"study {quoted(f.study)} is of search seed {f.search_seed}, which {quoted(standing.id)} ranks by; a "
                "reference front comes from pilot studies of other seeds"
            )
    seeds = sorted({f.search_seed for f in own if f.search_seed is not None})
    pilot = standing.model_copy(update={"search_seeds": tuple(seeds)})
    found = [(p.gain, p.accuracy) for p in points(pilot, arrange(pilot, own)) if p.gain is not None]
    on = on_front(pilot, found)
    if not on.any():
        raise LeaderboardError(
            f"no finalist of {_named(sorted(studies))} is faster than the dense network and accurate enough to count; "
            "a reference front needs one"
        )
    source = (
        f"finalists of pilot studies {', '.join(sorted(studies))} of search seeds {', '.join(map(str, seeds))}: the "
        f"front of {len(found)} networks in means over their fresh seeds"
    )
    versions = [b.version for b in known_benchmarks(store) if b.name == standing.name or _same_track(b, standing)]
    return add_benchmark(
        store,
        Benchmark.create(
            **{
                **standing.model_dump(),
                "version": max(versions) + 1,
                "front": sorted({point for point, kept in zip(found, on, strict=True) if kept}, reverse=True),
                "front_source": source[:2000],
            }
        ),
    )


def _highest(benchmarks: Iterable[Benchmark]) -> Benchmark | None:
    """Of equal versions the last."""
    return max(enumerate(benchmarks), key=lambda found: (found[1].version, found[0]), default=(0, None))[1]


def _same_track(a: Benchmark, b: Benchmark) -> bool:
    return (a.workload, a.key) == (b.workload, b.key)


def _named(names: Sequence[str]) -> str:
    more = "" if len(names) <= 20 else f" and {len(names) - 20} more"
    return ", ".join(quoted(name) for name in names[:20]) + more
