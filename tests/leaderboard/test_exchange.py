"""Entries as files: what was dumped can be imported; what was changed cannot, and then nothing is."""

import json
import os
from pathlib import Path

import pytest
from board_samples import benchmark, cost, entry
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from typer import Typer
from typer.testing import CliRunner

from leaderboard import Entry, LeaderboardError, Query, Store, commands, read_files, write_entries

app = Typer(pretty_exceptions_enable=False)
app.command("leaderboard")(commands.leaderboard)
app.command("show")(commands.show)
app.command("dump")(commands.dump)
app.command("import")(commands.import_)
app.command("report")(commands.report)


def run(*arguments: str) -> str:
    """Output of the command; its error is raised."""
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None:
        raise result.exception
    return result.output


def refused(*arguments: str) -> str:
    with pytest.raises(LeaderboardError) as caught:
        run(*arguments)
    message = str(caught.value)
    assert "\n" not in message and message.isprintable()
    return message


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "entries"
    assert write_entries([entry(trial=trial) for trial in range(3)], made) == 3
    return made


def test_dump_then_import_elsewhere(folder: Path, tmp_path: Path) -> None:
    first, second = f"sqlite:///{tmp_path}/a.db", f"sqlite:///{tmp_path}/b.db"
    assert "3 entries imported, 0 were already there" in run("import", str(folder), "--storage", first)
    assert "0 entries imported, 3 were already there" in run("import", str(folder), str(folder), "--storage", first)
    assert "3 entries" in run("dump", "--out", str(tmp_path / "again"), "--storage", first)
    files = sorted((tmp_path / "again").iterdir())
    assert [file.name for file in files] == sorted(f"{entry(trial=trial).id}.json" for trial in range(3))
    assert [file.read_bytes() for file in files] == [(folder / file.name).read_bytes() for file in files]
    run("import", str(files[0]), "--storage", second)
    with Store(second, create=False) as store:
        assert len(list(store.entries())) == 1


def test_benchmarks_go_along(folder: Path, tmp_path: Path) -> None:
    first, second = str(tmp_path / "a.db"), str(tmp_path / "b.db")
    hostile = benchmark(name="../../etc/passwd")
    with Store(first) as store:
        store.freeze_benchmark(benchmark())
        store.freeze_benchmark(hostile)
    assert "3 entries and 2 benchmarks checked, all valid" in run(
        *("import", "--check", str(folder), str(dumped(first, tmp_path / "benchmarks")))
    )
    assert "the storage holds the 2 benchmarks" in run(
        *("import", str(folder), str(tmp_path / "benchmarks"), "--storage", second)
    )
    with Store(second) as store:
        assert store.benchmarks() == [hostile, benchmark()]
    files = sorted(dumped(second, tmp_path / "again").iterdir())
    assert [file.name for file in files if "@" in file.name] == [
        "..%2F..%2Fetc%2Fpasswd@1.json",
        "digits-cnn-cpu@1.json",
    ]
    assert len(files) == 5
    # One that stands with other content stops all, entries too.
    (tmp_path / "again" / "digits-cnn-cpu@1.json").write_text(benchmark(trials=21).to_json())
    (tmp_path / "again" / "new.json").write_text(entry(trial=9).to_json())
    assert "stands with other content" in refused("import", str(tmp_path / "again"), "--storage", second)
    with Store(second) as store:
        assert len(list(store.entries())) == 3


def dumped(storage: str, folder: Path) -> Path:
    run("dump", "--out", str(folder), "--storage", storage)
    return folder


def test_a_check_finds_what_an_import_would_and_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "3 entries checked, all valid" in run("import", "--check", str(folder))
    (folder / "other.json").write_text(entry(trial=9, costs=[cost(kind="modelled")]).to_json())
    assert "other.json: target key" in refused("import", "--check", str(folder))
    (folder / "other.json").write_text(benchmark(version=2).to_json().replace('"cap": 8.0', '"cap": 1.0'))
    assert "other.json': benchmark: cap is 1.0" in refused("import", "--check", str(folder))
    assert "give files" in refused("import", "--check")
    assert [path.name for path in tmp_path.iterdir()] == ["entries"]


