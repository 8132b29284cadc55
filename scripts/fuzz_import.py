"""Hostile files against `shrinkboard import`: each is refused in one line and leaves no trace, or is what it says.

    python scripts/fuzz_import.py --cases 10000 --out docs/results/fuzz_import

A case is a folder with an intact entry, which is read first, and a hostile file, imported into a board that holds
something already. Hypothesis draws the files: damaged bytes, wrong values whose hash was made to fit again, doubled
fields, names that mean something to a file system, a shell, SQL or a terminal, links and pipes, and files that try to
take memory and time. Checked in every case:

- what is raised is a `LeaderboardError` of one printable line, and then every row of the board is as it was;
- what is not refused reads back as it was written, ranks, and prints;
- nothing is started, unpickled, connected to or written elsewhere (Python's audit events);
- a case takes less than `SECONDS`, and all of them less than `MEGABYTES` of memory more than an import of one file.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import pickle
import resource
import sys
import tempfile
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from leaderboard import Benchmark, Entry, LeaderboardError, Query, Store, current_benchmark, render
from leaderboard.commands import import_

SECONDS, MEGABYTES = 10.0, 1024
KEY = "cpu-onnxruntime@ab12cd34"
FORBIDDEN = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "pickle.find_class"),
    *("socket.connect", "ctypes.dlopen", "exec", "compile", "import", "os.remove", "os.rename", "os.symlink"),
)
"""Audit events that no import raises once everything is loaded."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=500, help="default 500")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument("--postgres", metavar="URL", help="an empty database to import into, instead of SQLite")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(arguments.postgres or f"sqlite:///{folder}/board.db")
        began = time.perf_counter()

        @seed(arguments.seed)
        @settings(
            max_examples=arguments.cases,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(cases())
        def hunt(case: Case) -> None:
            trial.check(case)

        hunt()
        found = trial.found() | {"wall": time.perf_counter() - began}
    text = markdown(found)
    print(text)
    if arguments.out:
        arguments.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
        arguments.out.with_suffix(".md").write_text(
            f"# Hostile imports\n\nMade by `python scripts/fuzz_import.py --cases {arguments.cases} --seed "
            f"{arguments.seed}{' --postgres URL' * bool(arguments.postgres)}`.\n\n{text}\n"
        )


# Specimens


def specimens() -> dict[str, dict[str, Any]]:
    """Intact files by name, as JSON objects: what is changed to make hostile ones."""
    searched = {
        "workload": "digits/cnn",
        "strategy": "pca_l1+int",
        "study": "fuzz",
        "trial": 3,
        "role": "candidate",
        "seed": 1,
        "plan": {"groups": {"conv1": {"keep": 0.25, "bits": 8}, "conv2": {"keep": 1.0}}, "mode": "variance"},
        "plan_digest": "ab12",
        "knobs": {"ratio": 0.5, "bits": 8},
        "epochs": 2.0,
        "accuracy": {"validation": {"top1": 0.97, "top5": 1.0}, "dense_validation": 0.98},
        "parameters": 1000,
        "macs": 20000,
        "bytes": 4000,
        "dense_parameters": 9000,
        "dense_macs": 90000,
        "costs": [
            {
                "target": "cpu-onnxruntime",
                "key": KEY,
                "kind": "measured",
                "figures": {
                    "latency": {"value": 1e-3, "unit": "s", "low": 0.9e-3, "high": 1.1e-3},
                    "energy": {"value": None, "unit": "J", "reason": "no meter"},
                },
                "speedup": {"value": 2.0, "low": 1.9, "high": 2.1},
                "executed": {"conv1": ["int8", "int8"]},
                "telemetry": {"steal": None, "calm": 0.9},
                "samples": {"candidate": [[0.001, 0.0011], [0.001]]},
                "runtime": {"runtime": "onnxruntime", "version": "1.31.1"},
            }
        ],
        "training": {"epochs": 2.0, "seconds": 3.5, "images": 2000, "dense_epochs": 10.0, "dense_seconds": 12.0},
        "environment": {
            **{"python": "3.11.7", "torch": "2.13.0", "onnxruntime": None, "shrinkboard": "0.1"},
            **{"platform": "Linux x86_64", "cpu": "a processor"},
        },
        "dense_digest": "cd34",
        "method": {"summary": "Channels by PCA", "source": "a paper, section 3"},
        "weights": "ef" * 32,
        "evaluation_seconds": 4.0,
        "created": "2026-11-22T03:08:21Z",
    }
    tested = {
        **{"role": "finalist", "trial": 4, "seed": 101},
        "accuracy": {**searched["accuracy"], "test": {"top1": 0.95}, "dense_test": 0.96},  # type: ignore[dict-item]
        "origin": {"entry": "ab" * 8, "study": "first", "trial": 7, "seed": 1, "targets": [KEY]},
    }
    old = {name: value for name, value in searched.items() if name not in ("method", "weights", "evaluation_seconds")}
    made = {
        "candidate": Entry.create(**searched),
        "finalist": Entry.create(**searched | tested),
        "old": Entry.create(**old | {"schema_version": 2, "trial": 5}),
        "benchmark": Benchmark.create(
            **{"name": "digits-cnn-cpu", "version": 2, "workload": "digits/cnn", "target": "cpu-onnxruntime"},
            **{"key": KEY, "track": "measured", "reference_latency": 1e-3, "dense_accuracy": 0.96, "dense_seeds": [1]},
            **{"cap": 8.0, "trials": 20, "epochs": 2.0, "training_epochs": 10.0, "search_seeds": [1]},
            **{"final_seeds": 5, "front": [[2.0, 0.95]], "front_source": "a paper"},
        ),
    }
    return {name: json.loads(one.to_json()) for name, one in made.items()}


SPECIMENS = specimens()


def text_of(data: Any) -> str:
    return json.dumps(data)


def fitted(data: dict[str, Any]) -> dict[str, Any]:
    """With the id that its content hashes to, valid or not, so that it is not the hash that refuses it."""
    content = {name: value for name, value in data.items() if name not in ("id", "created")}
    with contextlib.suppress(LeaderboardError):  # defaults are part of what is hashed
        return {"id": Entry.create(**content).id} | {name: value for name, value in data.items() if name != "id"}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return {**data, "id": hashlib.sha256(canonical.encode()).hexdigest()[:16]}


# Hostile files


@dataclass(frozen=True)
class Case:
    """A hostile file: `put` makes it below a folder, whose intact file is read before it."""

    kind: str
    put: Callable[[Path], None]
    note: str

    def __repr__(self) -> str:
        return f"{self.kind}: {self.note[:2000]}"


def file_of(kind: str, content: bytes | str, name: str = "hostile.json") -> Case:
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return Case(kind, lambda folder: void((folder / name).write_bytes(data)), f"{name!r} {data!r}")


def void(_: object) -> None: ...


WORDS = (
    *("../../../../etc/passwd", "/dev/zero", "C:\\Windows\\system32", "file:///etc/passwd", "~root", "con.json", "."),
    *("'); DROP TABLE sb_entries; --", '" OR 1=1 --', "$(touch pwned)", "`id`", "| id", "; rm -rf .", "-rf", "%s%n%x"),
    *("=cmd|' /C calc'!A0", "@SUM(1)", "<script>alert(1)</script>", "</script>", "javascript:alert(1)", "[red]x[/red]"),
    *("{0.__class__}", "{{7*7}}", "${jndi:ldap://x}", "__import__('os').system('id')", "!!python/object:os.system"),
    *(
        "\u202egnp.exe",
        "a\u200bb",
        "e\u0301",
        "\ufeffx",
        "ａｄｍｉｎ",
        "а",
        "\U0001f4a9",
        "\ufffe",
        "\U0010ffff",
        "ﷺ" * 50,
    ),
    *("\x00", "\x1b[2J", "\x1b]0;x\x07", "\r\nSet-Cookie: x", "a\nb", "\u2028", "\u2029", "\x85", "\ud800", "\udfff"),
    *("", " ", "x" * 200, "x" * 201, "x" * 100_000, "null", "NaN", "true", "0", "1e999", "constructor", "__proto__"),
)
FRAGMENTS = (
    *('"', "{", "}", "[", "]", ":", ",", "\\", "\\u0000", "\\ud800", "NaN", "-Infinity", "1e999", "-1", "null", "true"),
    *(
        "9" * 400,
        "9" * 5000,
        "1e-400",
        "0x10",
        "01",
        "/**/",
        "'",
        "\ufeff",
        "\x00",
        "\ud800",
        "[" * 2000,
        '{"a":' * 500,
    ),
)
numbers = (
    st.integers()
    | st.floats()
    | st.sampled_from(
        [-1, 0, -0.0, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63), 10**18, 10**400, 1e308, 5e-324, 1.0000001, True]
    )
)
leaves = st.none() | st.booleans() | numbers | st.sampled_from(WORDS) | st.text(max_size=20)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
) | st.integers(1, 400).map(lambda depth: nested(depth))


