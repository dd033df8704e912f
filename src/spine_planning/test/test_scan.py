# SPDX-License-Identifier: Apache-2.0
"""Scans as they come: read right, or refused with the reason; never turned or filled up silently."""

from __future__ import annotations

import struct
import zipfile

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.uid import JPEG2000Lossless
from scan_support import COLUMNS, NAME, ROWS, SLICES, STEP_MM, one_slice, volume, write_series

from spine_nav_common.core.errors import ScanError
from spine_planning.core.scan import load_scan, same_grid


def series(**tags):
    return [one_slice(k, **tags) for k in range(SLICES)]


def refused(path, *words, **given):
    with pytest.raises(ScanError) as error:
        load_scan(path, **given)
    for word in words:
        assert word in str(error.value)
    assert NAME not in str(error.value)


def test_slices_are_ordered_by_position_and_rescaled(tmp_path):
    scan = load_scan(write_series(tmp_path / "s", series()))
    assert scan.image.GetSize() == (COLUMNS, ROWS, SLICES)
    assert scan.spacing_mm == pytest.approx((0.7, 0.8, STEP_MM))
    assert scan.image.GetOrigin() == pytest.approx((-5.0, 7.0, -100.0))
    values = sitk.GetArrayFromImage(scan.image)
    assert values.dtype == np.int16 and np.array_equal(values, volume().astype(int) - 1024)
    assert scan.modality == "CT" and not scan.notes


def test_an_oblique_orientation_is_kept(tmp_path):
    # coronal slices: rows to the left, columns down, normal to the front or back
    slices = [
        one_slice(k, ImageOrientationPatient=[1, 0, 0, 0, 0, -1],
                  ImagePositionPatient=[0.0, STEP_MM * k, 0.0]) for k in range(SLICES)
    ]  # fmt: skip
    scan = load_scan(write_series(tmp_path / "s", slices))
    at = scan.image.TransformIndexToPhysicalPoint((2, 3, 0))
    assert at[0] == pytest.approx(1.4) and at[2] == pytest.approx(-2.4)
    first = int(scan.image[0, 0, 0])
    y = scan.image.TransformIndexToPhysicalPoint((0, 0, 0))[1]
    assert first == int(volume()[round(y / STEP_MM), 0, 0]) - 1024


def test_jpeg_2000_is_unpacked(tmp_path):
    slices = series()
    for s in slices:
        s.compress(JPEG2000Lossless)
    values = sitk.GetArrayFromImage(load_scan(write_series(tmp_path / "s", slices)).image)
    assert np.array_equal(values, volume().astype(int) - 1024)


def test_a_zip_is_read_and_an_encrypted_one_refused(tmp_path):
    folder = write_series(tmp_path / "s", series())
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    assert load_scan(tmp_path / "s.zip").image.GetSize() == (COLUMNS, ROWS, SLICES)
    data = bytearray((tmp_path / "s.zip").read_bytes())
    at = data.find(b"PK\x01\x02")
    data[at + 8] |= 1  # the flag of the first entry
    (tmp_path / "e.zip").write_bytes(data)
    refused(tmp_path / "e.zip", "encrypted")


def test_missing_uneven_and_doubled_slices(tmp_path):
    refused(
        write_series(tmp_path / "a", [s for k, s in enumerate(series()) if k != 4]),
        "1 slices are missing",
    )
    uneven = series()
    uneven[-1].ImagePositionPatient = [-5.0, 7.0, -100.0 + STEP_MM * (SLICES - 1) + 1.1]
    refused(write_series(tmp_path / "b", uneven), "unevenly spaced")
    twice = load_scan(write_series(tmp_path / "c", [*series(), one_slice(3)]))
    assert twice.image.GetSize()[2] == SLICES and "there twice" in twice.notes[0]
    assert str(tmp_path) not in twice.notes[0]  # notes are kept, and paths hold names
    other = one_slice(3, PixelData=volume()[5].tobytes())
    refused(write_series(tmp_path / "d", [*series(), other]), "two energies")


@pytest.mark.parametrize(
    ("tags", "word"),
    [
        ({"ImageOrientationPatient": None}, "ImageOrientationPatient"),
        ({"ImagePositionPatient": None}, "ImagePositionPatient"),
        ({"PixelSpacing": None}, "PixelSpacing"),
        ({"RescaleIntercept": None}, "HU are not known"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "no pair of directions"),
        ({"PatientOrientation": ["R", "P"]}, "left, right"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "scout"),
    ],
)
def test_what_no_tag_says_is_not_guessed(tmp_path, tags, word):
    refused(write_series(tmp_path / "s", series(**tags)), word)


