# SPDX-License-Identifier: Apache-2.0
"""A mask of vertebrae that another program made, with the level that each number stands for.

Which numbering a mask uses is never guessed: where more than one gives a spine in the right order,
the user is asked (`--label-names`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import yaml
from scipy import ndimage

from spine_nav_common.core.errors import ScanError
from spine_nav_common.core.types import LEVEL_CODE, LEVELS

from .scan import VOLUMES, Scan, read_volume, same_grid

_T = [f"T{i}" for i in range(1, 13)]
_L = [f"L{i}" for i in range(1, 7)]
# Number to level; what a numbering has beside (cervical levels, coccyx, discs, organs) is passed over.
SCHEMES: dict[str, dict[int, str]] = {
    "totalsegmentator": {
        25: "S1",
        **{27 + i: f"L{5 - i}" for i in range(5)},
        **{32 + i: f"T{12 - i}" for i in range(12)},
    },
    "verse": {**{8 + i: v for i, v in enumerate(_T)}, **{20 + i: v for i, v in enumerate(_L)},
              26: "S1"},
    "spinenav": dict(enumerate(LEVELS, start=1)),
}  # fmt: skip
SCHEMES["spineps"] = SCHEMES["verse"]
# Cervical levels, and T13, which this program has no name for.
_BESIDE = {
    "totalsegmentator": set(range(44, 51)) | {26},
    "verse": set(range(1, 8)) | {27, 28},
    "spinenav": {254},
}
_LEAST_ML = 3.0  # of a vertebra that counts
_SPECK = 0.02  # of a vertebra's voxels: loose parts smaller than this are dropped


@dataclass(frozen=True)
class Labels:
    """codes (Z, Y, X) uint8 in the scan's upright grid, values as `segmentation/labels`; levels:
    whole vertebrae from cranial to caudal; cut: levels that the scan's border cuts off."""

    codes: np.ndarray
    levels: tuple[str, ...]
    cut: tuple[str, ...]
    notes: tuple[str, ...] = ()


def load_labels(path: Path, scan: Scan, names: str | Path | None = None) -> Labels:
    """The mask of a scan.

    Args:
        path: one volume with a number per vertebra, or a folder with one volume per vertebra, named
            after it (vertebrae_L3.nii.gz, sacrum.nii.gz).
        names: the numbering (a key of SCHEMES), or a YAML or JSON file with {number: level}; None:
            the only one that fits.

    Raises:
        ScanError: unreadable, of another scan, no vertebra, numbering not certain, or levels that
            do not follow each other from head to foot.
    """
    path = Path(path)
    notes: list[str] = []
    if path.is_dir():
        codes = _from_folder(path, scan)
    else:
        image = read_volume(path)
        _check_grid(path, image, scan)
        numbers = sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS"))
        if not np.array_equal(numbers, np.round(numbers)):
            raise ScanError(path, "", "its values are no whole numbers", "give the label mask")
        known = _numbering(path, numbers, scan, names, notes)
        codes = np.zeros(numbers.shape, np.uint8)
        for number, level in known.items():
            codes[numbers == number] = LEVEL_CODE[level]
    return check_labels(path, codes, scan, notes)


def _check_grid(path: Path, image: sitk.Image, scan: Scan) -> None:
    if not same_grid(image, scan.image):
        raise ScanError(
            path, "",
            f"its voxels {image.GetSize()} are not those of the scan {scan.image.GetSize()}: another"
            " scan, or resampled",
            "give the mask that was made of this scan, in its grid",
        )  # fmt: skip


