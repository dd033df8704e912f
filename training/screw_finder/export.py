# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of the school to screw_finder.onnx, its cards and its half-precision weights.

The averaged weights are exported. The thresholds are chosen on the validation pairs.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from spine_perception.core.backends import ONNX_FP32
from stereo_screw_tracker.core import finder_mono
from stereo_screw_tracker.core.finder import EXPECTED_INPUT, Finder
from stereo_screw_tracker.core.finder_grid import HEIGHT, WIDTH
from stereo_screw_tracker.core.finder_mono import MonoFinder
from training.onnx_export import OPSET, export, git_commit
from training.screw_finder.card import finder_card
from training.screw_finder.evaluate import evaluate
from training.screw_finder.network import ScrewFinder, TorchFinder
from training.weights import half_precision, save_checkpoint

OUTPUTS = ["maps", "head_volume", "rod_volume"]


def publish(
    state: dict, validation: Path, models: Path, command: str, history: str, mono: bool = False
) -> dict:
    """Export, verify, choose thresholds, evaluate, write to `models`; returns the JSON card."""
    torch.set_num_threads(1)
    net = ScrewFinder(mono=mono)
    net.load_state_dict(state["ema"])
    net.eval()
    path = models / ("screw_finder_mono.onnx" if mono else "screw_finder.onnx")
    part = path.with_suffix(".part.onnx")
    difference = export(net, part, (2, 2, HEIGHT, WIDTH), OUTPUTS[: 1 if mono else 3])
    report = evaluate(TorchFinder(net), validation, mono=mono)
    thresholds = {"head": report["head_threshold"], "rod": report["rod_threshold"]}
    card = {
        "name": path.stem,
        "sha256": hashlib.sha256(part.read_bytes()).hexdigest(),
        "input": finder_mono.EXPECTED_INPUT if mono else EXPECTED_INPUT,
        "opset": OPSET,
        "thresholds": thresholds,
        "training": {
            "command": command,
            "history": history,
            "commit": git_commit("stereo_screw_tracker"),
            "seed": state["seed"],
            "steps": state["step"],
            "samples": state["samples"],
            "pairs": state["views"],
        },
        "torch_difference": difference,
        "validation": {},
    }
    part.replace(path)
    card_path = path.with_suffix(".json")
    card_path.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    # Through the very class that runs it in use, so the hash check is exercised too.
    network = (MonoFinder if mono else Finder).load(path, ONNX_FP32).network
    card["validation"] = evaluate(network, validation, 0, thresholds, mono)
    card_path.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    save_checkpoint(path.with_suffix(".pt"), half_precision(state))
    if not mono:
        text = finder_card(card, path.stat().st_size / 1e6)
        (models / "SCREW_FINDER_CARD.md").write_text(text, encoding="utf-8")
    return card