def test_feet_first_says_so_and_is_read_where_it_lies(tmp_path):
    slices = [
        one_slice(k, ImageOrientationPatient=[-1, 0, 0, 0, 1, 0], PatientPosition="FFS",
                  PatientOrientation=["R", "P"]) for k in range(SLICES)
    ]  # fmt: skip
    scan = load_scan(write_series(tmp_path / "s", slices))
    assert scan.image.TransformIndexToPhysicalPoint((1, 0, 0))[0] == pytest.approx(-5.7)


def test_several_series_are_listed_and_one_is_chosen(tmp_path):
    folder = write_series(tmp_path / "s", series())
    write_series(
        folder, [one_slice(k, series="1.2.4", SeriesDescription="soft") for k in range(SLICES)]
    )
    refused(folder, "2 series", "bone", "soft", "--series N")
    refused(folder, "none of its series", series="7")
    one, two = load_scan(folder, "1"), load_scan(folder, "1.2.4")
    assert one.sha256 != two.sha256


def test_a_tilted_gantry_is_straightened(tmp_path):
    # each slice 0.8 mm (one row) further back than the one before
    slices = [
        one_slice(k, ImagePositionPatient=[-5.0, 7.0 + 0.8 * k, -100.0 + STEP_MM * k])
        for k in range(SLICES)
    ]
    scan = load_scan(write_series(tmp_path / "s", slices))
    values = sitk.GetArrayFromImage(scan.image)
    assert "tilted" in scan.notes[0]
    for k in range(SLICES):
        assert np.array_equal(values[k, k:], volume()[k, : ROWS - k].astype(int) - 1024)


def test_damaged_files_are_named(tmp_path):
    folder = write_series(tmp_path / "s", series())
    file = sorted(folder.iterdir())[2]
    file.write_bytes(file.read_bytes()[:-60])
    refused(folder, file.name)
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "nothing in it is DICOM")
    refused(tmp_path / "missing", "no such file")


def image(size=(10, 11, 12), spacing=(1.0, 1.0, 2.0)):
    made = sitk.GetImageFromArray(np.arange(np.prod(size), dtype=np.int16).reshape(size[::-1]))
    made.SetSpacing(spacing)
    made.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, 1))
    return made


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_volumes_of_other_programs(tmp_path, suffix):
    path = tmp_path / f"v{suffix}"
    sitk.WriteImage(image(), str(path))
    scan = load_scan(path)
    assert same_grid(scan.image, image())
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    refused(path, str(path))


def nifti(tmp_path, **fields):
    path = tmp_path / "v.nii"
    sitk.WriteImage(image(), str(path))
    data = bytearray(path.read_bytes())
    for offset, value in fields.values():
        struct.pack_into("<h" if isinstance(value, int) else "<f", data, offset, value)
    path.write_bytes(data)
    return path


def test_nifti_without_or_with_contradicting_orientation(tmp_path):
    refused(nifti(tmp_path, q=(252, 0), s=(254, 0)), "orientation")
    whole = struct.unpack("<f", nifti(tmp_path).read_bytes()[280:284])[0]
    refused(
        nifti(tmp_path, s=(254, 1), q=(252, 1), x=(280, -whole)), "contradict", "left and right"
    )


def test_headers_without_a_patient_space(tmp_path):
    path = tmp_path / "v.nrrd"
    sitk.WriteImage(image(), str(path))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"space: left-posterior-superior\n", b""))
    refused(path, "orientation")
    path = tmp_path / "v.mha"
    sitk.WriteImage(image(), str(path))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"TransformMatrix", b"NoSuchThingHere"))
    refused(path, "orientation")


def test_scouts_and_wrong_units(tmp_path):
    sitk.WriteImage(image((40, 40, 3)), str(tmp_path / "scout.nii.gz"))
    refused(tmp_path / "scout.nii.gz", "scout")
    sitk.WriteImage(image(spacing=(0.001, 0.001, 0.002)), str(tmp_path / "m.nrrd"))
    refused(tmp_path / "m.nrrd", "spacing")
