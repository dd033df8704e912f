# SPDX-License-Identifier: Apache-2.0
"""Numbers on a real CT with a mask. For testing alone: nothing is chosen by them.

    python -m training.ct_unet.real METHOD SCAN MASK [--label-names NAMES]

METHOD: an exported model, a checkpoint of the school (.pt), or classical.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from spine_nav_common.core.types import LEVEL_CODE, LEVELS
from spine_planning.core.classical import classical_vertebrae
from spine_planning.core.ct_network import CtNetwork, OnnxCtNetwork
from spine_planning.core.labels import load_labels
from spine_planning.core.level_names import Named, name_levels
from spine_planning.core.scan import load_scan
from spine_planning.core.segment import draw, on_network_grid
from spine_planning.core.vertebrae import Found, find_vertebrae
from training.ct_unet.evaluate import MATCH
from training.ct_unet.network import CtUNet, TorchNetwork


def load(method: str) -> CtNetwork | None:
    """The network; None for the classical peer."""
    if method == "classical":
        return None
    if not method.endswith(".pt"):
        return OnnxCtNetwork(Path(method))
    net = CtUNet()
    state = torch.load(method, map_location="cpu", weights_only=True)["ema"]
    net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return TorchNetwork(net)


def report(method: str, scan_path: Path, mask: Path, names: str | None) -> dict:
    """Dice per level in the scan's own voxels, and what the naming says."""
    scan = load_scan(scan_path)
    truth = load_labels(mask, scan, names)
    network, hu = load(method), on_network_grid(scan)
    found: Found = classical_vertebrae(hu) if network is None else find_vertebrae(hu, network)
    codes = np.zeros(truth.codes.shape, np.uint8)
    count = len(found.vertebrae)
    draw(found, LEVELS[:count], scan, hu, codes)  # names that only number them
    joint = np.zeros((len(LEVELS) + 1,) * 2)
    np.add.at(joint, (codes.ravel(), truth.codes.ravel()), 1.0)
    dice = 2.0 * joint / np.maximum(joint.sum(1)[:, None] + joint.sum(0)[None], 1.0)
    each = {v: float(dice[1:, LEVEL_CODE[v]].max()) for v in truth.levels}
    named = name_levels(found.vertebrae)
    rows = dice[1 : count + 1, 1:]
    return {
        "method": method,
        "dice": {k: round(v, 3) for k, v in each.items()},
        "cut": {v: round(float(dice[1:, LEVEL_CODE[v]].max()), 3) for v in truth.cut},
        "mean": round(float(np.mean(list(each.values()))), 3),
        "recall": round(float(np.mean([v >= MATCH for v in each.values()])), 3),
        "found": count,
        "that_are_none": int((rows.max(axis=1, initial=0.0) < 0.3).sum()),
        "levels": list(named.levels) if isinstance(named, Named) else f"asked: {named.reason}",
        "certainty": [round(v.certainty, 2) for v in found.vertebrae],
    }


def main() -> None:
    """Print the report as JSON."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("method")
    p.add_argument("scan", type=Path)
    p.add_argument("mask", type=Path)
    p.add_argument("--label-names")
    args = p.parse_args()
    print(json.dumps(report(args.method, args.scan, args.mask, args.label_names)))


if __name__ == "__main__":
    main()
