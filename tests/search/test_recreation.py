"""Entries become networks again: the very ones that were evaluated, and nobody else's code runs for it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import search.recreation
from cost_models import Frozen
from leaderboard import Entry, Store
from search import Evaluator, Job, Own, Recreated, Subject, load, recreate
from search.networks import digest_of, network_file
from strategies import strategy
from workloads import Dense, InputError, evaluate

OWN = "tests.search.own_networks:Residual"


@pytest.fixture(scope="module")
def evaluators(digits: Dense) -> dict[str, Evaluator]:
    """Of our small network, and of a residual one that a user could have written."""
    subjects = {"digits": Subject("digits/cnn"), "residual": Subject("", model=OWN, dataset="digits")}
    return {name: Evaluator(subject, ["counts"], {"counts": Frozen(None)}) for name, subject in subjects.items()}


def evaluated(evaluator: Evaluator, name: str, knobs: Mapping[str, Any] | None = None, epochs: float = 0.3) -> Entry:
    plan = strategy(name).plan(evaluator.dense, knobs or {})
    return evaluator.run(Job("study", name, 0, "candidate", plan.to_json(), {}, epochs))


def again(entry: Entry, **given: Any) -> Recreated:
    own = Own(model=OWN) if ":" in entry.workload else Own()
    return recreate(entry, own=own, **given)


def changed(entry: Entry, **fields: Any) -> Entry:
    """Another entry, whose id fits its content."""
    return Entry.create(**entry.model_dump() | fields)


def rewritten(path: Path, to: Path, change: Any = lambda tensors, about: None) -> Path:
    """The file with its tensors and metadata changed in place."""
    with safe_open(path, "pt") as file:
        about, tensors = file.metadata(), {name: file.get_tensor(name) for name in reversed(list(file.keys()))}
    change(tensors, about)
    save_file(tensors, to, about)
    return to


@pytest.fixture(scope="module")
def entry(evaluators: dict[str, Evaluator]) -> Entry:
    # No other test makes the same tensors: their file would say what the last one of them was.
    return evaluated(evaluators["digits"], "l1+int", {"keep": dict.fromkeys(("conv1", "conv2", "conv3"), 0.45)})


FAMILIES: list[tuple[str, str, dict[str, Any]]] = [
    ("digits", "l1+int", {}),
    ("digits", "sentei+minifloat", {"gradual": True}),
    ("digits", "low_rank", {"scheme": "spatial"}),
    ("digits", "conventional+int", {"straight_through": True}),
    ("digits", "pai_pat", {}),
    ("digits", "snip", {}),
    ("digits", "uniform@reinit", {}),
    ("residual", "depth+int", {}),
    ("residual", "uniform+minifloat", {"drop": 1}),
    ("residual", "pca_l1", {"rounds": 2, "alpha": 0.9}),
    ("residual", "pai_pat+int", {"drop": 1, "alpha0": 0.95, "alpha1": 0.8}),
]


@pytest.mark.parametrize(("subject", "name", "knobs"), FAMILIES)
def test_the_network_comes_back_as_it_was_evaluated(
    evaluators: dict[str, Evaluator], monkeypatch: pytest.MonkeyPatch, subject: str, name: str, knobs: dict
) -> None:
    entry = evaluated(evaluators[subject], name, knobs)
    kept, trained = again(entry), again(entry, retrain=True)
    assert (kept.source, trained.source) == ("kept", "trained")
    assert digest_of(kept.compressed) == digest_of(trained.compressed) == entry.weights
    dense = evaluators[subject].dense
    accuracy = evaluate(kept.simulated(), dense.splits.validation, dense.workload)
    assert accuracy.top1 == entry.accuracy.validation.top1
    # Structure and weights come from plan and tensors; the dense network need not be there.
    monkeypatch.setattr(search.recreation, "dense_is_cached", lambda *_: False)
    alone = again(entry)
    assert alone.evaluator.dense.digest != dense.digest
    images = torch.randn(4, *dense.workload.input_shape)
    one, *others = (found.compressed.module(images) for found in (kept, trained, alone))
    assert all(torch.equal(one, other) for other in others)
    assert not kept.compressed.module.training and kept.compressed.formats == trained.compressed.formats
    assert kept.compressed.masks.keys() == trained.compressed.masks.keys()


def test_what_was_never_trained_comes_back_too(evaluators: dict[str, Evaluator]) -> None:
    for name in ("dense", "dense+int", "uniform"):
        entry = evaluated(evaluators["digits"], name, epochs=0.0)
        assert digest_of(again(entry).compressed) == digest_of(again(entry, retrain=True).compressed) == entry.weights


def test_load_gives_a_module_by_id(entry: Entry, tmp_path: Path, digits: Dense) -> None:
    with Store(str(tmp_path / "board.db")) as store:
        store.add(entry)
    module = load(entry.id[:8], str(tmp_path / "board.db"))
    assert isinstance(module, torch.nn.Module) and not module.training
    assert sum(parameter.numel() for parameter in module.parameters()) == entry.parameters
    assert evaluate(module, digits.splits.validation, digits.workload).primary > 0.3


def test_a_digest_is_of_the_tensors_alone(entry: Entry, tmp_path: Path) -> None:
    def tell_lies(tensors: dict, about: dict) -> None:
        about.update(strategy="another", study="another", more="than there was")

    path = rewritten(network_file(entry.weights), tmp_path / "reordered.safetensors", tell_lies)
    assert again(entry, weights=path).source == "given"


def one_bit(tensors: dict, about: dict) -> None:
    tensors["weight/conv1.weight"].view(-1).view(torch.int32)[0] ^= 1


def one_name(tensors: dict, about: dict) -> None:
    tensors["weight/conv1.wait"] = tensors.pop("weight/conv1.weight")


def one_less(tensors: dict, about: dict) -> None:
    del tensors["weight/conv1.weight"]


@pytest.mark.parametrize("change", [one_bit, one_name, one_less])
def test_weights_that_are_not_the_entrys_are_refused(entry: Entry, tmp_path: Path, change: Any) -> None:
    path = rewritten(network_file(entry.weights), tmp_path / "changed.safetensors", change)
    with pytest.raises(InputError, match=f"are not those of entry {entry.id}") as refusal:
        again(entry, weights=path)
    assert "\n" not in str(refusal.value)


def test_files_that_hold_no_kept_network_are_refused(entry: Entry, tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "pickled.safetensors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "bare.safetensors")
    (tmp_path / "half.safetensors").write_bytes(network_file(entry.weights).read_bytes()[:-100])
    for name, told in (
        ("pickled", "no readable"),
        ("half", "no readable"),
        ("bare", "do not say"),
        ("none", "no readable"),
    ):
        with pytest.raises(InputError, match=told) as refusal:
            again(entry, weights=tmp_path / f"{name}.safetensors")
        assert "\n" not in str(refusal.value)


def test_a_network_that_computes_something_else_than_it_did_is_refused(
    evaluators: dict[str, Evaluator], tmp_path: Path
) -> None:
    """The tensors fit and are those that the entry names, and yet a shortcut copies other channels."""

    def rewire(tensors: dict, about: dict) -> None:
        tensors["wiring/block3.shortcut"] = tensors["wiring/block3.shortcut"].flip(0)

    entry = evaluated(evaluators["residual"], "uniform")
    path = rewritten(network_file(entry.weights), tmp_path / "rewired.safetensors", rewire)
    found = changed(entry, weights=search.recreation.read_network(path).digest)
    with pytest.raises(InputError, match="computes something else"):
        again(found, weights=path)


def test_damaged_weights_in_the_cache_are_trained_again(
    evaluators: dict[str, Evaluator], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = evaluated(evaluators["digits"], "uniform", {"keep": 0.4})
    path, said = network_file(entry.weights), list[str]()
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert again(entry, say=said.append).source == "trained" and "no readable" in said[0]
    path.write_bytes(whole)

    def unknown_structure(*_: object) -> None:
        raise InputError("of another structure")

    monkeypatch.setattr("search.networks.rebuilt", unknown_structure)
    assert again(entry, say=said.append).source == "trained" and "of another structure" in said[1]
    with pytest.raises(InputError, match="leave them out"):
        again(entry, weights=path)


def test_a_full_disk_fails_no_evaluation(evaluators: dict[str, Evaluator], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("search.networks.write_whole", full)
    entry = evaluated(evaluators["digits"], "uniform", {"keep": 0.3})
    assert entry.weights is None
    assert again(entry).source == "trained"


def test_an_entry_of_before_weights_were_kept_takes_only_its_own(
    evaluators: dict[str, Evaluator], entry: Entry
) -> None:
    old, path = changed(entry, weights=None), network_file(entry.weights)
    assert again(old).source == "trained"
    assert again(old, weights=path).source == "given"
    other = changed(evaluated(evaluators["digits"], "uniform"), weights=None)
    with pytest.raises(InputError, match="another plan, seed or dense network"):
        again(other, weights=path)


def test_another_dense_network_gives_another_network_so_it_is_refused(entry: Entry) -> None:
    elsewhere = changed(entry, weights=None, dense_digest="f" * 64)
    with pytest.raises(InputError, match=r"shrunk from the dense network f{12}, and the one here is") as refusal:
        again(elsewhere)
    assert "\n" not in str(refusal.value)
    # With its weights it does not matter.
    assert again(changed(entry, dense_digest="f" * 64)).source == "kept"


def test_an_entry_that_came_from_a_checkpoint_asks_for_it(entry: Entry, digits: Dense, tmp_path: Path) -> None:
    elsewhere = changed(entry, weights=None, subject={"checkpoint": True})
    with pytest.raises(InputError, match="give it with --checkpoint"):
        again(elsewhere)
    save_file({n: tensor.contiguous() for n, tensor in digits.module.state_dict().items()}, tmp_path / "dense.st")
    found = recreate(elsewhere, own=Own(checkpoint=tmp_path / "dense.st"))
    assert digest_of(found.compressed) == entry.weights


@pytest.mark.parametrize("fields", [{"plan_digest": "0" * 64}, {"strategy": "uniform"}])
def test_an_entry_that_contradicts_itself_is_refused(entry: Entry, fields: dict) -> None:
    with pytest.raises(InputError, match="contradicts itself"):
        again(changed(entry, **fields))


@pytest.mark.parametrize("where", ["workload", "subject"])
def test_code_that_an_entry_names_is_not_run(
    entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    (tmp_path / "evil.py").write_text("from pathlib import Path\nPath('ran').touch()\ndef build(): Path('ran').touch()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    named = {"workload": "digits/evil:build"} if where == "workload" else {"subject": {"model": "evil:build"}}
    for weights in (entry.weights, None):
        with pytest.raises(InputError, match=r"'evil:build', which is not imported on an entry's word"):
            recreate(changed(entry, weights=weights, **named))
    assert not (tmp_path / "ran").exists() and "evil" not in sys.modules


def test_the_callers_own_network_is_used_and_only_where_the_entry_is_of_one(
    evaluators: dict[str, Evaluator], entry: Entry
) -> None:
    residual = evaluated(evaluators["residual"], "uniform")
    assert residual.workload == f"digits/{OWN}"
    assert load(residual, model=OWN)(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    with pytest.raises(InputError, match="leave out the model"):
        load(entry, model=OWN)
    with pytest.raises(InputError, match=r"the network has no prune group 'block1\.conv1'"):
        load(residual, model="tests.search.own_networks:Plain", weights=network_file(residual.weights))


@pytest.mark.parametrize("digest", ["../../etc/passwd", "0" * 64, "x" * 64])
def test_a_digest_that_an_entry_makes_up_names_no_file(entry: Entry, digest: str) -> None:
    assert again(changed(entry, weights=digest)).source == "trained"


def test_a_file_alone_says_what_it_is(entry: Entry, digits: Dense) -> None:
    with safe_open(network_file(entry.weights), "pt") as file:
        about = file.metadata()
    told = {name: about[name] for name in ("strategy", "workload", "seed", "dense", "study")}
    assert told == {
        "strategy": "l1+int",
        "workload": "digits/cnn",
        "seed": "0",
        "dense": digits.digest,
        "study": "study",
    }
    assert json.loads(about["plan"])["channels"] == entry.plan["channels"]
