# SPDX-License-Identifier: Apache-2.0
"""Broken input of any kind is read or refused in one line; nothing else ever comes out of it."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spine_nav_common.core.case import load_case
from spine_nav_common.core.errors import InputError
from spine_nav_common.core.images import (
    READABLE,
    ImageError,
    decode_camera_info,
    decode_colour,
    decode_depth,
)
from spine_nav_common.core.rectify import stereo_rig
from spine_nav_common.core.static_frames import load_calibration

FAST = settings(
    max_examples=20, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
MANY = settings(FAST, max_examples=200)
# what a person or a program may leave where something else belongs
WRONG = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def read_or_refused(read, *arguments) -> None:
    try:
        read(*arguments)
    except InputError as error:
        assert "\n" not in str(error)
        assert error.remedy


def places(tree, here=()):
    """Every path in a tree of mappings and lists."""
    yield here
    if isinstance(tree, dict):
        items = list(tree.items())
    else:
        items = list(enumerate(tree)) if isinstance(tree, list) else []
    for key, value in items:
        yield from places(value, (*here, key))


def changed(tree, place, value):
    """A copy with something else at one place."""
    if not place:
        return value
    copy = json.loads(json.dumps(tree))
    at = copy
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    return copy


def test_markups(case_dir):
    file = case_dir / "plan.mrk.json"
    text = file.read_text()
    tree = json.loads(text)

    @FAST
    @given(st.sampled_from(list(places(tree))), WRONG)
    def attack(place, value):
        file.write_text(json.dumps(changed(tree, place, value)), "utf-8", "surrogatepass")
        read_or_refused(load_case, case_dir)

    try:
        attack()
    finally:
        file.write_text(text)


def test_case_yaml(case_dir):
    file = case_dir / "case.yaml"
    text = file.read_text()
    tree = yaml.safe_load(text)

    @FAST
    @given(st.sampled_from(list(places(tree))), WRONG)
    def attack(place, value):
        file.write_text(yaml.safe_dump(changed(tree, place, value)), "utf-8", "surrogatepass")
        read_or_refused(load_case, case_dir)

    try:
        attack()
    finally:
        file.write_text(text)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # trimesh casts what it is given
def test_ply(case_dir):
    file = case_dir / "L2.ply"
    whole = file.read_bytes()
    byte = st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255))

    @FAST
    @given(st.lists(byte, min_size=1, max_size=4), st.just(len(whole)) | st.integers(0, len(whole)))
    def attack(edits, end):
        content = bytearray(whole)
        for at, value in edits:
            content[at] = value
        file.write_bytes(bytes(content[:end]))
        read_or_refused(load_case, case_dir)

    try:
        attack()
    finally:
        file.write_bytes(whole)


@MANY
@given(
    st.sampled_from([*READABLE.split(", "), "", "bayer_rggb16", "h264"]),
    st.integers(-1, 40) | st.integers(0, 2**32 - 1),
    st.integers(-1, 40) | st.integers(0, 2**32 - 1),
    st.integers(0, 200) | st.integers(0, 2**32 - 1),
    st.booleans(),
    st.binary(max_size=4000),
)
def test_images(encoding, height, width, step, big, data):
    message = SimpleNamespace(
        encoding=encoding, height=height, width=width, step=step, is_bigendian=big, data=data
    )
    for decode in (decode_colour, decode_depth):
        try:
            image = decode(message)
        except ImageError:
            continue
        assert image.shape[:2] == (height, width)


NUMBERS = st.floats() | st.sampled_from([0.0, 1.0, 600.0])


@MANY
@given(
    st.lists(NUMBERS, min_size=9, max_size=9), st.lists(NUMBERS, max_size=14),
    st.sampled_from([np.eye(3).ravel().tolist(), [0.0] * 9]) | st.lists(NUMBERS, min_size=9, max_size=9),
    st.lists(NUMBERS, min_size=12, max_size=12), st.integers(0, 50), st.integers(0, 50),
    st.sampled_from(["plumb_bob", "equidistant", "double_sphere", ""]),
)  # fmt: skip
def test_camera_info(k, d, r, p, width, height, name):
    message = SimpleNamespace(k=k, d=d, r=r, p=p, width=width, height=height, distortion_model=name)
    try:
        model = decode_camera_info(message)
        maps = model.rectify_maps(model.raw_intrinsics())
        assert maps[0].shape == (height, width)
        rig = stereo_rig(model, model, raw=True)
        assert math.isfinite(rig.baseline_m)
    except ImageError:
        pass


@FAST
@given(WRONG, WRONG, WRONG, WRONG)
def test_calibration(tmp_path_factory, parent, child, translation, rotation):
    entry = {"parent": parent, "child": child, "translation_m": translation, "q_xyzw": rotation}
    file = tmp_path_factory.getbasetemp() / "calibration.yaml"
    text = yaml.safe_dump({"version": 1, "transforms": [entry]})
    file.write_text(text, "utf-8", "surrogatepass")
    read_or_refused(load_calibration, file)
