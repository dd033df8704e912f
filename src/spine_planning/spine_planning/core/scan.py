# SPDX-License-Identifier: Apache-2.0
"""A scan from a DICOM series, NIfTI, NRRD or MetaImage: whole and with its orientation known, or refused.

Frames: SimpleITK's, which is DICOM's: LPS in mm. Nothing that names a patient is kept.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from spine_nav_common.core.errors import ScanError

VOLUMES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
SPACING_MM = (0.1, 6.0)
"""Between slices or pixels; outside, a pedicle cannot be told from its neighbourhood."""
LEAST_SIZE = 8  # voxels along each axis: fewer are a scout or a single image
_LEVEL_COS = 0.70  # an axis farther off every anatomical one than 45 degrees
_SAME = 1e-3  # of a voxel and of a direction's cosine


@dataclass(frozen=True)
class Scan:
    """A volume in LPS. image: SimpleITK, axes as in the file; sha256: of the file or the slices;
    modality: CT, MR or "" where nothing says; notes: what was mended, in words for the user."""

    image: sitk.Image
    sha256: str
    modality: str = ""
    notes: tuple[str, ...] = ()

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Along the file's own axes."""
        return tuple(self.image.GetSpacing())

    @cached_property
    def upright(self) -> sitk.Image:
        """The same volume with its axes in the order and direction nearest to L, P and S."""
        return sitk.DICOMOrient(self.image, "LPS")


def load_scan(path: Path, series: str | None = None) -> Scan:
    """Read a DICOM folder, DICOM file or zip, or a NIfTI, NRRD or MetaImage volume.

    Args:
        series: which of several DICOM series, by the number that the refusal lists or by its UID.

    Raises:
        ScanError: missing, unreadable, several series and none chosen, slices missing or doubled,
            orientation not known or contradictory, a scout, or no volume.
    """
    path = Path(path)
    if not path.exists():
        raise ScanError(path, "", "there is no such file or folder", "name the scan")
    if path.is_dir() or not path.name.lower().endswith(VOLUMES):
        from .dicom import load_dicom  # pydicom, only where it is needed

        scan = load_dicom(path, series)
    else:
        scan = _load_volume(path)
    check_volume(scan.image, path)
    return scan


def _load_volume(path: Path) -> Scan:
    image = read_volume(path)
    return Scan(image, file_sha256(path))


def read_volume(path: Path) -> sitk.Image:
    """A NIfTI, NRRD or MetaImage file whose header says how the patient lies in it.

    Raises ScanError.
    """
    name = path.name.lower()
    if not path.is_file():
        raise ScanError(path, "", "there is no such file", "name the volume")
    _check_header(path, name)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1][:160]
        raise ScanError(
            path, "", f"not readable, or cut off ({reason})", "export the volume again"
        ) from error
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise ScanError(
            path,
            "",
            f"it has {image.GetDimension()} dimensions and {image.GetNumberOfComponentsPerPixel()}"
            " values per voxel",
            "give one volume with one grey value per voxel",
        )
    return image


def _check_header(path: Path, name: str) -> None:
    if name.endswith((".nii", ".nii.gz")):
        _check_nifti(path)
        return
    with path.open("rb") as file:
        head = file.read(4096).decode("latin-1")
    if name.endswith((".nrrd", ".nhdr")):
        known = "space directions:" in head and (
            "space:" in head.split("space directions")[0] or "\nspace:" in head
        )
    else:
        known = re.search(r"(?m)^(TransformMatrix|Orientation|Rotation) *=", head) is not None
    if not known:
        raise _no_orientation(path, "the header has no patient space")