def test_a_link_in_a_folder_is_not_followed(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text('{"password": "hunter2"}')
    (folder / "zz.json").symlink_to(secret)
    assert "symbolic link" in refused("import", "--check", str(folder))
    (folder / "zz.json").unlink()
    (folder / "sub").symlink_to(tmp_path)
    assert "3 entries" in run("import", "--check", str(folder))


OLD = sorted((Path(__file__).parent / "old_entries").rglob("*.json"))


@pytest.mark.parametrize("file", OLD, ids=lambda file: file.parent.name)
def test_entries_of_older_schemas_are_read_as_they_were_written(file: Path, store: Store) -> None:
    schema = int(file.parent.name.removeprefix("schema_"))
    ((_, old),) = read_files([file]).entries
    assert (old.schema_version, old.id) == (schema, file.stem)
    assert old.to_json() == file.read_text()
    # What later schemas added is absent, and every question has its answer all the same.
    assert (old.final, old.origin, old.method, old.evaluation_seconds) == (False, None, None, None)
    cpu, fpga = old.costs
    assert old.ranking_accuracy(cpu) == old.validation_accuracy(cpu) == 0.95
    assert old.ranking_accuracy(fpga) == 0.97 and old.dense_accuracy == 0.98
    assert old.training.total_seconds == (15.5 if schema == 1 else 3.5)
    assert store.add(old) and not store.add(Entry.from_json(file.read_text()))
    assert store.get(old.id) == old
    (row,) = store.query(Query(target="cpu-onnxruntime")).rows
    assert (row.id, row.accuracy, row.speedup, row.front) == (old.id, 0.95, 4.0, True)
    assert [one.trial for one in store.searched("digits/cnn", "fpga-zcu104", ["first"])] == [1]
    changed = file.read_text().replace('"seed": 1', '"seed": 2')
    with pytest.raises(LeaderboardError, match="it was changed"):
        Entry.from_json(changed)


def test_there_are_entries_of_every_older_schema() -> None:
    assert [file.parent.name for file in OLD] == ["schema_1", "schema_2", "schema_3"]


@pytest.mark.parametrize("what", ["entry", "benchmark"])
def test_the_published_schema_is_current_and_fits(what: str, folder: Path) -> None:
    published = Path(__file__).parents[2] / "docs" / f"{what}.schema.json"
    assert run("import", "--schema", what) == published.read_text(), f"shrinkboard import --schema {what} > {published}"
    schema = json.loads(published.read_text())
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    texts = [benchmark().to_json()]
    if what == "entry":
        texts = [file.read_text() for file in (*OLD, *folder.iterdir())]
    for text in texts:
        validator.validate(json.loads(text))
        without = {name: value for name, value in json.loads(text).items() if name != "workload"}
        for wrong in (without, json.loads(text) | {"host": "x"}, json.loads(text) | {"schema_version": 9}):
            assert not validator.is_valid(wrong)


def test_one_bad_file_stops_all(folder: Path, tmp_path: Path) -> None:
    bad = folder / "zz.json"
    storage = str(tmp_path / "a.db")
    for content in (b"", b"{}", b"\xff\xfe", b"[" * 10_000, entry().to_json().replace("0.97", "0.99").encode()):
        bad.write_bytes(content)
        assert "zz.json" in refused("import", str(folder), "--storage", storage)
        assert not Path(storage).exists()
    bad.write_text(entry(seed=99).to_json())
    assert "same study, strategy and trial" in refused("import", str(folder), "--storage", storage)
    bad.unlink()
    with Store(storage) as store:
        store.add(entry(trial=2, seed=99))
    assert f"{entry(trial=2).id}.json" in refused("import", str(folder), "--storage", storage)
    with Store(storage) as store:
        assert len(list(store.entries())) == 1


def test_paths_that_are_no_entry(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "large.json").write_bytes(b" " * 16_000_001)
    (tmp_path / "empty").mkdir()
    for name in ("pipe.json", "large.json", "empty", "missing.json", "x" * 300):
        with pytest.raises(LeaderboardError) as caught:
            read_files([tmp_path / name])
        assert "\n" not in str(caught.value)
    with pytest.raises(LeaderboardError, match="cannot be written"):
        write_entries([entry()], tmp_path / "large.json")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=60), at=st.integers(0, 2000))
def test_damaged_files(folder: Path, data: bytes, at: int) -> None:
    intact = entry().to_json().encode()
    file = folder / "damaged.json"
    file.write_bytes(intact[:at] + data + intact[at + len(data) :])
    try:
        ((_, read),) = read_files([file]).entries
    except LeaderboardError as error:
        assert "\n" not in str(error) and "damaged.json" in str(error)
    else:
        assert read.id == entry().id


