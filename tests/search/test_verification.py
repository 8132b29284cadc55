"""An untouched entry holds, and whatever was changed in one is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cost_models import Counts, Frozen
from leaderboard import Entry
from search import Check, Evaluator, Job, Subject, Verified, verify
from search.verification import compare, open_targets
from strategies import strategy
from workloads import Dense, InputError

IMAGES = {"validation": 360, "test": 360}


@pytest.fixture(scope="module")
def entry(digits: Dense) -> Entry:
    evaluator = Evaluator(Subject("digits/cnn"), ["fpga-zcu104", "counts"])
    evaluator.freeze({})
    plan = strategy("l1+int").plan(evaluator.dense, {"keep": dict.fromkeys(("conv1", "conv2", "conv3"), 0.55)})
    return evaluator.run(Job("study", "l1+int", 0, "candidate", plan.to_json(), {}, 0.5))


def changed(entry: Entry, change: Callable[[dict[str, Any]], object]) -> Entry:
    """Another entry, whose id fits its content."""
    fields = entry.model_dump()
    change(fields)
    return Entry.create(**fields)


def verdicts(checks: list[Check] | Verified) -> dict[str, str]:
    return {check.field: check.verdict for check in (checks.checks if isinstance(checks, Verified) else checks)}


def differing(checks: list[Check] | Verified) -> list[str]:
    return [field for field, verdict in verdicts(checks).items() if verdict == "differs"]


def test_a_finalist_is_tested_again(digits: Dense) -> None:
    evaluator = Evaluator(Subject("digits/cnn"), ["counts"], {"counts": Frozen(None)}, digits)
    plan = strategy("l1").plan(digits, {"keep": dict.fromkeys(("conv1", "conv2", "conv3"), 0.65)})
    entry = evaluator.run(Job("study", "l1", 0, "candidate", plan.to_json(), {}, 0.5, final=True))
    told = verdicts(verify(entry))
    assert told["accuracy.test.top1"] == told["accuracy.dense_test"] == told["layers"] == "same"

    def deeper(fields: dict[str, Any]) -> None:
        fields["layers"] = [layer | {"channels": layer["channels"] + 1} for layer in fields["layers"]]

    assert differing(verify(changed(entry, deeper))) == ["layers"]


@pytest.mark.parametrize("retrain", [False, True])
def test_an_untouched_entry_holds_in_every_field(entry: Entry, retrain: bool) -> None:
    found = verify(entry, retrain=retrain)
    assert found.holds and set(verdicts(found).values()) == {"same"}
    fields = verdicts(found).keys()
    assert fields >= {
        *("plan", "weights", "dense network", "parameters", "macs", "bytes", "accuracy.validation.top1"),
        *("accuracy.dense_validation", "fpga-zcu104: speed-up", "fpga-zcu104: dsp", "counts: bit_operations"),
        *("fpga-zcu104: executes", "environment.torch"),
    }
    assert ("training.images" in fields) == retrain


def better(fields: dict[str, Any]) -> None:
    fields["accuracy"]["validation"]["top1"] = 0.99


def smaller(fields: dict[str, Any]) -> None:
    fields["parameters"] -= 1


def faster(fields: dict[str, Any]) -> None:
    cost = next(cost for cost in fields["costs"] if cost["target"] == "fpga-zcu104")
    cost["speedup"]["value"] *= 1.01


def thriftier(fields: dict[str, Any]) -> None:
    cost = next(cost for cost in fields["costs"] if cost["target"] == "fpga-zcu104")
    cost["figures"]["dsp"]["value"] -= 1


def formatted(fields: dict[str, Any]) -> None:
    cost = next(cost for cost in fields["costs"] if cost["target"] == "counts")
    cost["executed"]["conv2"] = ("int4", "int8")


def worse_dense(fields: dict[str, Any]) -> None:
    fields["accuracy"]["dense_validation"] -= 0.01


def renamed(fields: dict[str, Any]) -> None:
    fields["plan_digest"] = "0" * 64


def replanned(fields: dict[str, Any]) -> None:
    fields["plan"]["channels"]["conv1"] = 0.25


TAMPERINGS = [
    (better, "accuracy.validation.top1"),
    (smaller, "parameters"),
    (faster, "fpga-zcu104: speed-up"),
    (thriftier, "fpga-zcu104: dsp"),
    (formatted, "counts: executes"),
    (worse_dense, "accuracy.dense_validation"),
    (renamed, "plan"),
    (replanned, "plan"),
]


@pytest.mark.parametrize(("tamper", "field"), TAMPERINGS)
def test_a_tampered_entry_is_found_though_its_id_fits(
    entry: Entry, tamper: Callable[[dict[str, Any]], object], field: str
) -> None:
    tampered = changed(entry, tamper)
    assert tampered.id != entry.id and Entry.from_json(tampered.to_json()).id == tampered.id
    found = verify(tampered)
    assert not found.holds and differing(found) == [field]


def test_accuracy_is_exact_where_nothing_else_has_changed_and_within_luck_where_it_has(entry: Entry) -> None:
    def one_image(fields: dict[str, Any]) -> None:
        fields["accuracy"]["validation"]["top1"] -= 1 / 360

    def elsewhere(fields: dict[str, Any]) -> None:
        one_image(fields)
        fields["environment"]["cpu"] = "another"

    def many_images(fields: dict[str, Any]) -> None:
        elsewhere(fields)
        fields["accuracy"]["validation"]["top1"] = 0.2

    def other_bits(fields: dict[str, Any]) -> None:
        one_image(fields)
        fields["weights"] = "0" * 64

    field = "accuracy.validation.top1"
    told = [verdicts(compare(changed(entry, how), entry, IMAGES)) for how in (one_image, elsewhere, many_images)]
    assert [found[field] for found in told] == ["differs", "within interval", "differs"]
    assert told[1]["environment.cpu"] == "changed"
    bits = verdicts(compare(changed(entry, other_bits), entry, IMAGES))
    assert (bits["weights"], bits[field]) == ("changed", "within interval")


def measured(entry: Entry, low: float, high: float, key: str = "counts@aaaa", unstable: bool = False) -> Entry:
    def change(fields: dict[str, Any]) -> None:
        cost = fields["costs"][1]
        speedup = {"value": (low + high) / 2, "low": low, "high": high}
        latency = {"value": 1e-3, "unit": "s"}
        fields["costs"] = [
            cost | {"key": key, "kind": "measured", "speedup": speedup, "unstable": unstable}
            | {"figures": {"latency": latency, "memory": {"value": 100.0, "unit": "B"}}, "target": "counts"}
        ]  # fmt: skip

    return changed(entry, change)


def test_measured_speedups_are_compared_by_their_intervals(entry: Entry) -> None:
    field, recorded = "counts: speed-up", measured(entry, 1.5, 1.6)
    for now, verdict, why in (
        (measured(entry, 1.55, 1.7), "within interval", "overlap"),
        (measured(entry, 1.61, 1.7), "differs", "do not overlap"),
        (measured(entry, 1.61, 1.7, unstable=True), "changed", "noisy"),
        (measured(entry, 1.61, 1.7, key="counts@bbbb"), "changed", "two machines"),
    ):
        [check] = [check for check in compare(recorded, now, IMAGES) if check.field == field]
        assert (check.verdict, why in check.why) == (verdict, True)
        assert check.recorded == "1.55× (1.5–1.6)" and check.now.startswith("1.6")
    machine = verdicts(compare(recorded, measured(entry, 1.5, 1.6, key="counts@bbbb"), IMAGES))["counts: machine"]
    assert machine == "changed"


@pytest.mark.parametrize(("disturbed", "holds"), [(0, True), (2, True), (3, False)])
def test_who_is_apart_is_measured_again(
    entry: Entry, monkeypatch: pytest.MonkeyPatch, disturbed: int, holds: bool
) -> None:
    times: list[int] = []

    def found(*_: object) -> Entry:
        times.append(1)
        return measured(entry, 1.5, 1.6) if len(times) > disturbed else measured(entry, 1.3, 1.4)

    monkeypatch.setattr(Evaluator, "entry", found)
    assert verify(measured(entry, 1.5, 1.6)).holds == holds
    assert len(times) == min(disturbed + 1, 3)


def test_a_test_accuracy_is_compared_where_the_entry_has_one(entry: Entry) -> None:
    def tested(top1: float) -> Entry:
        def change(fields: dict[str, Any]) -> None:
            fields["accuracy"] |= {"test": {"top1": top1}, "dense_test": 0.98}

        return changed(entry, change)

    found = compare(tested(0.9), tested(0.9), IMAGES)
    assert verdicts(found)["accuracy.test.top1"] == verdicts(found)["accuracy.dense_test"] == "same"
    assert differing(compare(tested(0.9), tested(0.91), IMAGES)) == ["accuracy.test.top1"]
    assert verdicts(compare(tested(0.9), entry, IMAGES))["accuracy.test.top1"] == "cannot be had"


def test_targets_that_this_machine_has_not_are_told_with_the_reason(
    entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def more(fields: dict[str, Any]) -> None:
        cost = next(cost for cost in fields["costs"] if cost["target"] == "counts")
        names = ("made-of-thin-air", "roofline:/etc/passwd", "cpu-onnxruntime:threads=1024")
        fields["costs"] = [*fields["costs"], *({**cost, "target": name, "key": name} for name in names)]

    monkeypatch.setattr(Counts, "missing", lambda self: "no abacus")
    models, missing = open_targets(changed(entry, more))
    assert list(models) == ["fpga-zcu104"]
    assert missing["counts"] == "no abacus"
    assert "unknown target" in missing["made-of-thin-air"]
    assert "not opened on an entry's word" in missing["roofline:/etc/passwd"]
    assert "CPUs" in missing["cpu-onnxruntime:threads=1024"]
    checks = {check.field: check for check in compare(entry, entry, IMAGES)}
    assert checks["counts: macs"].verdict == "same"
    left_out = changed(entry, lambda fields: fields.update(costs=[]))
    checks = {check.field: check for check in compare(entry, left_out, IMAGES, {"counts": "no abacus"})}
    assert (checks["counts"].verdict, checks["counts"].why) == ("cannot be had", "no abacus")


def test_a_device_file_is_opened_for_who_gives_it(digits: Dense, tmp_path: Any) -> None:
    from cost_models.roofline import DEVICES

    text = (DEVICES / "jetson-tx2.toml").read_text().replace("jetson-tx2", "mine")
    (tmp_path / "mine.toml").write_text(text)
    name = f"roofline:{tmp_path / 'mine.toml'}"
    evaluator = Evaluator(Subject("digits/cnn"), [name])
    evaluator.freeze({})
    plan = strategy("uniform").plan(evaluator.dense, {"keep": 0.6})
    entry = evaluator.run(Job("study", "uniform", 0, "candidate", plan.to_json(), {}, 0.0))
    [target] = [cost.target for cost in entry.costs]
    assert verdicts(verify(entry))[target] == "cannot be had"
    assert verdicts(verify(entry, targets=[name]))[f"{target}: speed-up"] == "same"
    with pytest.raises(InputError, match="is none of entry"):
        verify(entry, targets=["counts"])


def test_another_dense_network_is_told_and_the_rest_is_checked_all_the_same(entry: Entry) -> None:
    found = verify(changed(entry, lambda fields: fields.update(dense_digest="f" * 64)))
    assert found.holds and verdicts(found)["dense network"] == "changed"


def test_code_that_an_entry_names_is_not_run_to_verify_it(entry: Entry) -> None:
    evil = changed(entry, lambda fields: fields.update(workload="digits/os:getcwd"))
    with pytest.raises(InputError, match="not imported on an entry's word"):
        verify(evil)


def test_what_a_cost_was_relative_to_is_taken_from_the_entry(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A measured target is not timed for a reference of its own: the ratio says all."""
    seen: dict[str, Frozen] = {}
    freeze = Evaluator.freeze
    monkeypatch.setattr(Evaluator, "freeze", lambda self, known: seen.update(known) or freeze(self, {}))
    recorded = measured(entry, 1.5, 1.6)
    verify(recorded)
    assert seen == {"counts": Frozen(1e-3 * 1.55)}
