# SPDX-License-Identifier: Apache-2.0
"""One volume from DICOM: series told apart, slices in order by their position, HU by the tags.

What a tag does not say is not guessed: a missing orientation, position, spacing or rescale refuses.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID
from scipy import ndimage

from spine_nav_common.core.errors import ScanError

from .scan import Scan

_GAP = 0.02  # of the slice distance: position tags are rounded
_TILT_MM = 0.02  # sideways step from slice to slice that is no rounding
_HU = (-32768, 32767)


@dataclass(frozen=True)
class _File:
    """One file of the input: its name for messages, and how its bytes are had."""

    name: str
    path: Path
    member: str = ""

    def read(self) -> bytes:
        if not self.member:
            return self.path.read_bytes()
        with zipfile.ZipFile(self.path) as archive:
            return archive.read(self.member)


@dataclass(frozen=True)
class _Series:
    """Images of one series that have one size and orientation."""

    uid: str
    modality: str
    description: str
    rows: int
    columns: int
    orientation: tuple[float, ...]
    files: tuple[_File, ...]
    frames: int

    def words(self) -> str:
        return (
            f"{self.description or 'without a description'}, {self.modality or 'no modality'},"
            f" {self.frames} images of {self.columns}×{self.rows}"
        )


def load_dicom(path: Path, series: str | None) -> Scan:
    """One series of a folder (searched through), of a zip, or the one of a file.

    Raises ScanError.
    """
    found, skipped = _series(path)
    if not found:
        what = "; ".join(dict.fromkeys(skipped)) or "nothing in it is DICOM"
        raise ScanError(
            path, "", f"there is no DICOM volume ({what})",
            "give the folder of one series, or a NIfTI, NRRD or MHA file",
        )  # fmt: skip
    chosen = _choose(path, found, series)
    return _volume(path, chosen)


def _files(path: Path) -> Iterator[_File]:
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            if file.suffix.lower() == ".zip":
                yield from _files(file)
            else:
                yield _File(str(file), file)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.flag_bits & 0x1:
                    raise ScanError(path, info.filename, "it is encrypted", "unpack it first")
                if not info.is_dir():
                    yield _File(f"{path}: {info.filename}", path, info.filename)
    else:
        yield _File(str(path), path)


def _series(path: Path) -> tuple[list[_Series], list[str]]:
    groups: dict[tuple, list[tuple[_File, Any]]] = {}
    skipped: list[str] = []
    for file in _files(path):
        header = _header(file, skipped)
        if header is None:
            continue
        kind = [str(v).upper() for v in header.get("ImageType", [])]
        if "LOCALIZER" in kind or "SCOUT" in kind:
            skipped.append("a scout, which is no volume")
            continue
        orientation = _orientation_of(header)
        key = (
            str(header.get("SeriesInstanceUID", "")),
            str(header.get("Modality", "")),
            int(header.get("Rows", 0)),
            int(header.get("Columns", 0)),
            tuple(np.round(orientation, 3).tolist()) if orientation is not None else (),
        )
        groups.setdefault(key, []).append((file, header))
    found = []
    for (uid, modality, rows, columns, orientation_key), members in groups.items():
        header = members[0][1]
        frames = sum(int(h.get("NumberOfFrames", 1) or 1) for _, h in members)
        if frames == 1 and len(groups) > 1:
            skipped.append("a single image")
            continue
        found.append(
            _Series(
                uid, modality, str(header.get("SeriesDescription", "")), rows, columns,
                orientation_key, tuple(f for f, _ in members), frames,
            )
        )  # fmt: skip
    return found, skipped


def _header(file: _File, skipped: list[str]) -> Any:
    """Header of an image, None for what is none."""
    try:
        source = io.BytesIO(file.read()) if file.member else file.path
        header = pydicom.dcmread(source, stop_before_pixels=True)
    except InvalidDicomError:
        return None
    except Exception as error:  # damaged files raise whatever their bytes lead to
        raise ScanError(
            file.name, "", f"not readable ({type(error).__name__}: {error})",
            "copy the file again from the archive",
        ) from error  # fmt: skip
    if "DirectoryRecordSequence" in header:  # a DICOMDIR: the images themselves are found beside it
        skipped.append("a DICOMDIR without the images that it names")
        return None
    return header if header.get("Rows") else None


def _choose(path: Path, found: list[_Series], wanted: str | None) -> _Series:
    if wanted is not None:
        if wanted.isdigit() and 1 <= int(wanted) <= len(found):
            return found[int(wanted) - 1]
        match = [s for s in found if s.uid == wanted]
        if len(match) == 1:
            return match[0]
    if wanted is None and len(found) == 1:
        return found[0]
    listed = "; ".join(f"{i}: {s.words()}" for i, s in enumerate(found, 1))
    problem = (
        f"there are {len(found)} series ({listed})"
        if wanted is None
        else f"{wanted!r} is none of its series ({listed})"
    )
    raise ScanError(path, "--series", problem, "choose one by its number: --series N")


def _orientation_of(header: Any) -> np.ndarray | None:
    """(6,) row and column directions, None where no tag says them."""
    value = header.get("ImageOrientationPatient")
    if value is None:
        for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
            value = _in_group(
                header.get(name), "PlaneOrientationSequence", "ImageOrientationPatient"
            )
            if value is not None:
                break
    if value is None or len(value) != 6:
        return None
    return np.array([float(v) for v in value])


def _in_group(sequence: Any, group: str, tag: str) -> Any:
    for item in sequence or ():
        for inner in item.get(group) or ():
            if inner.get(tag) is not None:
                return inner.get(tag)
    return None


@dataclass(frozen=True)
class _Slice:
    """position (3,) mm of the first pixel's centre, values (rows, columns) in HU."""

    name: str
    position: np.ndarray
    values: np.ndarray