def _from_folder(path: Path, scan: Scan) -> np.ndarray:
    from spine_nav_sim.core.anatomy_files import level_of

    shape = sitk.GetArrayViewFromImage(scan.upright).shape
    codes = np.zeros(shape, np.uint8)
    files = sorted(f for f in path.iterdir() if f.name.lower().endswith(VOLUMES))
    seen: set[str] = set()
    for file in files:
        stem = file.name.split(".")[0]
        try:
            level = level_of(Path(stem))
        except ValueError:
            continue  # ribs, organs: TotalSegmentator writes a file for each
        if level in seen:
            raise ScanError(file, "", f"{level} is there twice", "keep one mask per vertebra")
        seen.add(level)
        image = read_volume(file)
        _check_grid(file, image, scan)
        codes[sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS")) > 0] = LEVEL_CODE[level]
    if not seen:
        raise ScanError(
            path, "", "no mask in it is named after a vertebra", "name them as vertebrae_L3.nii.gz"
        )
    return codes


def _numbering(
    path: Path, numbers: np.ndarray, scan: Scan, names: str | Path | None, notes: list[str]
) -> dict[int, str]:
    present = _centres(numbers, scan)
    if names is not None and str(names) not in SCHEMES:
        table = _table(Path(names))
        return {n: level for n, level in table.items() if n in present}
    chosen = list(SCHEMES) if names is None else [str(names)]
    fitting: dict[str, dict[int, str]] = {}
    for scheme in chosen:
        known = {n: SCHEMES[scheme][n] for n in present if n in SCHEMES[scheme]}
        if known and (names is not None or _plausible(scheme, known, present)):
            fitting[scheme] = known
    different = {tuple(sorted(k.items())): s for s, k in fitting.items()}
    if len(different) == 1:
        scheme, known = next(iter(fitting.items()))
        if names is None:
            notes.append(f"the numbers of the mask are read as {scheme}: {_list(known)}")
        return known
    listed = "; ".join(f"{s}: {_list(k)}" for s, k in fitting.items()) or "none fits"
    raise ScanError(
        path, "--label-names", f"what its numbers {sorted(present)} stand for is not certain ({listed})",
        f"say it: --label-names {'|'.join(sorted(SCHEMES))}, or a YAML file with number: level",
    )  # fmt: skip


def _list(known: Mapping[int, str]) -> str:
    return ", ".join(f"{n} {level}" for n, level in sorted(known.items()))


def _centres(numbers: np.ndarray, scan: Scan) -> dict[int, np.ndarray]:
    """Number to centre (3,) in voxels z, y, x, of what is large enough to be a vertebra."""
    voxel_ml = float(np.prod(scan.spacing_mm)) * 1e-3
    found, counts = np.unique(numbers, return_counts=True)
    large = [
        int(n) for n, c in zip(found, counts, strict=True) if n > 0 and c * voxel_ml > _LEAST_ML
    ]
    if not large:
        return {}
    middles = ndimage.center_of_mass(np.ones(numbers.shape, np.uint8), numbers, large)
    return {n: np.array(m) for n, m in zip(large, middles, strict=True)}


def _plausible(scheme: str, known: Mapping[int, str], present: Mapping[int, np.ndarray]) -> bool:
    """Whether the levels lie from head to foot in this numbering, and it leaves no number between."""
    ordered = sorted(known, key=lambda n: -present[n][0])  # upright: z towards the head
    rank = [LEVELS.index(known[n]) for n in ordered]
    if rank != sorted(rank):
        return False
    beside = _BESIDE[scheme if scheme in _BESIDE else "verse"]
    if scheme == "totalsegmentator":  # organs have numbers of their own
        return True
    return all(n in known or n in beside or n > 28 for n in present)


def _table(path: Path) -> dict[int, str]:
    try:
        document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ScanError(
            path, "--label-names", f"not readable ({error})",
            f"name {'|'.join(sorted(SCHEMES))}, or a YAML or JSON file with number: level",
        ) from error  # fmt: skip
    if isinstance(document, dict) and isinstance(document.get("labels"), dict):
        document = document["labels"]
    if not isinstance(document, dict) or not document:
        raise ScanError(path, "labels", "it is no mapping", "write lines such as 3: L1")
    table: dict[int, str] = {}
    for number, name in document.items():
        level = {"SACRUM": "S1"}.get(str(name).strip().upper(), str(name).strip().upper())
        if not str(number).lstrip("-").isdigit():
            raise ScanError(path, str(number), "is no label number", "write lines such as 3: L1")
        if level not in LEVELS:
            continue  # C7, a rib, an organ
        if level in table.values():
            raise ScanError(path, str(number), f"{level} is there twice", "name each level once")
        table[int(number)] = level
    return table


def check_labels(path: Path, codes: np.ndarray, scan: Scan, notes: list[str]) -> Labels:
    """Labels of level codes (Z, Y, X) in the upright grid; specks are taken out of `codes`, and told
    in `notes`. Raises ScanError for levels in pieces, out of order or missing between."""
    voxel_ml = float(np.prod(scan.spacing_mm)) * 1e-3
    whole: list[str] = []
    cut: list[str] = []
    boxes = ndimage.find_objects(codes)
    middle: dict[str, float] = {}
    for level in LEVELS:
        code = LEVEL_CODE[level]
        box = boxes[code - 1] if code <= len(boxes) else None
        if box is None:
            continue
        part = codes[box] == code
        parts, count = ndimage.label(part)
        if count > 1:
            sizes = np.bincount(parts.ravel())[1:]
            loose = int(sizes.sum() - sizes.max())
            if loose > _SPECK * sizes.sum():
                raise ScanError(
                    path, level, f"it falls into {count} parts, {100 * loose / sizes.sum():.0f} % of it"
                    " apart from the largest",
                    "correct the mask: each number one vertebra",
                )  # fmt: skip
            codes[box][part & (parts != int(sizes.argmax()) + 1)] = 0
            notes.append(f"{level}: {loose} loose voxels of the mask are left out")
        if (codes[box] == code).sum() * voxel_ml < _LEAST_ML:
            codes[box][codes[box] == code] = 0
            continue
        left = np.argwhere(codes[box] == code) + [side.start for side in box]
        touches = bool(
            (left.min(axis=0) == 0).any() or (left.max(axis=0) == np.array(codes.shape) - 1).any()
        )
        (cut if touches else whole).append(level)
        middle[level] = float(left[:, 0].mean())
    _check_order(path, [*whole, *cut], middle)
    for level in cut:
        notes.append(f"{level} is cut off by the border of the scan: no surface, no plan")
    if "L6" in middle:
        notes.append("six lumbar vertebrae: check the count against the ribs before you operate")
    if not whole:
        raise ScanError(
            path, "", "no vertebra lies whole in the scan" if cut else "there is no vertebra in it",
            "give a scan that shows the vertebrae whole, and its mask",
        )  # fmt: skip
    return Labels(codes, tuple(whole), tuple(cut), tuple(notes))


def _check_order(path: Path, levels: list[str], middle: Mapping[str, float]) -> None:
    ordered = sorted(levels, key=LEVELS.index)
    for upper, lower in itertools.pairwise(ordered):
        if middle[upper] <= middle[lower]:
            raise ScanError(
                path, f"{upper}, {lower}", f"{upper} lies caudal of {lower}",
                "check --label-names, and that the scan's orientation is right",
            )  # fmt: skip
        between = LEVELS[LEVELS.index(upper) + 1 : LEVELS.index(lower)]
        # L6 is there in few people, and S1 follows whichever lumbar one is last
        if [v for v in between if v != "L6"]:
            raise ScanError(
                path, f"{upper}, {lower}", f"{', '.join(between)} between them is missing: fused, or"
                " counted wrongly",
                "correct the mask, or leave the levels beyond the gap out of it",
            )  # fmt: skip
