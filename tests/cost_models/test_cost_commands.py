"""`targets`, `targets check` and `doctor` as the command runs them."""

import json
import sys

import pytest
import typer
from typer.testing import CliRunner

from cost_models import ContractViolation, Counts, CpuOnnxRuntime, commands, doctor, registry
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
    for row in rows:
        if row["kind"] is None:  # a target that this machine cannot have
            assert row["summary"] and "\n" not in row["summary"] and not row["figures"] and row["key"] is None
        else:
            assert row["kind"] in ("measured", "modelled") and row["figures"]
    by_name = {row["target"]: row for row in rows}
    assert {"image=WIDTHxHEIGHT", "threads=N"} <= set(by_name["cpu-onnxruntime"]["options"])
    assert by_name["counts"]["options"] == []


def test_a_target_whose_package_is_missing_is_listed_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delitem(sys.modules, "cost_models.cpu_openvino", raising=False)
    rows = {row["target"]: row for row in json.loads(run("targets", "--format", "json").output)}
    assert rows["cpu-openvino"]["kind"] is None and "pip install" in rows["cpu-openvino"]["summary"]
    assert "unavailable" in run("targets").output


def test_a_target_that_lacks_its_device_is_listed_with_its_options(monkeypatch):
    monkeypatch.setattr(CpuOnnxRuntime, "missing", lambda self: "no such device")
    row = {row["target"]: row for row in json.loads(run("targets", "--format", "json").output)}["cpu-onnxruntime"]
    assert row["kind"] is None and row["summary"] == "no such device" and "threads=N" in row["options"]


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


@pytest.fixture
def no_compiling(monkeypatch):
    """Without the target that compiles for up to a minute."""
    names = tuple(name for name in registry.target_names() if name != "cpu-torch")
    monkeypatch.setattr(doctor, "target_names", lambda: names)


def test_doctor_says_what_can_be_measured_and_why_not(no_compiling):
    said = json.loads(run("doctor", "--format", "json", "--seconds", "1").output)
    abilities = {row["what"]: row for row in said["abilities"]}
    assert {*registry.MEASURED, "energy of the CPU", "energy of a GPU"} - {"cpu-torch"} <= set(abilities)
    assert abilities["cpu-onnxruntime"]["possible"] and "@" in abilities["cpu-onnxruntime"]["remark"]
    assert all(row["remark"] and "\n" not in row["remark"] for row in abilities.values())
    assert not any(name.startswith(("roofline", "fpga", "counts")) for name in abilities)
    noise = said["noise"]
    assert noise["low"] <= noise["ratio"] <= noise["high"] and 0 < noise["calm"] <= 1 and noise["stretches"] >= 1
    assert said["verdict"] and all(advice["seen"] and advice["do"] for advice in said["advice"])


def test_doctor_as_tables_ends_in_the_verdict(no_compiling):
    said = run("doctor", "--seconds", "1").output
    assert "what can be measured" in said and "ratios repeat within" in said
    assert said.strip().splitlines()[-1].startswith("Verdict: ")


@pytest.mark.parametrize("seconds", ["0", "-1", "1e9", "soon"])
def test_doctor_measures_for_a_reasonable_time(seconds):
    assert run("doctor", "--seconds", seconds).exit_code == 2


@pytest.mark.parametrize("arguments", [("targets", "--help"), ("targets", "check", "--help"), ("doctor", "--help")])
def test_every_help_has_an_example(arguments):
    result = run(*arguments)
    assert result.exit_code == 0 and "Example: shrinkboard" in result.output
