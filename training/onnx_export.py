# SPDX-License-Identifier: Apache-2.0
"""From a trained module to an ONNX file that agrees with it."""

from __future__ import annotations

import copy
import subprocess
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch

OPSET = 17  # read by ONNX Runtime 1.23, the oldest supported
AGREEMENT = 1e-3
CONVOLUTIONS = (torch.nn.Conv2d, torch.nn.Conv3d)
NORMS = (torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)


def fold_batch_norm(net: torch.nn.Module) -> torch.nn.Module:
    """A copy for inference whose convolutions have their batch norm folded in."""
    net = copy.deepcopy(net).eval()
    for module in net.modules():
        names = [n for n, _ in module.named_children()]
        for first, second in pairwise(names):
            conv, norm = getattr(module, first), getattr(module, second)
            if isinstance(conv, CONVOLUTIONS) and isinstance(norm, NORMS):
                setattr(module, first, torch.nn.utils.fuse_conv_bn_eval(conv, norm))
                setattr(module, second, torch.nn.Identity())
    return net


def export(net: torch.nn.Module, path: Path, shape: tuple[int, ...], outputs: list[str]) -> float:
    """Write the ONNX file; returns the largest difference from PyTorch on a random input x."""
    folded = fold_batch_norm(net)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            folded,
            (x,),
            str(path),
            input_names=["x"],
            output_names=outputs,
            opset_version=OPSET,
            dynamo=False,
        )
    onnx.checker.check_model(onnx.load(path))
    with torch.no_grad():
        expected = net.eval()(x)
    expected = (expected,) if isinstance(expected, torch.Tensor) else expected
    got = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(
        None, {"x": x.numpy()}
    )
    worst = max(float(np.abs(a.numpy() - b).max()) for a, b in zip(expected, got, strict=True))
    if worst > AGREEMENT:
        path.unlink()
        raise RuntimeError(f"{path}: ONNX Runtime differs from PyTorch by {worst:.2g}; not kept")
    return worst


def git_commit(package: str) -> str:
    """The commit that the training code is at, with + if the tree has changes."""

    def ask(*words: str) -> str:
        return subprocess.run(
            ["git", *words], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
        ).stdout.strip()

    changed = ask("status", "--porcelain", "--", ".", f"../src/{package}")
    return ask("rev-parse", "--short", "HEAD") + ("+" if changed else "")
