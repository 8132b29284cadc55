"""An entry's network as a file that others can use: ONNX, QONNX, or its tensors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
import safetensors.torch
import torch

from cost_models import Deployable, export_onnx, export_qonnx, quantised_onnx, runs_in_int8
from workloads import Grid, InputError, IntegerGrid, LayerFormats

from .networks import file_of
from .recreation import Recreated

ExportFormat = Literal["onnx", "onnx-int8", "qonnx", "safetensors", "trained"]
ENDINGS: dict[ExportFormat, str] = {
    "onnx": ".onnx",
    "onnx-int8": "-int8.onnx",
    "qonnx": "-qonnx.onnx",
    "safetensors": ".safetensors",
    "trained": "-trained.safetensors",
}
"""Of the files, behind the entry's id."""
_CLOSE = 1e-3
"""Difference to torch's outputs, of the largest, that another order of sums makes."""


@dataclass(frozen=True)
class Exported:
    """The content of a file, and one line on what is known of it."""

    content: bytes
    told: str


def export_network(recreated: Recreated, form: ExportFormat) -> Exported:
    """The network of an entry in one of the formats; the files tell plan, formats and how pictures are normalised.

    - `onnx`: fp32, any batch, batch norm folded, weights on the grids of their formats.
    - `onnx-int8`: static int8 (QDQ) as `cpu-onnxruntime` gets it on a processor like this one.
    - `qonnx`: fp32 with quantisers of the plan's widths, for one picture (`export_qonnx`).
    - `safetensors`: the tensors of `onnx` by their names in the module, with formats and grids in the metadata.
    - `trained`: as the network was kept, batch norm and masks apart: what `load` and `verify` take as weights.

    Raises `InputError` where the network cannot be had in that format, or its ONNX computes something else.
    """
    if form == "trained":
        entry = recreated.entry
        content = file_of(recreated.compressed, recreated.evaluator.dense.workload, entry.dense_digest, entry.study)
        return Exported(content, "weights and masks as they were trained")
    deployed = recreated.deployable()
    if form == "safetensors":
        return Exported(_safetensors(recreated, deployed), "deployed weights, with formats and grids in the metadata")
    if form == "qonnx":
        model = export_qonnx(deployed.module, deployed.example, recreated.compressed.grids(deployed.calibration))
        told = f"{sum(node.op_type in ('Quant', 'FloatQuant') for node in model.graph.node)} quantisers"
    elif form == "onnx":
        model = export_onnx(deployed.module, deployed.example)
        told = f"outputs within {_difference(model, deployed):.0e} of torch's largest"
    else:
        chosen = [layer.name for layer in deployed.network.compute_layers if _in_int8(layer)]
        if not chosen:
            raise InputError(
                f"entry {recreated.entry.id} has no layer with weights and inputs in integers of at most 8 bits; "
                "export it as onnx"
            )
        model = quantised_onnx(deployed)
        told = f"{len(chosen)} layers in int8, the same answer as simulated on {_agreement(model, recreated, deployed)}"
    onnx.helper.set_model_props(model, {name: _text(value) for name, value in about(recreated, deployed).items()})
    return Exported(model.SerializeToString(), told)


def about(recreated: Recreated, deployed: Deployable) -> dict[str, Any]:
    """What a file says of itself: the entry, its plan, and what has to be done to pictures before."""
    entry, workload = recreated.entry, recreated.evaluator.dense.workload
    return {
        "shrinkboard.entry": entry.id,
        "shrinkboard.workload": entry.workload,
        "shrinkboard.plan": entry.plan,
        "shrinkboard.formats": {
            layer.name: [str(layer.weight_format), str(layer.activation_format)]
            for layer in deployed.network.compute_layers
        },
        "shrinkboard.input": {
            "shape": list(workload.input_shape),
            "mean": list(workload.mean),
            "std": list(workload.std),
            "meaning": "(pixel - mean) / std by channel, pixels from 0 to 255",
        },
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _safetensors(recreated: Recreated, deployed: Deployable) -> bytes:
    grids = {
        name: {"weight": _grid(own.weight), "activation": _grid(own.activation)}
        for name, own in recreated.compressed.grids(deployed.calibration).items()
    }
    told = about(recreated, deployed) | {"shrinkboard.grids": grids}
    tensors = {name: t.detach().contiguous().clone() for name, t in deployed.module.state_dict().items()}
    return safetensors.torch.save(tensors, {name: _text(value) for name, value in told.items()})


def _grid(grid: Grid | None) -> dict[str, Any] | None:
    if grid is None:
        return None
    kind = "int" if isinstance(grid, IntegerGrid) else "minifloat"
    values = {n: value.tolist() if isinstance(value, np.ndarray) else value for n, value in vars(grid).items()}
    return {"kind": kind, **values}


def _in_int8(layer: Any) -> bool:
    return runs_in_int8(LayerFormats(layer.weight_format, layer.activation_format))


def _run(model: onnx.ModelProto, images: torch.Tensor) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])


def _difference(model: onnx.ModelProto, deployed: Deployable) -> float:
    """Largest difference of outputs to torch's, of the largest output; raises `InputError` where it is not small."""
    images = deployed.calibration[0]
    with torch.no_grad():
        expected = deployed.module(images).numpy()
    found = float(np.abs(_run(model, images) - expected).max() / max(float(np.abs(expected).max()), 1e-30))
    if not found < _CLOSE:
        raise InputError(f"the exported network computes something else than torch: outputs differ by {found:.1%}")
    return found


def _agreement(model: onnx.ModelProto, recreated: Recreated, deployed: Deployable) -> str:
    images = deployed.calibration[0]
    with torch.no_grad():
        expected = recreated.simulated()(images).argmax(1).numpy()
    return f"{np.mean(_run(model, images).argmax(1) == expected):.0%} of {len(images)} training images"
