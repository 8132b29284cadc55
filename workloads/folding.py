"""Batch norm folded into the layer before it, as every deployment does."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from .network import symbolic_graph


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """A copy in eval mode that computes the same, with every batch norm after a layer folded into its weights.

    Folded batch norms become identities, so that all module paths stay as they are; a batch norm that no single layer
    feeds (pre-activation networks) stays.
    """
    folded = copy.deepcopy(module).eval()
    graph = symbolic_graph(folded)
    modules = dict(graph.named_modules())
    calls = [str(node.target) for node in graph.graph.nodes if node.op == "call_module"]
    for node in graph.graph.nodes:
        if node.op != "call_module" or not isinstance(modules[node.target], nn.BatchNorm1d | nn.BatchNorm2d):
            continue
        before = node.args[0]
        if before.op != "call_module" or len(before.users) > 1 or calls.count(before.target) > 1:
            continue
        layer, norm = modules[before.target], modules[node.target]
        if norm.running_mean is None:
            continue
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            fused: nn.Module = fuse_conv_bn_eval(layer, norm, transpose=isinstance(layer, nn.ConvTranspose2d))
        elif isinstance(layer, nn.Linear):
            fused = fuse_linear_bn_eval(layer, norm)
        else:
            continue
        folded.set_submodule(before.target, fused)
        folded.set_submodule(node.target, nn.Identity())
    return folded