def _volume(path: Path, series: _Series) -> Scan:
    digest = hashlib.sha256()
    slices: list[_Slice] = []
    spacing: np.ndarray | None = None
    orientation: np.ndarray | None = None
    for file in series.files:
        data = file.read()
        digest.update(hashlib.sha256(data).digest())
        try:
            image = pydicom.dcmread(io.BytesIO(data))
        except Exception as error:  # as in _header
            raise _damaged(file, error) from error
        orientation = _checked_orientation(file, image)
        own = _pixel_spacing(file, image)
        if spacing is not None and not np.allclose(own, spacing, rtol=1e-3):
            raise ScanError(
                file.name, "PixelSpacing", f"is {own} mm, in other slices {spacing}",
                "give the folder of one series",
            )  # fmt: skip
        spacing = own
        slices += _frames(file, image, series.modality)
    assert orientation is not None and spacing is not None
    return _stacked(path, series, slices, orientation, spacing, digest.hexdigest())


def _damaged(file: _File, error: Exception) -> ScanError:
    return ScanError(
        file.name, "", f"cut off or damaged ({type(error).__name__}: {error})",
        "copy the file again from the archive",
    )  # fmt: skip


def _checked_orientation(file: _File, image: Any) -> np.ndarray:
    found = _orientation_of(image)
    if found is None:
        raise ScanError(
            file.name, "ImageOrientationPatient", "is missing: the orientation cannot be known",
            "export the series again with its position tags",
        )  # fmt: skip
    row, column = found[:3], found[3:]
    if not (
        abs(np.linalg.norm(row) - 1.0) < 1e-2
        and abs(np.linalg.norm(column) - 1.0) < 1e-2
        and abs(row @ column) < 1e-2
    ):
        raise ScanError(
            file.name, "ImageOrientationPatient", f"is {found.tolist()}, no pair of directions",
            "export the series again",
        )  # fmt: skip
    told = image.get("PatientOrientation")
    if told is not None and len(told) == 2 and all(str(t) for t in told):
        for direction, letters, what in ((row, told[0], "rows"), (column, told[1], "columns")):
            axis = int(np.abs(direction).argmax())
            letter = (("L", "R"), ("P", "A"), ("H", "F"))[axis][int(direction[axis] < 0.0)]
            other = (("R", "L"), ("A", "P"), ("F", "H"))[axis][int(direction[axis] < 0.0)]
            if other in str(letters).upper() and letter not in str(letters).upper():
                raise ScanError(
                    file.name, "PatientOrientation",
                    f"says that the {what} run to {letters}, ImageOrientationPatient that they run"
                    f" to {letter}: left, right, front or back are not known",
                    "ask the archive for the original series",
                )  # fmt: skip
    return found


