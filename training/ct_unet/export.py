# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of the school to ct_unet.onnx, its cards and its half-precision weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from spine_perception.core.backends import ONNX_FP32
from spine_planning.core.ct_network import BLOCK, CHANNELS, INPUT, MODEL_NAME, OnnxCtNetwork
from spine_planning.core.vertebrae import find_vertebrae
from training.ct_unet.card import model_card
from training.ct_unet.evaluate import evaluate
from training.ct_unet.network import CtUNet
from training.onnx_export import OPSET, export, git_commit
from training.weights import half_precision, save_checkpoint


def publish(state: dict, validation: Path, models: Path, command: str, history: str) -> dict:
    """Export, verify, evaluate and write weights and cards to `models`; returns the JSON card."""
    torch.set_num_threads(1)
    out = models / MODEL_NAME
    net = CtUNet()
    net.load_state_dict(state["ema"])
    net.eval()
    shape = (1, len(CHANNELS), BLOCK, BLOCK, BLOCK)
    difference = export(net, out, shape, ["masks", "vectors"])
    card = {
        "name": "ct_unet",
        "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
        "input": INPUT,
        "opset": OPSET,
        "parameters": sum(p.numel() for p in net.parameters()),
        "training": {
            "command": command,
            "history": history,
            "commit": git_commit("spine_planning"),
            "seed": state["seed"],
            "steps": state["step"],
            "samples": state["samples"],
            "views": state["views"],
        },
        "torch_difference": difference,
        "validation": {},
    }
    card_path = out.with_suffix(".json")
    card_path.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    network = OnnxCtNetwork(out, ONNX_FP32, 1)
    card["validation"] = evaluate(lambda hu: find_vertebrae(hu, network), validation)
    card_path.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    save_checkpoint(out.with_suffix(".pt"), half_precision(state))
    text = model_card(card, out.stat().st_size / 1e6)
    (models / "CT_UNET_CARD.md").write_text(text, encoding="utf-8")
    return card