def _check_nifti(path: Path) -> None:
    """sform and qform are both optional in NIfTI; a reader that finds neither makes one up."""
    import gzip

    try:
        zipped = path.name.lower().endswith(".gz")
        with gzip.open(path) if zipped else path.open("rb") as file:
            head = file.read(348)
            size = len(head)
            while block := file.read(1 << 22):  # SimpleITK fills what is missing with zeros
                size += len(block)
    except (OSError, EOFError) as error:
        raise ScanError(path, "", f"not readable ({error})", "export the volume again") from error
    if len(head) < 348:
        raise ScanError(path, "", "the file is cut off in its header", "export the volume again")
    order = "<" if struct.unpack("<i", head[:4])[0] == 348 else ">"
    if struct.unpack(order + "i", head[:4])[0] != 348:
        raise ScanError(path, "", "it is no NIfTI-1 file", "export it as .nii.gz")
    dims = struct.unpack(order + "8h", head[40:56])
    voxels = int(np.prod([max(n, 1) for n in dims[1 : 1 + max(min(dims[0], 7), 0)]]))
    bits, start = (
        struct.unpack(order + "h", head[72:74])[0],
        struct.unpack(order + "f", head[108:112])[0],
    )
    if size < int(start) + voxels * bits // 8:
        raise ScanError(path, "", "the file is cut off", "export the volume again")
    qform, sform = struct.unpack(order + "2h", head[252:256])
    if qform <= 0 and sform <= 0:
        raise _no_orientation(path, "neither qform nor sform is set")
    if qform > 0 and sform > 0:
        quatern = _qform_axes(struct.unpack(order + "3f", head[256:268]),
                              struct.unpack(order + "f", head[76:80])[0])  # fmt: skip
        rows = np.array(struct.unpack(order + "12f", head[280:328])).reshape(3, 4)[:, :3]
        length = np.linalg.norm(rows, axis=0)
        if (length > 0.0).all() and ((rows / length * quatern).sum(axis=0) < 0.9).any():
            raise ScanError(
                path,
                "sform, qform",
                "they contradict each other: left and right, or front and back, are not known",
                "export the volume again from its DICOM series",
            )


def _qform_axes(bcd: tuple[float, ...], fac: float) -> np.ndarray:
    """(3, 3) directions of the axes, columns, by the NIfTI-1 standard."""
    b, c, d = bcd
    a = float(np.sqrt(max(0.0, 1.0 - b * b - c * c - d * d)))
    R = np.array([
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
    ])  # fmt: skip
    R[:, 2] *= -1.0 if fac < 0.0 else 1.0
    return R


def _no_orientation(path: Path, why: str) -> ScanError:
    return ScanError(
        path, "orientation", f"it cannot be known: {why}", "export again from the DICOM series"
    )


def check_volume(image: sitk.Image, path: Path) -> None:
    """Raise ScanError for what is no volume of a spine: size, spacing, directions, values."""
    size, spacing = image.GetSize(), image.GetSpacing()
    if min(size) < LEAST_SIZE:
        raise ScanError(
            path, "", f"it measures {size} voxels: a scout or a single image", "give the volume"
        )
    if not all(SPACING_MM[0] <= s <= SPACING_MM[1] for s in spacing):
        raise ScanError(
            path, "spacing", f"is {tuple(round(s, 4) for s in spacing)} mm",
            f"give voxels of {SPACING_MM[0]} to {SPACING_MM[1]} mm, in millimetres",
        )  # fmt: skip
    R = np.array(image.GetDirection()).reshape(3, 3)
    if not np.allclose(R.T @ R, np.eye(3), atol=1e-3):
        raise ScanError(
            path, "orientation", "the axes are not square to each other", "resample the volume"
        )
    nearest = np.abs(R).argmax(axis=0)
    if len(set(nearest.tolist())) < 3 or np.abs(R).max(axis=0).min() < _LEVEL_COS:
        raise ScanError(
            path, "orientation", "an axis lies between two anatomical ones", "resample the volume"
        )


def same_grid(a: sitk.Image, b: sitk.Image) -> bool:
    """Whether two volumes have the same voxels, in whatever order and direction of axes."""
    a, b = sitk.DICOMOrient(a, "LPS"), sitk.DICOMOrient(b, "LPS")
    if a.GetSize() != b.GetSize():
        return False
    spacing = np.array(a.GetSpacing())
    corner = [int(v) - 1 for v in a.GetSize()]
    return all(
        bool(
            np.allclose(
                np.array(a.TransformIndexToPhysicalPoint(at)),
                np.array(b.TransformIndexToPhysicalPoint(at)),
                atol=0.05 * float(spacing.min()),
            )
        )
        for at in ([0, 0, 0], corner, [corner[0], 0, 0], [0, corner[1], 0])
    )


def file_sha256(*paths: Path) -> str:
    """Hash over the files' content, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            for block in iter(_reader(file), b""):
                digest.update(block)
    return digest.hexdigest()


def _reader(file: object) -> Callable[[], bytes]:
    return lambda: file.read(1 << 20)  # type: ignore[attr-defined]