def _pixel_spacing(file: _File, image: Any) -> np.ndarray:
    value = image.get("PixelSpacing")
    if value is None:
        for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
            value = value or _in_group(image.get(name), "PixelMeasuresSequence", "PixelSpacing")
    if value is None:
        raise ScanError(file.name, "PixelSpacing", "is missing", "export the series again")
    return np.array([float(v) for v in value])


def _frames(file: _File, image: Any, modality: str) -> list[_Slice]:
    syntax = UID(image.file_meta.get("TransferSyntaxUID", "")) if "file_meta" in dir(image) else ""
    try:
        pixels = image.pixel_array
    except (RuntimeError, NotImplementedError, AttributeError, ValueError, EOFError) as error:
        if "decompress" in str(error).lower() or "plugin" in str(error).lower() or "handler" in str(error).lower():  # fmt: skip
            raise ScanError(
                file.name, "TransferSyntaxUID",
                f"{getattr(syntax, 'name', syntax)} cannot be unpacked here ({error})",
                "install pylibjpeg with its plug-ins, or export the series uncompressed",
            ) from error  # fmt: skip
        raise _damaged(file, error) from error
    if int(image.get("SamplesPerPixel", 1)) != 1:
        raise ScanError(file.name, "SamplesPerPixel", "it is a colour image", "give the CT or MRI")
    count = int(image.get("NumberOfFrames", 1) or 1)
    stack = pixels if pixels.ndim == 3 else pixels[None]
    groups = image.get("PerFrameFunctionalGroupsSequence") or []
    if count > 1 and len(groups) != count:
        raise ScanError(
            file.name, "NumberOfFrames", f"is {count}, but {len(groups)} frames have a position",
            "export it as one image per slice",
        )  # fmt: skip
    out = []
    for i, values in enumerate(stack):
        own = groups[i : i + 1]
        position = (
            image.get("ImagePositionPatient")
            if count == 1 and image.get("ImagePositionPatient") is not None
            else _in_group(own, "PlanePositionSequence", "ImagePositionPatient")
        )
        if position is None or len(position) != 3:
            raise ScanError(
                file.name, "ImagePositionPatient", "is missing: the slices' order is not known",
                "export the series again with its position tags",
            )  # fmt: skip
        out.append(
            _Slice(
                file.name if count == 1 else f"{file.name}, frame {i + 1}",
                np.array([float(v) for v in position]),
                _rescaled(file, image, own, values, modality),
            )
        )
    return out


def _rescaled(file: _File, image: Any, group: Any, values: np.ndarray, modality: str) -> np.ndarray:
    """Grey values by slope and intercept: int16 where they are whole numbers that fit, else float32."""
    found = []
    for tag in ("RescaleSlope", "RescaleIntercept"):
        value = image.get(tag)
        for where in (group, image.get("SharedFunctionalGroupsSequence")):
            if value is None:
                value = _in_group(where, "PixelValueTransformationSequence", tag)
        found.append(value)
    if modality == "CT" and None in found:
        raise ScanError(
            file.name, "RescaleSlope, RescaleIntercept", "are missing in a CT: HU are not known",
            "export the series again",
        )  # fmt: skip
    slope = 1.0 if found[0] is None else float(found[0])
    intercept = 0.0 if found[1] is None else float(found[1])
    if not (np.isfinite([slope, intercept]).all() and slope != 0.0):
        raise ScanError(file.name, "RescaleSlope", f"is {slope}", "export the series again")
    if slope == round(slope) and intercept == round(intercept):
        whole = values.astype(np.int32) * int(slope) + int(intercept)
        if whole.min() >= _HU[0] and whole.max() <= _HU[1]:
            return whole.astype(np.int16)
    return (values * slope + intercept).astype(np.float32)


