# SPDX-License-Identifier: Apache-2.0
"""Checkpoint to models/spine_unet.onnx and its card models/spine_unet.json.

    python -m training.spine_unet.export --run training/runs/a --data training/data/validation

The averaged weights are exported with batch norm folded in; ONNX Runtime must agree with PyTorch.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import subprocess
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch

from spine_perception.core.backends import ONNX_FP32
from spine_perception.core.features import CENTRE_SCALE_M, CHANNELS, N_CHANNELS
from spine_perception.core.grid import GRID_SIZE
from spine_perception.core.inference import OnnxNetwork
from training.spine_unet.card import model_card
from training.spine_unet.evaluate import evaluate
from training.spine_unet.network import SpineUNet

OPSET = 17  # read by ONNX Runtime 1.23, the oldest supported
AGREEMENT = 1e-3


def fold_batch_norm(net: torch.nn.Module) -> torch.nn.Module:
    """A copy for inference whose convolutions have their batch norm folded in."""
    net = copy.deepcopy(net).eval()
    for module in net.modules():
        names = [n for n, _ in module.named_children()]
        for first, second in pairwise(names):
            conv, norm = getattr(module, first), getattr(module, second)
            if isinstance(conv, torch.nn.Conv2d) and isinstance(norm, torch.nn.BatchNorm2d):
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


def git_commit(package: str = "spine_perception") -> str:
    """The commit that the training code is at, with + if the tree has changes."""

    def ask(*words: str) -> str:
        return subprocess.run(
            ["git", *words], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
        ).stdout.strip()

    changed = ask("status", "--porcelain", "--", "..", f"../../src/{package}")
    return ask("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def main() -> None:
    """Export, verify, evaluate and write the card."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--run", type=Path, required=True)
    p.add_argument("--data", type=Path, default=Path("training/data/validation"))
    p.add_argument("--out", type=Path, default=Path("models/spine_unet.onnx"))
    p.add_argument("--command", default="", help="training command, for the card")
    p.add_argument("--history", default="", help="what the command does not tell, for the card")
    p.add_argument("--limit", type=int, default=0)
    args = p.parse_args()
    torch.set_num_threads(1)
    state = torch.load(args.run / "checkpoint.pt", map_location="cpu", weights_only=True)
    net = SpineUNet()
    net.load_state_dict(state["ema"])
    net.eval()
    part = args.out.with_suffix(".part.onnx")
    shape = (1, N_CHANNELS, GRID_SIZE, GRID_SIZE)
    difference = export(net, part, shape, ["masks", "vectors"])
    card = {
        "name": "spine_unet",
        "sha256": hashlib.sha256(part.read_bytes()).hexdigest(),
        "input": {"size": GRID_SIZE, "channels": list(CHANNELS), "centre_scale_m": CENTRE_SCALE_M},
        "opset": OPSET,
        "training": {
            "command": args.command,
            "history": args.history,
            "commit": git_commit(),
            "seed": state["seed"],
            "steps": state["step"],
            "samples": state["samples"],
            "views": state["report"].get("views"),
        },
        "torch_difference": difference,
        "validation": {},
    }
    part.replace(args.out)
    card_path = args.out.with_suffix(".json")
    card_path.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    # Through the very class that runs it in use, so the hash check is exercised too.
    card["validation"] = evaluate(OnnxNetwork(args.out, ONNX_FP32), args.data, args.limit)
    card_path.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    text = model_card(card, args.out.stat().st_size / 1e6)
    args.out.with_name("MODEL_CARD.md").write_text(text, encoding="utf-8")
    print(json.dumps(card["validation"]))


if __name__ == "__main__":
    main()