def nested(depth: int) -> Any:
    value: Any = 0
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def places(data: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything inside."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for name, value in items:
        yield (*at, name)
        yield from places(value, (*at, name))


PLACES = {name: list(places(data)) for name, data in SPECIMENS.items()}


def copied(data: Any) -> Any:
    return json.loads(json.dumps(data))


def parent(data: Any, place: tuple[Any, ...]) -> Any:
    for part in place[:-1]:
        data = data[part]
    return data


@st.composite
def damaged_bytes(draw: st.DrawFn) -> Case:
    data = bytearray(text_of(SPECIMENS[draw(st.sampled_from(sorted(SPECIMENS)))]).encode())
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        how = draw(st.sampled_from(["flip", "cut", "remove", "insert", "double"]))
        if how == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "cut":
            del data[at:]
        elif how == "remove":
            del data[at : at + draw(st.integers(1, 40))]
        elif how == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        else:
            data[at:at] = data[at : at + 100]
    return file_of("damaged bytes", bytes(data))


@st.composite
def damaged_text(draw: st.DrawFn) -> Case:
    text = text_of(SPECIMENS[draw(st.sampled_from(sorted(SPECIMENS)))])
    for _ in range(draw(st.integers(1, 3))):
        at, removed = draw(st.integers(0, len(text))), draw(st.integers(0, 12))
        text = text[:at] + draw(st.sampled_from(FRAGMENTS)) + text[at + removed :]
    return file_of("damaged text", text)


@st.composite
def wrong_values(draw: st.DrawFn) -> Case:
    name = draw(st.sampled_from(sorted(SPECIMENS)))
    data = copied(SPECIMENS[name])
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from([one for one in PLACES[name] if one != ("id",)]))
        with contextlib.suppress(KeyError, IndexError, TypeError):  # gone with an earlier change
            parent(data, place)[place[-1]] = draw(values)
    return file_of("wrong values, hash made to fit", text_of(fit(name, data)))


