# SPDX-License-Identifier: Apache-2.0
"""Small scans that tests write themselves: DICOM slices, and a voxelised virtual vertebra."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from spine_nav_common.core.surface import signed_distance_m
from spine_nav_common.core.types import LEVEL_CODE, Mesh

NAME = "Secret^Patient"
ROWS, COLUMNS, SLICES = 34, 36, 9
STEP_MM = 2.5


def volume() -> np.ndarray:
    """(SLICES, ROWS, COLUMNS) stored values, neighbours and slices another."""
    values = np.arange(SLICES * ROWS * COLUMNS) % 4093
    return values.reshape(SLICES, ROWS, COLUMNS).astype(np.uint16)


def one_slice(k: int, series: str = "1.2.3", **tags: object) -> Dataset:
    """Slice k of a series; a tag that is None is left out."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d = Dataset()
    d.file_meta = meta
    d.SOPClassUID, d.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    d.PatientName, d.PatientID, d.Modality = NAME, "4711", "CT"
    d.SeriesInstanceUID, d.SeriesDescription = series, "bone"
    d.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    d.Rows, d.Columns = ROWS, COLUMNS
    d.PixelSpacing = [0.8, 0.7]
    d.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    d.ImagePositionPatient = [-5.0, 7.0, -100.0 + STEP_MM * k]
    d.RescaleSlope, d.RescaleIntercept = 1, -1024
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 12, 11, 0
    d.PixelData = volume()[k].tobytes()
    for tag, value in tags.items():
        if value is None:
            delattr(d, tag)
        else:
            setattr(d, tag, value)
    return d


def write_series(folder: Path, slices: list[Dataset]) -> Path:
    """The slices as files, in another order than they lie."""
    folder.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(0).permutation(len(slices))
    for name, k in enumerate(order):
        pydicom.dcmwrite(folder / f"{len(list(folder.iterdir())):03d}_{name}.dcm", slices[k],
                         enforce_file_format=True)  # fmt: skip
    return folder


def voxelised(
    meshes: dict[str, Mesh], step_mm: float, border_mm: float = 6.0
) -> tuple[sitk.Image, sitk.Image]:
    """A CT (bone 300 HU, muscle 50, air -1000 at the rim) and its mask, values as LEVEL_CODE."""
    points = np.concatenate([1e3 * m.vertices_m for m in meshes.values()])
    low, high = points.min(axis=0) - border_mm, points.max(axis=0) + border_mm
    axes = [np.arange(a, b, step_mm) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    mask = np.zeros(grid.shape[:3], np.uint8)
    for level, mesh in meshes.items():
        near = np.ones(grid.shape[:3], bool)
        box = 1e3 * mesh.vertices_m
        for k in range(3):
            near &= (grid[..., k] > box[:, k].min()) & (grid[..., k] < box[:, k].max())
        inside = signed_distance_m(mesh, 1e-3 * grid[near]) < 0.0
        mask[near] = np.where(inside, LEVEL_CODE[level], mask[near])
    ct = np.where(mask > 0, 300, 50).astype(np.int16)
    ct[:2], ct[-2:] = -1000, -1000
    out = []
    for values in (ct, mask):
        image = sitk.GetImageFromArray(np.ascontiguousarray(values.transpose(2, 1, 0)))
        image.SetSpacing([step_mm] * 3)
        image.SetOrigin([float(v) for v in low])
        out.append(image)
    return out[0], out[1]
