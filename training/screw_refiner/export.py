# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of a refiner to its ONNX file, its cards and its half-precision weights.

The averaged weights are exported with batch norm folded in; ONNX Runtime must agree with PyTorch.
The predicted sigmas are calibrated on every other validation pair and judged on the rest.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from spine_perception.core.backends import ONNX_FP32
from spine_perception.core.inference import OnnxModel
from stereo_screw_tracker.core.refiner import sigma_scale
from training.onnx_export import OPSET, export, git_commit
from training.screw_refiner.card import model_card
from training.screw_refiner.evaluate import CORE, EVALUATE, chosen, milliseconds
from training.screw_refiner.network import HeadNet, RodNet
from training.weights import half_precision, save_checkpoint

NETS = {"head": HeadNet, "rod": RodNet}
NAMES = {"head": "screw_refiner", "rod": "rod_refiner"}


def publish(
    state: dict, validation: Path, models: Path, command: str, history: str, kind: str
) -> dict:
    """Export, verify, calibrate, evaluate, write to `models`; returns the JSON card."""
    torch.set_num_threads(1)
    core = CORE[kind]
    out = models / f"{NAMES[kind]}.onnx"
    net = NETS[kind]()
    net.load_state_dict(state["ema"])
    part = out.with_suffix(".part.onnx")
    shape = (core.BATCH, 2, core.CROP_SIZE, core.CROP_SIZE)
    difference = export(net.eval(), part, shape, ["y"])
    card = {
        "name": out.stem,
        "sha256": hashlib.sha256(part.read_bytes()).hexdigest(),
        "input": core.MODEL_INPUT,
        "outputs": list(core.OUTPUTS),
        "opset": OPSET,
        "parameters": sum(v.numel() for v in net.parameters()),
        "training": {
            "command": [command],
            "history": history,
            "seed": state["seed"],
            "commit": git_commit("stereo_screw_tracker"),
            "steps": state["step"],
            "samples": state["samples"],
            "pairs": state["views"],
        },
        "torch_difference": difference,
        "sigma_scale": dict.fromkeys(core.SCALED, 1.0),
    }
    part.replace(out)
    save_checkpoint(out.with_suffix(".pt"), half_precision(state))
    card_path = out.with_suffix(".json")

    def write() -> OnnxModel:
        card_path.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        return OnnxModel(out, core.MODEL_INPUT, ONNX_FP32)  # the class that runs it in use

    network = write()
    pairs = chosen(validation, 0)
    evaluate = EVALUATE[kind]
    card["sigma_scale"] = {
        name: round(value, 4) for name, value in evaluate(network, pairs[::2])[1].items()
    }
    scale = sigma_scale(card, core.SCALED, out)
    card["validation"] = evaluate(network, pairs, scale)[0]
    card["validation"]["pairs"] = len(pairs)
    # Judged where the factors were not fitted.
    card["validation"]["within"] = evaluate(network, pairs[1::2], scale)[0]["within"]
    two = OnnxModel(out, core.MODEL_INPUT, ONNX_FP32, 2)
    card["validation"]["ms"] = round(milliseconds(kind, two, pairs), 1)
    write()
    text = model_card(kind, card, out.stat().st_size / 1e6)
    (models / f"{out.stem.upper()}_CARD.md").write_text(text, encoding="utf-8")
    return card
