"""`targets`, `targets check` and `doctor` as the command runs them."""

import json

import pytest
import typer
from typer.testing import CliRunner

from cost_models import ContractViolation, Counts, commands, registry
from workloads import InputError

app = typer.Typer()
app.add_typer(commands.targets_app, name="targets")
app.command()(commands.doctor)


class Broken(Counts):
    name = "broken"
    objective = "latency"


def run(*arguments, catch=True):
    return CliRunner().invoke(app, list(arguments), catch_exceptions=catch)


def test_targets_as_a_table_and_as_json():
    assert "cpu-onnxruntime" in run("targets").output
    rows = json.loads(run("targets", "--format", "json").output)
    assert {row["target"] for row in rows} == set(registry.target_names())
    assert all(row["kind"] in ("measured", "modelled") and row["figures"] for row in rows)


def test_a_plug_in_that_does_not_load_is_listed_as_broken(monkeypatch):
    from importlib.metadata import EntryPoint

    monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint("odd", "no_such_module:Target", group)])
    rows = {row["target"]: row for row in json.loads(run("targets", "--format", "json").output)}
    assert rows["odd"]["kind"] is None and "no_such_module" in rows["odd"]["summary"]


def test_check_says_what_is_kept_and_raises_what_is_not(monkeypatch):
    assert "keeps its contract" in run("targets", "check", "counts").output
    with pytest.raises(InputError, match="unknown target"):
        run("targets", "check", "cuonts", catch=False)
    monkeypatch.setattr(registry, "_builtin", lambda: {"broken": Broken})
    with pytest.raises(ContractViolation, match="objective"):
        run("targets", "check", "broken", catch=False)


def test_doctor_says_what_can_be_measured_and_why_not():
    rows = {row["what"]: row for row in json.loads(run("doctor", "--format", "json").output)}
    assert rows["latency on the CPU"]["here"] == "yes" and "@" in rows["latency on the CPU"]["remark"]
    assert rows["energy of the CPU"]["here"] == "no" and rows["energy of the CPU"]["remark"]
    assert {"steal", "switches", "pressure", "frequency", "pinning to a CPU"} <= set(rows)


@pytest.mark.parametrize("arguments", [("targets", "--help"), ("targets", "check", "--help"), ("doctor", "--help")])
def test_every_help_has_an_example(arguments):
    result = run(*arguments)
    assert result.exit_code == 0 and "Example: shrinkboard" in result.output
