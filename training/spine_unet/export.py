# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of the school to spine_unet.onnx, its cards and its half-precision weights.

The averaged weights are exported with batch norm folded in; ONNX Runtime must agree with PyTorch.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from spine_perception.core.backends import ONNX_FP32
from spine_perception.core.features import CENTRE_SCALE_M, CHANNELS, N_CHANNELS
from spine_perception.core.grid import GRID_SIZE
from spine_perception.core.inference import OnnxNetwork
from training.onnx_export import OPSET, export, git_commit
from training.spine_unet.card import model_card
from training.spine_unet.evaluate import evaluate
from training.spine_unet.network import SpineUNet
from training.weights import half_precision, save_checkpoint


def publish(state: dict, validation: Path, models: Path, command: str, history: str) -> dict:
    """Export, verify, evaluate and write weights and cards to `models`; returns the JSON card."""
    torch.set_num_threads(1)
    out = models / "spine_unet.onnx"
    net = SpineUNet()
    net.load_state_dict(state["ema"])
    net.eval()
    part = out.with_suffix(".part.onnx")
    shape = (1, N_CHANNELS, GRID_SIZE, GRID_SIZE)
    difference = export(net, part, shape, ["masks", "vectors"])
    card = {
        "name": "spine_unet",
        "sha256": hashlib.sha256(part.read_bytes()).hexdigest(),
        "input": {"size": GRID_SIZE, "channels": list(CHANNELS), "centre_scale_m": CENTRE_SCALE_M},
        "opset": OPSET,
        "training": {
            "command": command,
            "history": history,
            "commit": git_commit("spine_perception"),
            "seed": state["seed"],
            "steps": state["step"],
            "samples": state["samples"],
            "views": state["views"],
        },
        "torch_difference": difference,
        "validation": {},
    }
    part.replace(out)
    card_path = out.with_suffix(".json")
    card_path.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    # Through the very class that runs it in use, so the hash check is exercised too.
    card["validation"] = evaluate(OnnxNetwork(out, ONNX_FP32), validation)
    card_path.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    save_checkpoint(out.with_suffix(".pt"), half_precision(state))
    text = model_card(card, out.stat().st_size / 1e6)
    (models / "MODEL_CARD.md").write_text(text, encoding="utf-8")
    return card
