# SPDX-License-Identifier: Apache-2.0
"""Vertebrae found in CTs: virtual patients of the list `judge` in two slice thicknesses, and, apart,
real CTs with masks. Everything is judged in the scan's own voxels.

A vertebra counts where it is whole in the scan. Real masks are automatic (TotalSegmentator) or a crop;
they were never trained on.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from spine_nav_common.core.errors import ScanError
from spine_nav_common.core.run import Progress
from spine_nav_common.core.statistics import statistics
from spine_nav_common.core.types import LEVEL_CODE, LEVELS
from spine_nav_sim.core.anatomy import make_anatomy
from spine_nav_sim.core.ct_bones import make_bones
from spine_nav_sim.core.ct_scan import Whole, make_whole
from spine_nav_sim.core.splits import anatomy_seeds
from spine_planning.core.classical import classical_vertebrae
from spine_planning.core.ct_network import CtNetwork, load_network
from spine_planning.core.labels import load_labels
from spine_planning.core.level_names import Named, name_levels
from spine_planning.core.scan import Scan, load_scan
from spine_planning.core.segment import draw, on_network_grid, segment_scan
from spine_planning.core.vertebrae import Found, find_vertebrae

from .results_common import Record, Target, provenance, share, stat, table

COUNT = 10
SLICES_MM = (1.0, 3.0)
FOUND = 0.5  # Dice from which on a vertebra counts as found
_STEP_MM = 1.0
_LEVELS = ("T12", "L1", "L2", "L3", "L4", "L5", "S1")
REAL = {  # folder to the numbering of its mask, "" where it is one that we know
    "ct_totalseg_example_T11-sacrum": "1: T11\n2: T12\n3: L1\n4: L2\n5: L3\n6: L4\n7: L5\n8: S1\n",
    "ct_tptbox_L3_crop": "",
}
Method = Callable[[np.ndarray], Found]


def segmentation_record(
    data: Path | None, count: int = COUNT, progress: Progress | None = None
) -> dict[str, Any]:
    """Per scan: Dice per vertebra, what is none, names, refusal and time, of the network (where one is
    shipped) and of the classical peer."""
    network = load_network()
    seeds = list(anatomy_seeds("judge"))[:count]
    methods: dict[str, Method] = {"classical": classical_vertebrae}
    if network is not None:
        methods["network"] = lambda hu: find_vertebrae(hu, network)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for i, seed in enumerate(seeds):
            whole = virtual_scan(seed)
            for slices_mm in SLICES_MM:
                if progress is not None:
                    progress(i, count, f"{seed} {slices_mm:g} mm")
                scan, codes, cut = written(whole, slices_mm, Path(folder))
                judged = _judged(scan, codes, cut, methods, network)
                own = f"virtual, {slices_mm:g} mm slices"
                typical = whole.unit.typical
                rows += [{"kind": own, "scan": str(seed), "typical": typical, **r} for r in judged]
    for name, numbers in REAL.items() if data is not None else ():
        assert data is not None
        if progress is not None:
            progress(count, count, name)
        scan, codes, cut = real_scan(data / name, numbers)
        judged = _judged(scan, codes, cut, methods, network)
        kind = f"real, {max(scan.spacing_mm):.2g} mm"
        rows += [{"kind": kind, "scan": name, "typical": True, **r} for r in judged]
    return {
        "seeds": seeds, "rows": rows, "shipped": network is not None,
        "model_sha256": network.model_sha256 if network is not None else None,
    }  # fmt: skip


def virtual_scan(seed: int) -> Whole:
    """A patient of the list `judge` on a scanner, at 1 mm."""
    meshes = make_anatomy(np.random.default_rng(seed), _LEVELS, f"virtual-{seed}").meshes
    bones = make_bones(meshes, np.random.default_rng([seed, 31]))
    return make_whole(bones, np.random.default_rng([seed, 32]), _STEP_MM)


def written(whole: Whole, slices_mm: float, folder: Path) -> tuple[Scan, np.ndarray, set[str]]:
    """The scan as a user has it, from a NIfTI file with slices of so many millimetres; the true levels
    (Z, Y, X) as LEVEL_CODE; and those that are not whole."""
    factor = round(slices_mm / _STEP_MM)
    deep = factor * (len(whole.hu) // factor)
    hu = whole.hu[:deep].reshape(-1, factor, *whole.hu.shape[1:]).mean(axis=1)
    code = np.zeros(256, np.uint8)
    for row, level in enumerate(whole.unit.levels):
        code[row + 1] = LEVEL_CODE[level]
    who = code[whole.who[factor // 2 : deep : factor]]
    image = sitk.GetImageFromArray(np.round(hu).astype(np.int16))
    image.SetSpacing((_STEP_MM, _STEP_MM, factor * _STEP_MM))
    path = folder / "scan.nii.gz"
    sitk.WriteImage(image, str(path))
    return load_scan(path), who, {whole.unit.levels[r] for r in whole.cut}


def real_scan(folder: Path, numbers: str) -> tuple[Scan, np.ndarray, set[str]]:
    """A real CT and its mask, as `written`."""
    scan = load_scan(folder / "ct.nii.gz")
    with tempfile.TemporaryDirectory() as own:
        names = Path(own) / "numbers.yaml"
        names.write_text(numbers, encoding="utf-8")
        labels = load_labels(folder / "vertebra_labels.nii.gz", scan, names if numbers else None)
    return scan, labels.codes, set(labels.cut)


def _judged(
    scan: Scan,
    truth: np.ndarray,
    cut: set[str],
    methods: dict[str, Method],
    network: CtNetwork | None,
) -> list[dict[str, Any]]:
    hu = on_network_grid(scan)
    out = []
    for name, method in methods.items():
        begun = time.perf_counter()
        found = method(hu)
        codes = np.zeros(truth.shape, np.uint8)
        count = len(found.vertebrae)
        draw(found, LEVELS[:count], scan, hu, codes)  # names that only number them
        spent = time.perf_counter() - begun
        row = compared(codes, truth, cut, count)
        row |= {"method": name, "s": round(spent, 2)}
        if name == "network" and network is not None:
            row |= _named(scan, network, found, row.pop("owners"))
        row.pop("owners", None)
        out.append(row)
    return out


def compared(codes: np.ndarray, truth: np.ndarray, cut: set[str], count: int) -> dict[str, Any]:
    """Dice per level that is whole; how many of `count` instances (LEVELS in order) are none; and whose
    each is."""
    n = len(LEVELS) + 1
    joint = np.bincount(n * codes.ravel().astype(int) + truth.ravel(), minlength=n * n).reshape(
        n, n
    )
    size = joint.sum(1)[:, None] + joint.sum(0)[None]
    dice = (2.0 * joint / np.maximum(size, 1.0))[1 : count + 1, 1:]
    inside = (joint / np.maximum(joint.sum(1), 1.0)[:, None])[1 : count + 1, 1:]
    there = [v for v in LEVELS if (truth == LEVEL_CODE[v]).any()]
    owners = [LEVELS[k] for k in dice.argmax(axis=1)] if count else []
    # A part of a vertebra that the border cuts is no false one.
    good = [
        dice[i].max() >= FOUND or (v in cut and inside[i, LEVELS.index(v)] > 0.5)
        for i, v in enumerate(owners)
    ]
    kept = [v for v, g in zip(owners, good, strict=True) if g]
    each = {
        v: round(float(dice[:, LEVELS.index(v)].max(initial=0.0)), 4) for v in there if v not in cut
    }
    return {
        "dice": each, "found": count, "false": count - len(set(kept)),
        "owners": owners if len(set(kept)) == count else None,
    }  # fmt: skip


def _named(
    scan: Scan, network: CtNetwork, found: Found, owners: list[str] | None
) -> dict[str, Any]:
    """Named, asked or refused by what a user calls, and whether names are right."""
    try:
        labels = segment_scan(scan, network).labels
    except ScanError as error:
        asked = error.field == "--found"
        return {"names": "asked" if asked else "refused", "why": str(error)[:300]}
    named = name_levels(found.vertebrae)
    right = isinstance(named, Named) and owners == list(named.levels)
    return {"names": "right" if right else "wrong", "levels": list(labels.levels)}


def _rows(r: Record, method: str, kind: str = "") -> list[dict[str, Any]]:
    return [x for x in r["rows"] if x["method"] == method and x["kind"].startswith(kind)]


def _dices(rows: Sequence[dict[str, Any]]) -> list[float]:
    return [d for row in rows for d in row["dice"].values()]


def _mean(r: Record, kind: str) -> tuple[float, int] | None:
    values = _dices(_rows(r, "network", kind))
    return (float(np.mean(values)), len(values)) if values else None


def _dice(r: Record) -> tuple[str, bool] | None:
    goals = (("virtual, 1", 0.95), ("virtual, 3", 0.87), ("real, 1.5", 0.92), ("real, 3", 0.87))
    means = [(kind, goal, _mean(r, kind)) for kind, goal in goals]
    told = [f"{kind} mm: {m[0]:.3f} of {m[1]}" for kind, _, m in means if m]
    met = all(m is not None and m[0] >= goal for _, goal, m in means)
    return (", ".join(told), met) if told else None


def _detection(r: Record) -> tuple[str, bool] | None:
    rows = _rows(r, "network")
    values = _dices(rows)
    if not values:
        return None
    recall = float(np.mean([d >= FOUND for d in values]))
    precision = 1.0 - sum(x["false"] for x in rows) / max(1, sum(x["found"] for x in rows))
    return f"{share(recall)} / {share(precision)}", recall >= 0.98 and precision >= 0.99


def _names(r: Record) -> tuple[str, bool] | None:
    told = [x["names"] for x in _rows(r, "network")]
    if not told:
        return None
    counts = {k: told.count(k) for k in ("right", "asked", "refused", "wrong")}
    text = ", ".join(f"{n} {k}" for k, n in counts.items())
    return text, not counts["wrong"] and counts["refused"] <= 0.02 * len(told)


SEGMENTATION_TARGETS: Sequence[Target] = (
    Target("Dice per vertebra: virtual CT at 1 and 3 mm, real CT at 1.5 and 3 mm",
           "≥ 0.95, 0.87, 0.92, 0.87", "0.75 to 0.82 (Da Mutten)", "segmentation", _dice),
    Target("vertebrae found, recall / precision", "≥ 98 / 99 %", "–", "segmentation", _detection),
    Target("scans whose levels are named right or asked; refused; wrong", "≥ 98 %; –; 0",
           "89 % of levels right (Bertram 2024)", "segmentation", _names),
)  # fmt: skip


def segmentation_table(r: Record) -> list[str]:
    """Per kind of scan and method."""
    out = []
    for kind in dict.fromkeys(x["kind"] for x in r["rows"]):
        for method in ("network", "classical"):
            rows = _rows(r, method, kind)
            if not rows:
                continue
            dice = np.array(_dices(rows))
            counts = [sum(x.get("names") == k for x in rows) for k in ("right", "asked", "refused", "wrong")]  # fmt: skip
            found = sum(x["found"] for x in rows)
            out.append((
                kind, method, str(len(rows)), str(len(dice)),
                f"{dice.mean():.3f} / {np.median(dice):.3f} / {dice.min():.3f}" if len(dice) else "–",
                share(float((dice >= FOUND).mean())) if len(dice) else "–",
                f"{sum(x['false'] for x in rows)} of {found}",
                " / ".join(map(str, counts)) if method == "network" else "–",
                stat(statistics([x["s"] for x in rows])),
            ))  # fmt: skip
    return table(
        ("scans", "method", "n", "whole vertebrae", "Dice mean / median / least", "found",
         "none of them", "named right / asked / refused / wrong", "s"), out,
    )  # fmt: skip


def segmentation_section(r: Record) -> list[str]:
    """The part of docs/results.md."""
    without = "" if r["shipped"] else " No network is shipped: the peer alone."
    return [
        "## Vertebrae in CT", "", *provenance(r), "",
        (f"{len(r['seeds'])} virtual patients of the list `judge`, painted at 1 mm and read in slices of"
         " 1 and 3 mm; real CTs apart. Dice in the scan's own voxels, for vertebrae that are whole in"
         " it; the real masks are automatic, so that their own error is in it. Names as `spinenav"
         f" segment` gives them.{without}"), "",
        *segmentation_table(r), "",
    ]  # fmt: skip
