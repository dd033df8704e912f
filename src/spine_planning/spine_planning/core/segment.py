# SPDX-License-Identifier: Apache-2.0
"""Vertebrae and sacrum of a CT by the network, with levels that are certain or asked about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from spine_nav_common.core.errors import OutputError, ScanError
from spine_nav_common.core.types import LEVEL_CODE

from .ct_network import STEP_MM, CtNetwork
from .labels import Labels, check_labels
from .level_names import Asked, check_names, name_levels
from .scan import VOLUMES, Scan
from .vertebrae import Found, Vertebra, find_vertebrae

NO_NETWORK = "no network that finds vertebrae is part of this version yet"
NO_NETWORK_REMEDY = "give --labels MASK, made by TotalSegmentator, SPINEPS or by hand in 3D Slicer"
_FOUND_BY = (
    "the vertebrae were found by a network that learned from virtual CTs alone: look at every border"
    " in the cuts; what it errs by is not in the margins, nor in the shares of poses that breach"
)
LEAST_CERTAINTY = 0.6  # of a whole vertebra, on average over its voxels and their rim
_SOFT_HU = -40.0  # fat and air are in every CT
_LEAST_ML = 8.0  # of all together
_BEHIND_MM = 1.0  # arch and processes draw a vertebra's centre behind its thickest place
_INSIDE = 0.6  # probability from which on a voxel is bone: the networks' masks are a little wide
_NEAR_MM, _MOST_LOGIT = 3.0, 3.0  # how far, and how much, the scan's own values move the border
_LEAST_SHARE = 1e-3  # of bone and of its surroundings nearby, for both to be known
_VALUES_HU = (-200.0, 700.0)  # metal and air would take all contrast
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Segmented:
    """labels: as a mask that the user brought; certainty: 0 to 1 by level; because: how the levels
    are known."""

    labels: Labels
    certainty: dict[str, float]
    because: str


def segment_scan(
    scan: Scan,
    network: CtNetwork,
    levels: tuple[str, ...] | None = None,
    progress: Progress | None = None,
) -> Segmented:
    """Find and name the vertebrae of a CT.

    Args:
        levels: the user's names of all that is found, from head to foot; None: by sacrum and ribs.

    Raises:
        ScanError: no CT, nothing like a spine, the network unsure, front and back or head and feet
            exchanged, levels not certain, or names that do not fit.
    """
    if scan.modality not in ("", "CT"):
        raise ScanError(
            "scan",
            "Modality",
            f"is {scan.modality}, and the network knows CT alone",
            NO_NETWORK_REMEDY,
        )
    hu = on_network_grid(scan)
    if float(np.nanmin(hu)) > _SOFT_HU:
        raise ScanError(
            "scan", "", f"nothing in it is below {np.nanmin(hu):.0f}: no CT in Hounsfield units",
            "give the CT as it was reconstructed, or bring a mask (--labels)",
        )  # fmt: skip
    told = progress or (lambda note: None)
    found = find_vertebrae(hu, network, lambda share: told(f"looking for vertebrae, {share:.0%}"))
    _check_found(found)
    named, because = _named(found.vertebrae, levels)
    told("border of each vertebra")
    codes = np.zeros(sitk.GetArrayViewFromImage(scan.upright).shape, np.uint8)
    draw(found, named, scan, hu, codes)
    labels = check_labels(Path("segmentation"), codes, scan, [_FOUND_BY, f"levels: {because}"])
    sure = {n: round(v.certainty, 3) for n, v in zip(named, found.vertebrae, strict=True)}
    return Segmented(labels, sure, because)


def on_network_grid(scan: Scan) -> np.ndarray:
    """(Z, Y, X) float32 HU every STEP_MM from voxel 0 of the upright scan, even sides, NaN beyond it;
    finer scans by the means of their voxels."""
    upright = scan.upright
    spacing = np.array(upright.GetSpacing())
    # Means of whole voxels: on a large scan a tenth of a Gaussian's time.
    factor = [max(1, int(STEP_MM / s + 0.05)) for s in spacing]
    image = sitk.Cast(upright, sitk.sitkFloat32) if max(factor) == 1 else upright
    if max(factor) > 1:
        image = sitk.Cast(sitk.BinShrink(image, factor), sitk.sitkFloat32)
    extent = (np.array(upright.GetSize()) - 1) * spacing
    size = [2 * int(np.ceil((e / STEP_MM + 1.0) / 2.0)) for e in extent]
    grid = sitk.Resample(
        image, size, sitk.Transform(), sitk.sitkLinear, upright.GetOrigin(), [STEP_MM] * 3,
        image.GetDirection(), float("nan"), sitk.sitkFloat32,
    )  # fmt: skip
    return sitk.GetArrayFromImage(grid)


def _check_found(found: Found) -> None:
    if sum(v.volume_ml for v in found.vertebrae) < _LEAST_ML:
        raise ScanError(
            "scan", "", "nothing in it looks like a spine to the network: another part of the body,"
            " or values that are no Hounsfield units",
            NO_NETWORK_REMEDY,
        )  # fmt: skip
    for k, v in enumerate(found.vertebrae):
        if not v.at_border and v.certainty < LEAST_CERTAINTY:
            raise ScanError(
                "scan", "",
                f"the network is not sure of {_place(k, found)}: certainty {v.certainty:.2f}, at least"
                f" {LEAST_CERTAINTY} is needed",
                NO_NETWORK_REMEDY,
            )  # fmt: skip
    whole = [k for k, v in enumerate(found.vertebrae) if not (v.at_border or v.is_sacrum)]
    wrong = [k for k in whole if _body_behind(found.labels == k + 1)]
    if len(wrong) > 0.5 * len(whole):
        raise ScanError(
            "scan", "orientation", "the vertebrae's bodies lie behind their processes: front and back"
            " are exchanged, and with them left and right may be",
            "export the volume again from its DICOM series",
        )  # fmt: skip
    sacra = [v for v in found.vertebrae if v.is_sacrum]
    others = [v for v in found.vertebrae if not v.is_sacrum]
    if sacra and others and sacra[0].centre_mm[2] > min(v.centre_mm[2] for v in others):
        raise ScanError(
            "scan", "orientation", "the sacrum lies above a vertebra: head and feet are exchanged, or"
            " the network is wrong",
            "export the volume again from its DICOM series, or bring a mask (--labels)",
        )  # fmt: skip


def _body_behind(mask: np.ndarray) -> bool:
    """Whether the thickest place of a vertebra lies behind the middle of its bone."""
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    part = np.pad(mask[box], 1)
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(part), 1.0)
    thick = np.unravel_index(int(depth.argmax()), part.shape)[1]
    middle = float(np.argwhere(part)[:, 1].mean())
    return bool(STEP_MM * (middle - thick) < -_BEHIND_MM)


def _place(k: int, found: Found) -> str:
    v = found.vertebrae[k]
    kind = (
        "the sacrum" if v.is_sacrum else f"vertebra {k + 1} of {len(found.vertebrae)} from the top"
    )
    return f"{kind} ({v.centre_mm[2]:.0f} mm above the scan's lowest slice)"


def _named(
    vertebrae: tuple[Vertebra, ...], levels: tuple[str, ...] | None
) -> tuple[tuple[str, ...], str]:
    if levels is not None:
        wrong = check_names(vertebrae, levels)
        if wrong:
            raise ScanError("scan", "--found", wrong, _heights(vertebrae))
        return levels, "as you named them"
    named = name_levels(vertebrae)
    if isinstance(named, Asked):
        most = f"; in most people they would be {named.proposal}" if named.proposal else ""
        raise ScanError(
            "scan", "--found", f"the levels are not certain: {named.reason}",
            f"{_heights(vertebrae)}{most}",
        )  # fmt: skip
    return named.levels, named.because


def _heights(vertebrae: tuple[Vertebra, ...]) -> str:
    each = [f"{v.centre_mm[2]:.0f}{' (sacrum)' if v.is_sacrum else ''}" for v in vertebrae]
    return (
        f"look, and name all {len(each)} from head to foot, as --found L1,L2: they lie {', '.join(each)}"
        " mm above the scan's lowest slice"
    )


@dataclass(frozen=True)
class Contrast:
    """How bone and its surroundings differ near each voxel of the network's grid: the logit of bone
    grows by gain * (HU - middle_hu)."""

    middle_hu: np.ndarray
    gain: np.ndarray


def contrast(hu: np.ndarray, bone: np.ndarray) -> Contrast:
    """Linear discriminant of bone against what lies about it, within _NEAR_MM. Where both look alike,
    or noise hides the difference, the gain is near zero.

    Args:
        hu, bone (Z, Y, X): the scan and the probability of bone on the network's grid; NaN is outside.
    """
    values = np.clip(np.nan_to_num(hu), *_VALUES_HU)
    inside = (bone > _INSIDE) & np.isfinite(hu)
    sigma = _NEAR_MM / STEP_MM
    near = ndimage.gaussian_filter(inside.astype(np.float32), sigma) > _LEAST_SHARE
    outside = near & ~inside & np.isfinite(hu)
    means, spreads, both = [], [], np.ones(hu.shape, bool)
    for part in (inside, outside):
        share = ndimage.gaussian_filter(part.astype(np.float32), sigma)
        both &= share > _LEAST_SHARE
        share = np.maximum(share, _LEAST_SHARE)
        mean = ndimage.gaussian_filter(np.where(part, values, 0.0), sigma) / share
        square = ndimage.gaussian_filter(np.where(part, values**2, 0.0), sigma) / share
        means.append(mean)
        spreads.append(np.maximum(square - mean**2, 0.0))
    gain = np.maximum(means[0] - means[1], 0.0) / (0.5 * (spreads[0] + spreads[1]) + 100.0)
    return Contrast(0.5 * (means[0] + means[1]), gain * both)


def draw(
    found: Found, levels: tuple[str, ...], scan: Scan, hu: np.ndarray, codes: np.ndarray
) -> None:
    """Labels in the scan's own voxels: the border is where the probability, between the network's
    voxels and with what the scan's own values say, passes _INSIDE; between two vertebrae the
    likelier has it."""
    factor = np.array(scan.upright.GetSpacing())[::-1] / STEP_MM
    values = sitk.GetArrayViewFromImage(scan.upright)
    best = np.full(codes.shape, _logit(_INSIDE), np.float32)
    nearest = ndimage.distance_transform_edt(
        found.labels == 0, return_distances=False, return_indices=True
    )
    owner = found.labels[tuple(nearest)]
    seen = contrast(hu, found.bone)
    boxes = ndimage.find_objects(found.labels)
    for k, level in enumerate(levels):
        box = boxes[k]
        low = np.array([max(s.start - 2, 0) for s in box])
        high = np.array([min(s.stop + 2, n) for s, n in zip(box, found.labels.shape, strict=True)])
        window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        own = np.where(owner[window] == k + 1, found.bone[window], 0.0).astype(np.float32)
        # where another part lies beside the vertebra, its probability is not this one's
        stray = (found.labels[window] == 0) & (own > 0.5)
        own[stray] = 0.49
        first = np.ceil(low / factor).astype(int)
        last = np.minimum(np.floor((high - 1) / factor).astype(int) + 1, codes.shape)
        shape = tuple(int(n) for n in np.maximum(last - first, 0))
        target = tuple(slice(a, a + n) for a, n in zip(first, shape, strict=True))

        def fine(
            coarse: np.ndarray, first: np.ndarray = first, low: np.ndarray = low,
            shape: tuple[int, ...] = shape,
        ) -> np.ndarray:  # fmt: skip
            return ndimage.affine_transform(
                coarse, factor, first * factor - low, shape, np.float32, order=1, mode="nearest"
            )

        off = np.clip(values[target], *_VALUES_HU) - fine(seen.middle_hu[window])
        told = np.clip(fine(seen.gain[window]) * off, -_MOST_LOGIT, _MOST_LOGIT)
        likely = fine(own)
        score = np.where(likely > 0.02, _logit(likely) + told, -np.inf)
        better = score > best[target]
        best[target][better] = score[better]
        codes[target][better] = LEVEL_CODE[level]


def _logit(p: np.ndarray | float) -> np.ndarray:
    p = np.clip(p, 1e-3, 1.0 - 1e-3)
    return np.log(p / (1.0 - p))


def check_out(path: Path) -> None:
    """Raise OutputError for a file that is there already, or is no volume's."""
    if not path.name.lower().endswith(VOLUMES):
        raise OutputError(path, "--out", "is no volume's name", "end it in .nii.gz, .nrrd or .mha")
    if path.exists():
        raise OutputError(path, "--out", "is there already", "name a new file")


def write_labels(path: Path, labels: Labels, scan: Scan) -> None:
    """The labels in the scan's own grid and order, without its tags; raises as `check_out`."""
    check_out(path)
    upright = sitk.GetImageFromArray(labels.codes)
    upright.CopyInformation(scan.upright)
    own = sitk.Resample(upright, scan.image, sitk.Transform(), sitk.sitkNearestNeighbor, 0,
                        sitk.sitkUInt8)  # fmt: skip
    for key in own.GetMetaDataKeys():
        own.EraseMetaData(key)
    sitk.WriteImage(own, str(path), True)