@st.composite
def odd_words(draw: st.DrawFn) -> Case:
    name = draw(st.sampled_from(sorted(SPECIMENS)))
    data = copied(SPECIMENS[name])
    texts = [place for place in PLACES[name] if isinstance(parent(data, place)[place[-1]], str) and place != ("id",)]
    for place in draw(st.lists(st.sampled_from(texts), min_size=1, max_size=4)):
        word = draw(st.sampled_from(WORDS) | st.text(min_size=1, max_size=30))
        if place[-1] == "target" and draw(st.booleans()):
            parent(data, place)["key"] = word
        parent(data, place)[place[-1]] = word
    return file_of("odd names, hash made to fit", text_of(fit(name, data)))


@st.composite
def odd_fields(draw: st.DrawFn) -> Case:
    name = draw(st.sampled_from(sorted(SPECIMENS)))
    data = copied(SPECIMENS[name])
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(PLACES[name]))
        with contextlib.suppress(AttributeError, KeyError, IndexError, TypeError):
            holder = parent(data, place)
            how = draw(st.sampled_from(["remove", "rename", "add", "swap"]))
            if how in ("remove", "rename"):
                value = holder.pop(place[-1])
                if how == "rename":
                    holder[draw(st.sampled_from(WORDS))] = value
            elif how == "add":
                holder[draw(st.sampled_from(WORDS))] = draw(values)
            else:
                other = draw(st.sampled_from(list(holder)))
                holder[other], holder[place[-1]] = holder[place[-1]], holder[other]
    return file_of("fields missing, added, swapped, hash made to fit", text_of(fit(name, data)))


def fit(name: str, data: Any) -> Any:
    return data if name == "benchmark" or not isinstance(data, dict) else fitted(data)