def _stacked(
    path: Path,
    series: _Series,
    slices: Sequence[_Slice],
    orientation: np.ndarray,
    spacing: np.ndarray,
    sha256: str,
) -> Scan:
    row, column = orientation[:3], orientation[3:]
    normal = np.cross(row, column)
    notes: list[str] = []
    ordered = sorted(slices, key=lambda s: float(s.position @ normal))
    kept = _once(ordered, normal, notes)
    if len(kept) < 2:
        raise ScanError(path, "", "there is one slice only: a scout or a single image",
                        "give the whole series")  # fmt: skip
    along = np.array([s.position @ normal for s in kept])
    steps = np.diff(along)
    step = float(np.median(steps))
    off = np.flatnonzero(np.abs(steps - step) > max(_GAP * step, 0.01))
    if len(off):
        at = int(off[0])
        missing = round(float(steps[at]) / step) - 1
        what = (
            f"{missing} slices are missing between {kept[at].name} and {kept[at + 1].name}"
            if missing >= 1 and abs(steps[at] - (missing + 1) * step) < 0.1 * step
            else f"the slices are unevenly spaced ({steps.min():.2f} to {steps.max():.2f} mm)"
        )
        raise ScanError(path, "ImagePositionPatient", what, "export the whole series again")
    volume = np.stack([s.values for s in kept])
    volume = _straightened(kept, volume, row, column, spacing, notes)
    image = sitk.GetImageFromArray(volume)
    image.SetSpacing((float(spacing[1]), float(spacing[0]), step))
    image.SetOrigin(tuple(float(v) for v in kept[0].position))
    image.SetDirection(np.column_stack([row, column, normal]).ravel().tolist())
    return Scan(image, sha256, series.modality, tuple(notes))


def _once(ordered: Sequence[_Slice], normal: np.ndarray, notes: list[str]) -> list[_Slice]:
    """Without slices that are there twice with the same pixels; refuses two images of one place."""
    kept: list[_Slice] = []
    twice = 0
    for s in ordered:
        if kept and abs(float((s.position - kept[-1].position) @ normal)) < 1e-3:
            if not np.array_equal(s.values, kept[-1].values):
                raise ScanError(
                    s.name, "ImagePositionPatient",
                    f"it lies where {kept[-1].name} lies, with another picture: two energies, phases"
                    " or scans in one series",
                    "give the folder of one of them",
                )  # fmt: skip
            twice += 1
            continue
        kept.append(s)
    if twice:  # without their names: paths hold patients' names, and notes are kept
        notes.append(f"{twice} slices are there twice with the same picture: passed over once")
    return kept


def _straightened(
    kept: Sequence[_Slice],
    volume: np.ndarray,
    row: np.ndarray,
    column: np.ndarray,
    spacing: np.ndarray,
    notes: list[str],
) -> np.ndarray:
    """A tilted gantry shifts each slice within its plane; brought back onto a square grid."""
    off = np.array([s.position - kept[0].position for s in kept])
    sideways = np.stack(
        [off @ column / spacing[0], off @ row / spacing[1]], axis=1
    )  # rows, columns
    if np.abs(np.diff(sideways * spacing, axis=0)).max() < _TILT_MM:
        return volume
    fill = volume.min()
    for k, shift in enumerate(sideways):
        moved = ndimage.shift(
            volume[k].astype(np.float32), np.round(shift, 6), order=1, cval=float(fill)
        )
        volume[k] = np.round(moved) if volume.dtype == np.int16 else moved
    notes.append("the gantry was tilted: slices were shifted onto a square grid")
    return volume
