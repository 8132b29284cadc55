"""Entries as files: what was dumped can be imported; what was changed cannot, and then nothing is."""

import os
from pathlib import Path

import pytest
from board_samples import entry
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer import Typer
from typer.testing import CliRunner

from leaderboard import LeaderboardError, Query, Store, commands, read_entries, write_entries

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
            read_entries([tmp_path / name])
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
        ((_, read),) = read_entries([file])
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
    import json

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
