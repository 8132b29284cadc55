"""Files of an entry's network, in the runtimes and libraries that would read them."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load

from cost_models import CpuOnnxRuntime, Frozen, export_onnx, export_qonnx
from leaderboard import Entry
from search import Evaluator, Job, Recreated, Subject, export_network, recreate
from search.networks import network_file, read_network
from strategies import strategy
from workloads import Dense, InputError, normalise


def recreated(digits: Dense, name: str, knobs: Mapping[str, Any] | None = None) -> Recreated:
    evaluator = Evaluator(Subject("digits/cnn"), ["counts"], {"counts": Frozen(None)}, digits)
    plan = strategy(name).plan(digits, knobs or {})
    entry = evaluator.run(Job("study", name, 0, "candidate", plan.to_json(), {}, 0.5))
    assert isinstance(entry, Entry)
    return recreate(entry)


@pytest.fixture(scope="module")
def quantised(digits: Dense) -> Recreated:
    layers = ("conv1", "conv2", "conv3", "linear")
    return recreated(digits, "l1+int", {"weight_bits": dict(zip(layers, (8, 4, 6, 8), strict=True))})


@pytest.fixture(scope="module")
def sparse(digits: Dense) -> Recreated:
    return recreated(digits, "sentei")


@pytest.fixture(scope="module")
def images(digits: Dense) -> torch.Tensor:
    return normalise(digits.splits.validation.batch(np.arange(64))[0], digits.workload)


def run(content: bytes, images: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]


@pytest.mark.parametrize("which", ["quantised", "sparse"])
def test_onnx_computes_what_the_deployed_network_does(
    which: str, images: torch.Tensor, request: pytest.FixtureRequest
) -> None:
    found: Recreated = request.getfixturevalue(which)
    with torch.no_grad():
        expected = found.deployable().module(images).numpy()
    exported = export_network(found, "onnx")
    np.testing.assert_allclose(run(exported.content, images), expected, rtol=1e-4, atol=1e-4)
    assert "of torch's largest" in exported.told


def test_int8_is_what_the_target_runs(quantised: Recreated, images: torch.Tensor) -> None:
    content = export_network(quantised, "onnx-int8").content
    expected = CpuOnnxRuntime().predict(quantised.deployable(), images)
    np.testing.assert_array_equal(run(content, images), expected)
    with torch.no_grad():
        simulated = quantised.simulated()(images).argmax(1).numpy()
    assert np.mean(run(content, images).argmax(1) == simulated) > 0.95


def test_qonnx_has_the_plans_grids(quantised: Recreated) -> None:
    model = onnx.load_from_string(export_network(quantised, "qonnx").content)
    deployed = quantised.deployable()
    expected = export_qonnx(deployed.module, deployed.example, quantised.compressed.grids(deployed.calibration))
    assert model.graph == expected.graph
    bits = {t.name: float(onnx.numpy_helper.to_array(t)) for t in model.graph.initializer if t.name.endswith(".bits")}
    assert sorted(bits.values()) == [4, 6, 8, 8, 8, 8, 8, 8]


@pytest.mark.parametrize("form", ["onnx", "onnx-int8", "qonnx"])
def test_an_onnx_file_says_what_it_is(quantised: Recreated, form: Any) -> None:
    model = onnx.load_from_string(export_network(quantised, form).content)
    told = {prop.key.removeprefix("shrinkboard."): prop.value for prop in model.metadata_props}
    assert told["entry"] == quantised.entry.id and told["workload"] == "digits/cnn"
    assert json.loads(told["plan"]) == quantised.entry.plan
    assert json.loads(told["formats"])["conv2"] == ["int4", "int8"]
    assert json.loads(told["input"])["shape"] == [1, 8, 8]


def test_safetensors_hold_deployed_weights_and_the_grids_that_make_integers_of_them(quantised: Recreated) -> None:
    content = export_network(quantised, "safetensors").content
    module = quantised.deployable().module
    module.load_state_dict(load(content))  # names and shapes are the module's
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    grid = json.loads(header["shrinkboard.grids"])["conv2"]["weight"]
    codes = load(content)["conv2.weight"] / torch.tensor(grid["scale"]).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-4)
    assert (grid["kind"], grid["bits"], codes.abs().max().round()) == ("int", 4, 7)
    assert json.loads(header["shrinkboard.plan"]) == quantised.entry.plan


def test_what_was_trained_travels_with_its_entry(
    sparse: Recreated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: torch.Tensor
) -> None:
    file = tmp_path / "trained.safetensors"
    file.write_bytes(export_network(sparse, "trained").content)
    kept = read_network(network_file(sparse.entry.weights))
    monkeypatch.setenv("SHRINKBOARD_CACHE", str(tmp_path / "elsewhere"))
    found = recreate(sparse.entry, weights=file)
    assert found.source == "given"
    assert torch.equal(found.compressed.module(images), sparse.compressed.module(images))
    # The dense network was not trained there; the files tell its digest all the same.
    (tmp_path / "again.safetensors").write_bytes(export_network(found, "trained").content)
    for travelled in map(read_network, (file, tmp_path / "again.safetensors")):
        assert travelled.about == kept.about and travelled.digest == kept.digest


def test_formats_that_the_network_has_not_are_refused(sparse: Recreated, digits: Dense) -> None:
    with pytest.raises(InputError, match="export it as onnx"):
        export_network(sparse, "onnx-int8")
    with pytest.raises(InputError, match="export it as onnx"):
        export_network(sparse, "qonnx")
    with pytest.raises(InputError, match="export it as onnx"):
        export_network(recreated(digits, "uniform+minifloat"), "onnx-int8")


def test_an_export_that_computes_something_else_is_refused(sparse: Recreated, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(module: torch.nn.Module, example: torch.Tensor) -> onnx.ModelProto:
        module = copy.deepcopy(module)
        with torch.no_grad():
            next(iter(module.parameters())).mul_(1.5)
        return export_onnx(module, example)

    monkeypatch.setattr("search.exporting.export_onnx", wrong)
    with pytest.raises(InputError, match="something else than torch"):
        export_network(sparse, "onnx")
