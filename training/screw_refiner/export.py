# SPDX-License-Identifier: Apache-2.0
"""Checkpoint of a refiner to models/: the ONNX file, its JSON card, half-precision weights, card.

    python -m training.screw_refiner.export head --run training/runs/stereo_head
    python -m training.screw_refiner.export rod --run training/runs/stereo_rod

The averaged weights are exported with batch norm folded in; ONNX Runtime must agree with PyTorch.
The predicted sigmas are calibrated on every other validation pair and judged on the rest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import torch

from spine_perception.core.backends import ONNX_FP32
from spine_perception.core.inference import OnnxModel
from stereo_screw_tracker.core.refiner import sigma_scale
from training.screw_refiner.card import model_card
from training.screw_refiner.evaluate import CORE, EVALUATE, chosen, milliseconds
from training.screw_refiner.train import NETS, SHIPPED
from training.spine_unet.export import OPSET, export, git_commit


def save_half(state: dict, path: Path) -> None:
    """The weights that a later run resumes from, at half their size."""

    def half(weights: dict) -> dict:
        return {k: v.half() if v.dtype == torch.float32 else v for k, v in weights.items()}

    kept = {k: state[k] for k in ("step", "samples", "seed")}
    torch.save({**kept, "net": half(state["net"]), "ema": half(state["ema"])}, path)


def main() -> None:
    """Export, verify, calibrate, evaluate and write the cards."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("kind", choices=sorted(NETS))
    p.add_argument("--run", type=Path, required=True)
    p.add_argument("--data", type=Path, default=Path("training/data_stereo/validation"))
    p.add_argument("--out", type=Path, help="default models/screw_refiner.onnx or rod_refiner.onnx")
    p.add_argument("--command", action="append", default=[], help="training command, for the card")
    p.add_argument("--history", default="", help="what the command does not tell, for the card")
    p.add_argument("--limit", type=int, default=0)
    args = p.parse_args()
    torch.set_num_threads(1)
    core = CORE[args.kind]
    out = args.out or SHIPPED[args.kind].with_suffix(".onnx")
    state = torch.load(args.run / "checkpoint.pt", map_location="cpu", weights_only=True)
    net = NETS[args.kind]()
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
            "command": args.command,
            "history": args.history,
            "seed": state["seed"],
            "commit": git_commit("stereo_screw_tracker"),
            "steps": state["step"],
            "samples": state["samples"],
            "pairs": state["report"].get("pairs"),
        },
        "torch_difference": difference,
        "sigma_scale": dict.fromkeys(core.SCALED, 1.0),
    }
    part.replace(out)
    save_half(state, out.with_suffix(".pt"))
    card_path = out.with_suffix(".json")

    def write() -> OnnxModel:
        card_path.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        return OnnxModel(out, core.MODEL_INPUT, ONNX_FP32)  # the class that runs it in use

    network = write()
    pairs = chosen(args.data, args.limit)
    evaluate = EVALUATE[args.kind]
    card["sigma_scale"] = {
        name: round(value, 4) for name, value in evaluate(network, pairs[::2])[1].items()
    }
    scale = sigma_scale(card, core.SCALED, out)
    card["validation"] = evaluate(network, pairs, scale)[0]
    card["validation"]["pairs"] = len(pairs)
    # Judged where the factors were not fitted.
    card["validation"]["within"] = evaluate(network, pairs[1::2], scale)[0]["within"]
    card["validation"]["ms"] = round(
        milliseconds(args.kind, OnnxModel(out, core.MODEL_INPUT, ONNX_FP32, 2), pairs), 1
    )
    write()
    text = model_card(args.kind, card, out.stat().st_size / 1e6)
    out.with_name(f"{out.stem.upper()}_CARD.md").write_text(text, encoding="utf-8")
    print(json.dumps(card["validation"]))


if __name__ == "__main__":
    main()
