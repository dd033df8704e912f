# SPDX-License-Identifier: Apache-2.0
"""Checkpoint to models/screw_finder.onnx, its JSON card, model card and half-precision weights.

    python -m training.screw_finder.export --run training/runs/stereo_finder

The averaged weights are exported. The thresholds are chosen on the validation pairs. A checkpoint of
--mono gives models/screw_finder_mono.onnx.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import cv2
import torch

from spine_perception.core.backends import ONNX_FP32
from stereo_screw_tracker.core import finder_mono
from stereo_screw_tracker.core.finder import EXPECTED_INPUT, Finder
from stereo_screw_tracker.core.finder_grid import HEIGHT, WIDTH
from stereo_screw_tracker.core.finder_mono import MonoFinder
from training.screw_finder.card import finder_card
from training.screw_finder.evaluate import evaluate
from training.screw_finder.network import ScrewFinder, TorchFinder
from training.spine_unet.export import OPSET, export, git_commit

MODELS = Path(__file__).parents[2] / "models"
OUTPUTS = ["maps", "head_volume", "rod_volume"]


def half_precision(state: dict) -> dict:
    """What a later run resumes from: both sets of weights in half precision, no optimiser."""

    def halved(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {k: v.half() if v.dtype == torch.float32 else v for k, v in weights.items()}

    kept = {k: state[k] for k in ("step", "samples", "seed", "mono")}
    return {"net": halved(state["net"]), "ema": halved(state["ema"]), **kept}


def main() -> None:
    """Export, verify, choose thresholds, evaluate, write the cards."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--run", type=Path, required=True)
    p.add_argument("--data", type=Path, default=Path("training/data_stereo/validation"))
    p.add_argument("--models", type=Path, default=MODELS, help="folder to write to")
    p.add_argument("--command", default="", help="training command, for the card")
    p.add_argument("--history", default="", help="what the command does not tell, for the card")
    p.add_argument("--limit", type=int, default=0, help="pairs to judge on; 0 = all")
    args = p.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    state = torch.load(args.run / "checkpoint.pt", map_location="cpu", weights_only=True)
    net = ScrewFinder(mono=state["mono"])
    net.load_state_dict(state["ema"])
    net.eval()
    path = args.models / ("screw_finder_mono.onnx" if state["mono"] else "screw_finder.onnx")
    part = path.with_suffix(".part.onnx")
    difference = export(net, part, (2, 2, HEIGHT, WIDTH), OUTPUTS[: 1 if net.mono else 3])
    validation = evaluate(TorchFinder(net), args.data, args.limit, mono=net.mono)
    thresholds = {"head": validation["head_threshold"], "rod": validation["rod_threshold"]}
    card = {
        "name": path.stem,
        "sha256": hashlib.sha256(part.read_bytes()).hexdigest(),
        "input": finder_mono.EXPECTED_INPUT if net.mono else EXPECTED_INPUT,
        "opset": OPSET,
        "thresholds": thresholds,
        "training": {
            "command": args.command,
            "history": args.history,
            "commit": git_commit(),
            "seed": state["seed"],
            "steps": state["step"],
            "samples": state["samples"],
            "pairs": state["report"].get("pairs"),
        },
        "torch_difference": difference,
        "validation": {},
    }
    part.replace(path)
    card_path = path.with_suffix(".json")
    card_path.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    # Through the very class that runs it in use, so the hash check is exercised too.
    network = (MonoFinder if net.mono else Finder).load(path, ONNX_FP32).network
    card["validation"] = evaluate(network, args.data, args.limit, thresholds, net.mono)
    card_path.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    torch.save(half_precision(state), path.with_suffix(".pt"))
    if not net.mono:
        text = finder_card(card, path.stat().st_size / 1e6)
        (args.models / "SCREW_FINDER_CARD.md").write_text(text, encoding="utf-8")
    print(json.dumps(card["validation"]))


if __name__ == "__main__":
    main()
