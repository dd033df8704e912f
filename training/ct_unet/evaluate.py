# SPDX-License-Identifier: Apache-2.0
"""Numbers of the whole segmentation on virtual CTs of anatomies that training never saw.

python -m training.ct_unet.evaluate models/ct_unet.onnx --data training/data/ct/validation
python -m training.ct_unet.evaluate classical               # the peer: threshold and watershed
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from spine_nav_sim.core.ct_scan import Whole, make_whole
from spine_planning.core.classical import classical_vertebrae
from spine_planning.core.ct_network import STEP_MM, OnnxCtNetwork
from spine_planning.core.level_names import Named, name_levels
from spine_planning.core.vertebrae import Found, find_vertebrae
from training.ct_unet.generate import find_units, load_unit

MATCH = 0.5  # Dice from which on a vertebra counts as found
SACRUM_ML = 10.0  # of it in view, for it to be told
Method = Callable[[np.ndarray], Found]


def evaluate(method: Method, folder: Path, limit: int = 0) -> dict[str, float]:
    """Dice, recall and precision of whole vertebrae, order, sacrum and names. Each unit is one scan,
    always the same."""
    paths = find_units(folder)
    if limit and len(paths) > limit:
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, limit).astype(int)]
    if not paths:
        raise FileNotFoundError(f"{folder}: no units; run python -m training.ct_unet.generate")
    rows: list[dict[str, float]] = []
    dice: list[float] = []
    spent = []
    for path in paths:
        whole = make_whole(load_unit(path), np.random.default_rng([int(path.stem), 11]), STEP_MM)
        begun = time.perf_counter()
        found = method(whole.hu)
        spent.append(time.perf_counter() - begun)
        row, each = compare(whole, found)
        rows.append(row)
        dice += each

    def total(name: str) -> float:
        return float(sum(r[name] for r in rows))

    scans = len(rows)
    report = {
        "scans": scans,
        "vertebrae": len(dice),
        "dice": float(np.mean(dice)) if dice else 0.0,
        "dice_found": float(np.mean([d for d in dice if d >= MATCH] or [0.0])),
        "recall": sum(d >= MATCH for d in dice) / max(1, len(dice)),
        "precision": 1.0 - total("false") / max(1.0, total("found")),
        "order_wrong": total("disorder") / scans,
        "sacrum_wrong": total("sacrum_wrong") / scans,
        "named": total("named") / scans,
        "wrongly_named": total("wrongly_named") / scans,
        "asked_needlessly": total("needless") / max(1.0, total("nameable")),
        "scan_s": float(np.median(spent)),
    }
    return {k: round(float(v), 4) for k, v in report.items()}


def compare(whole: Whole, found: Found) -> tuple[dict[str, float], list[float]]:
    """Counts of one scan, and the Dice of each vertebra that is whole in it."""
    levels = whole.unit.levels
    k, n = len(found.vertebrae), len(levels)
    joint = np.zeros((k + 1, n + 1))
    np.add.at(joint, (found.labels.ravel(), whole.who.ravel()), 1.0)
    size_found, size_true = joint.sum(axis=1), joint.sum(axis=0)
    dice = 2.0 * joint / np.maximum(size_found[:, None] + size_true[None], 1.0)
    own = dice[1:, 1:]
    each = [float(own[:, r].max()) if k else 0.0 for r in range(n) if r not in whole.cut]
    owner = joint[1:, 1:].argmax(axis=1) if k else np.zeros(0, int)
    good = [
        own[i, owner[i]] >= MATCH
        # half a vertebra at the border is no false one
        or (owner[i] in whole.cut and joint[i + 1, owner[i] + 1] > 0.5 * size_found[i + 1])
        for i in range(k)
    ]
    twice = len(owner) - len(set(owner[np.array(good, bool)].tolist())) - sum(not g for g in good)
    matched = [int(owner[i]) for i in range(k) if good[i]]
    voxel_ml = 1e-3 * STEP_MM**3
    last = n - 1
    there = levels[last] == "S1" and size_true[n] * voxel_ml > SACRUM_ML
    sacra = [i for i, v in enumerate(found.vertebrae) if v.is_sacrum]
    sacrum_ok = bool(sacra) == there and (not there or owner[sacra[0]] == last)
    named = name_levels(found.vertebrae)
    is_named = isinstance(named, Named)
    right = isinstance(named, Named) and whole.unit.typical and all(
        levels[owner[i]] == name for i, name in enumerate(named.levels)
    )  # fmt: skip
    # Whole vertebrae from a rib-bearing one to the sacrum: then it may be named.
    in_view = [r for r in range(n) if r not in whole.cut]
    nameable = there and whole.unit.typical and any(whole.unit.ribs[r] for r in in_view)
    return {
        "found": k,
        "false": sum(not g for g in good) + twice,
        "disorder": float(matched != sorted(matched)),
        "sacrum_wrong": float(not sacrum_ok),
        "named": float(is_named),
        "wrongly_named": float(is_named and not right),
        "nameable": float(nameable),
        "needless": float(nameable and not is_named),
    }, each  # fmt: skip


def main() -> None:
    """Evaluate an exported model, or the classical peer."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("model", help="an ONNX file, or classical")
    p.add_argument("--data", type=Path, default=Path("training/data/ct/validation"))
    p.add_argument("--limit", type=int, default=0)
    args = p.parse_args()
    method: Method = classical_vertebrae
    if args.model != "classical":
        network = OnnxCtNetwork(Path(args.model))

        def method(hu: np.ndarray) -> Found:
            return find_vertebrae(hu, network)

    print(json.dumps(evaluate(method, args.data, args.limit)))


if __name__ == "__main__":
    main()