@pytest.fixture
def storage(folder: Path, tmp_path: Path) -> str:
    url = str(tmp_path / "board.db")
    run("import", str(folder), "--storage", url)
    return url


def test_the_board_in_every_format(storage: str) -> None:
    import csv

    arguments = [
        "leaderboard",
        "--workload",
        "digits/cnn",
        "--max-drop",
        "1.0",
        "--max-latency",
        "2ms",
        "--storage",
        storage,
    ]
    table = run(*arguments)
    assert "pca_l1+int" in table and "2.00× [1.94, 2.06]" in table and "97.00" in table
    assert all(len(line.rstrip()) <= 100 for line in table.splitlines())
    rows = json.loads(run(*arguments, "--format", "json"))
    assert [row["trial"] for row in sorted(rows, key=lambda row: row["trial"])] == [0, 1, 2]
    lines = list(csv.DictReader(run(*arguments, "--format", "csv").splitlines()))
    assert [line["id"] for line in lines] == [row["id"] for row in rows]
    assert lines[0]["energy"] == ""
    markdown = run(*arguments, "--format", "markdown")
    assert markdown.startswith("### digits/cnn on cpu-onnxruntime@ab12cd34, measured") and markdown.count("\n| ") == 4
    assert "No entry matches" in run("leaderboard", "--where", "macs < 1", "--storage", storage)
    assert json.loads(run("leaderboard", "--where", "macs < 1", "--format", "json", "--storage", storage)) == []


def test_show(storage: str) -> None:
    one = entry(trial=1)
    shown = run("show", one.id[:10], "--storage", storage)
    for expected in (one.id, "conv1", "int8/int8", "no meter", "2.00× [1.94, 2.06]", "variance", "█████", "some CPU"):
        assert expected in shown
    assert run("show", one.id, "--format", "json", "--storage", storage).rstrip("\n") == _stored(
        storage, one.id
    ).rstrip("\n")


def _stored(storage: str, id: str) -> str:
    with Store(storage, create=False) as store:
        return store.get(id).to_json()


def test_report_and_storage_from_the_environment(storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHRINKBOARD_STORAGE", storage)
    out = tmp_path / "board.html"
    assert str(out) in run("report", "--out", str(out)).replace("\n", "")
    assert "digits/cnn" in out.read_text()


def test_bad_arguments_are_one_line(storage: str, tmp_path: Path) -> None:
    with_storage = ["--storage", storage]
    for arguments in (
        ["leaderboard", "--workload", "nothing"],
        ["leaderboard", "--target", "nothing"],
        ["leaderboard", "--max-latency", "2"],
        ["leaderboard", "--where", "import os"],
        ["leaderboard", "--sort", "beauty"],
        ["leaderboard", "--limit", "0"],
        ["leaderboard", "--max-drop", "nan"],
        ["show", "zzzz"],
        ["report", "--out", str(tmp_path)],
        ["dump", "--out", storage],
    ):
        refused(*arguments, *with_storage)
    for command in (["leaderboard"], ["show", "abcd"], ["dump"], ["report"]):
        assert "does not exist" in refused(*command, "--storage", str(tmp_path / "none.db"))


def test_hostile_names_in_text_formats(store: Store) -> None:
    from io import StringIO

    from rich.console import Console

    from leaderboard import render

    names = ["=HYPERLINK(1)", "a|b", "[red]x[/red]", "<b>", "`x`", "[link](javascript:1)"]
    store.add_many(entry(trial=trial, strategy=text) for trial, text in enumerate(names))
    board = store.query(Query())
    assert "'=HYPERLINK(1)" in render.to_csv(board)
    markdown = render.to_markdown(board)
    assert "<b>" not in markdown and "[link](" not in markdown and r"a\|b" in markdown
    out = StringIO()
    Console(file=out, width=100, force_terminal=False).print(render.to_table(board))
    assert "[red]x[/red]" in out.getvalue()


@pytest.mark.parametrize("command", ["leaderboard", "show", "dump", "import", "report"])
def test_help_ends_with_an_example(command: str) -> None:
    assert f"Example: shrinkboard {command}" in run(command, "--help")