@st.composite
def doubled_fields(draw: st.DrawFn) -> Case:
    name = draw(st.sampled_from(sorted(SPECIMENS)))
    place = draw(st.sampled_from([one for one in PLACES[name] if isinstance(one[-1], str)]))
    data = copied(SPECIMENS[name])
    holder = parent(data, place)
    again = draw(leaves) if draw(st.booleans()) else holder[place[-1]]
    holder["\0doubled"] = again
    return file_of("doubled fields", text_of(data).replace(json.dumps("\0doubled"), json.dumps(place[-1])))


@st.composite
def conflicts(draw: st.DrawFn) -> Case:
    """Valid files that contradict the board or the file beside them."""
    name = draw(st.sampled_from(sorted(SPECIMENS)))
    data = copied(SPECIMENS[name])
    if name == "benchmark":
        data |= {"version": 1, "trials": draw(st.integers(1, 1000))}
    elif draw(st.booleans()):
        data |= {"study": draw(st.sampled_from(["fuzz", "there"])), "strategy": "pca_l1+int", "trial": 0}
        data["parameters"] = draw(st.integers(0, 10**6))
    else:
        data["costs"][0]["kind"] = "modelled"
    return file_of("contradictions", text_of(fit(name, data)))


@st.composite
def bombs(draw: st.DrawFn) -> Case:
    """What takes memory and time where it is not stopped early."""
    data = copied(SPECIMENS["candidate"])
    size = draw(st.sampled_from([1_000, 50_000, 99_000, 1_000_000]))
    raw, where = draw(
        st.sampled_from(
            [
                ("[" + ",".join(["[]"] * size) + "]", ("costs", 0, "samples", "candidate")),
                ("[[" + ",".join(["1"] * size) + "]]", ("costs", 0, "samples", "candidate")),
                ("[[" + ",".join(['"x"'] * size) + "]]", ("costs", 0, "samples", "candidate")),
                ("{" + ",".join(f'"{i}":1' for i in range(size)) + "}", ("costs", 0, "figures")),
                ("{" + ",".join(f'"{i}":0' for i in range(size)) + "}", ("plan",)),
                ("{" + ",".join(f'"{i}":0' for i in range(size)) + ',"9":0}', ("plan",)),
                ("[" + ",".join(["{}"] * size) + "]", ("costs",)),
                ("[" * size + "]" * size, ("plan",)),
                ('{"a":' * size + "1" + "}" * size, ("plan",)),
                ('"' + "a" * 10 * size + '"', ("workload",)),
                ('"' + "\\u0000" * size + '"', ("strategy",)),
                ("9" * size, ("seed",)),
                ("1e" + "9" * size, ("epochs",)),
                (" " * 10 * size + "1", ("seed",)),
            ]
        )
    )
    parent(data, where)[where[-1]] = "@@"
    return file_of("bombs", text_of(data).replace('"@@"', raw))


@st.composite
def odd_files(draw: st.DrawFn) -> Case:
    """Not regular files, or not with a regular name."""
    intact = text_of(SPECIMENS["candidate"])
    how = draw(
        st.sampled_from(["link", "dangling", "loop", "zero", "pipe", "folder", "sparse", "empty", "foreign", "name"])
    )
    if how == "foreign":
        content = draw(
            st.sampled_from(
                [
                    *(pickle.dumps(Bomb()), zlib.compress(intact.encode()), b"SQLite format 3\x00" + bytes(100)),
                    *(intact.encode("utf-16"), b"\xef\xbb\xbf" + intact.encode(), intact.encode() * 2),
                    *(b"<html></html>", b"- !!python/object/apply:os.system [id]", b"\x7fELF", b"\x89PNG\r\n\x1a\n"),
                ]
            )
        )
        return file_of("odd files", content)
    if how == "name":
        name = draw(
            st.sampled_from(
                [
                    *("z\n.json", "z\x1b[2J.json", "z\u202e.json", "z%00.json", "z " * 100 + ".json", "z'\".json"),
                    *("z$(touch pwned).json", "z;id.json", os.fsdecode(b"z\xff\xfe.json"), "-z.json", "z=1.json"),
                ]
            )
        )
        return file_of("odd files", draw(st.sampled_from(["{}", "[", intact.replace("0.97", "0.99")])), name)

    def put(folder: Path) -> None:
        file = folder / "hostile.json"
        if how == "link":
            (folder / "other.txt").write_text(intact)
            file.symlink_to(folder / "other.txt")
        elif how == "dangling":
            file.symlink_to(folder / "nowhere")
        elif how == "loop":
            file.symlink_to(file)
        elif how == "zero":
            file.symlink_to("/dev/zero")
        elif how == "pipe":
            os.mkfifo(file)
        elif how == "folder":
            file.mkdir()
        else:
            with file.open("wb") as opened:
                opened.truncate(10**12 if how == "sparse" else 0)

    return Case("odd files", put, how)


class Bomb:
    """Unpickling it would make a file."""

    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


def cases() -> st.SearchStrategy[Case]:
    """Hostile files of every kind."""
    kinds = (
        *(damaged_bytes(), damaged_text(), wrong_values(), odd_words(), odd_fields(), doubled_fields()),
        *(conflicts(), odd_files(), bombs()),
    )
    # Half of all are of the kind that gets furthest: nothing is wrong but the content.
    return st.one_of(*kinds, wrong_values(), odd_words(), wrong_values(), odd_words(), odd_fields())


# The trial


class Broken(AssertionError):
    """What must not happen."""


class Trial:
    """A board with something in it, into which cases are imported one after the other."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._engine = sa.create_engine(url)
        candidate = SPECIMENS["candidate"]
        self._there = [Entry.from_fields(fitted(candidate | {"study": "there", "trial": trial})) for trial in range(2)]
        self._beside = text_of(fitted(candidate | {"study": "beside"}))
        self._benchmark = Benchmark.create(**SPECIMENS["benchmark"] | {"version": 1})
        with Store(url) as store:
            store.add_many(self._there, benchmarks=[self._benchmark])
        self._before = self._content()
        self._events: list[str] = []
        self._listening = False
        sys.addaudithook(self._heard)
        self.refused: Counter[str] = Counter()
        self.taken: Counter[str] = Counter()
        self.seconds: dict[str, float] = defaultdict(float)
        self._warm_up()
        self._memory = peak()

    def _warm_up(self) -> None:
        """Imports of every specimen, as it is and refused, so that whatever is loaded on first use is there."""
        for data in SPECIMENS.values():
            for one in (data, data | {"epochs": "x"}, {}):
                with tempfile.TemporaryDirectory() as folder:
                    file_of("first", text_of(one)).put(Path(folder))
                    self._import(Path(folder))
        self._reset()

    def check(self, case: Case) -> None:
        """Raises `Broken` where an obligation is."""
        try:
            self._check(case)
        except BaseException:
            self._reset()  # for the next case
            raise

    def _check(self, case: Case) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "a.json").write_text(self._beside)
            try:
                case.put(folder)
            except (OSError, ValueError):  # a name or file that this system cannot have
                return
            before = sorted(path.name for path in folder.iterdir())
            message, seconds = self._import(folder)
            if sorted(path.name for path in folder.iterdir()) != before or Path("pwned").exists():
                raise Broken(f"files appeared: {case}")
        self.seconds[case.kind] = max(self.seconds[case.kind], seconds)
        if self._events:
            raise Broken(f"{self._events}: {case}")
        if seconds > SECONDS:
            raise Broken(f"{seconds:.1f} s: {case}")
        if message is None:
            self.taken[case.kind] += 1
            self._read_back(case)
            self._reset()
        else:
            self.refused[case.kind] += 1
            if not message or not message.isprintable() or len(message) > 600:
                raise Broken(f"message {message!r}: {case}")
        if self._content() != self._before:
            raise Broken(f"the board changed: {case}")

    def found(self) -> dict[str, Any]:
        """What came of all cases; raises `Broken` where they took too much memory."""
        grown = peak() - self._memory
        if grown > MEGABYTES:
            raise Broken(f"{grown:.0f} MB")
        kinds = sorted({*self.refused, *self.taken})
        return {
            "kinds": {
                kind: {
                    "cases": self.refused[kind] + self.taken[kind],
                    "refused": self.refused[kind],
                    "longest": self.seconds[kind],
                }
                for kind in kinds
            },
            "megabytes": grown,
        }

    def _import(self, folder: Path) -> tuple[str | None, float]:
        """The message of the refusal, None where there was none, and seconds of processor time."""
        self._events.clear()
        began = time.process_time()
        self._listening = True
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                import_([folder], check=False, schema=None, storage=self._url)
        except LeaderboardError as error:
            return str(error), time.process_time() - began
        finally:
            self._listening = False
        return None, time.process_time() - began

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._listening:
            return
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if event in FORBIDDEN or writes:
            self._events.append(f"{event} {arguments!r}"[:200])

    def _read_back(self, case: Case) -> None:
        """What was taken is whole: as written, ranked, and fit to print."""
        known = {entry.id for entry in self._there} | {data.get("id") for data in SPECIMENS.values()}
        with Store(self._url, create=False) as store:
            for entry in store.entries():
                if case.kind in ("damaged bytes", "damaged text", "doubled fields") and (
                    entry.study != "beside" and entry.id not in known
                ):
                    raise Broken(f"a damaged entry was taken: {case}")
                if Entry.from_json(entry.to_json()) != entry:
                    raise Broken(f"reads back as another: {case}")
                if not fit_to_print(printed(render.entry_table(entry))):
                    raise Broken(f"shows control characters: {case}")
            for finals in (False, True):
                board = store.query(Query(finals=finals))
                for track in board.tracks:
                    store.finals(track.workload, track.key)
                    store.searched(track.workload, track.key, ["fuzz"])
                    current_benchmark(store, track.workload, track.key)
                json.loads(render.to_json(board))
                for text in (render.to_csv(board), render.to_markdown(board), printed(render.to_table(board))):
                    if not fit_to_print(text):
                        raise Broken(f"prints control characters: {case}")
                board.to_arrow()

    def _content(self) -> list[Any]:
        """Every row of every table of ours."""
        with self._engine.connect() as connection:
            names = sorted(name for name in sa.inspect(connection).get_table_names() if name.startswith("sb_"))
            return [
                (name, sorted(map(tuple, connection.exec_driver_sql(f"SELECT * FROM {name}").all()), key=repr))
                for name in names
            ]

    def _reset(self) -> None:
        """Takes out again what a case put in."""
        kept = tuple(entry.id for entry in self._there)
        with self._engine.begin() as connection:
            for table, column in (("sb_costs", "entry"), ("sb_finals", "entry"), ("sb_entries", "id")):
                connection.exec_driver_sql(f"DELETE FROM {table} WHERE {column} NOT IN {kept}")
            connection.exec_driver_sql("DELETE FROM sb_tracks WHERE id NOT IN (SELECT track FROM sb_costs)")
            connection.exec_driver_sql("DELETE FROM sb_benchmarks WHERE version <> 1 OR name <> 'digits-cnn-cpu'")


def printed(renderable: RenderableType) -> str:
    out = io.StringIO()
    Console(file=out, width=100, markup=False, highlight=False).print(renderable)
    return out.getvalue()


def fit_to_print(text: str) -> bool:
    """Whether it holds no control characters but line feeds, no other line breaks, and no lone surrogates."""
    refused = {*map(chr, range(32)), *map(chr, range(127, 160)), "\u2028", "\u2029"} - {"\n"}
    return refused.isdisjoint(text) and text == text.encode("utf-8", "replace").decode()


def peak() -> float:
    """Of this process's memory, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e3 if sys.platform == "linux" else 1e6)


def markdown(found: dict[str, Any]) -> str:
    kinds = found["kinds"]
    lines = [
        f"{sum(row['cases'] for row in kinds.values()):,} files against `shrinkboard import`, each beside an intact "
        "one, into a board that holds entries. Every refusal was one printable line and left every row as it was, the "
        "intact file's too; what was taken reads back as written, ranks and prints (a change that is valid, such as "
        "another number in a plan, with the hash made anew). Nothing was started, unpickled, connected to or written "
        f"elsewhere. Memory grew by {found['megabytes']:.0f} MB at most; all took {found['wall'] / 60:.1f} minutes.",
        "",
        "| kind | files | refused | taken | longest, s of processor time |",
        "|---|---:|---:|---:|---:|",
    ]
    for kind, row in kinds.items():
        lines.append(
            f"| {kind} | {row['cases']:,} | {row['refused']:,} | {row['cases'] - row['refused']:,} "
            f"| {row['longest']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
