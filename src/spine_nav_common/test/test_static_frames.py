# SPDX-License-Identifier: Apache-2.0
"""Extrinsics: composed along chains, and told where they are missing or contradict themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spine_nav_common.core.errors import CalibrationError
from spine_nav_common.core.geometry import exp_se3, invert, q_xyzw_from_rotation
from spine_nav_common.core.static_frames import StaticFrames, StaticTransform, load_calibration
from spine_nav_common.core.types import Rejected

RNG = np.random.default_rng(5)
T = [exp_se3(RNG.normal(scale=0.2, size=6)) for _ in range(4)]
COLOUR, LEFT = "camera_color_optical_frame", "stereo_left_optical_frame"


def edge(
    parent: str, child: str, T_parent_child: np.ndarray, source: str = "file"
) -> StaticTransform:
    return StaticTransform(parent, child, T_parent_child, source)


def test_a_chain_is_composed_in_either_direction():
    """As a rig publishes it: both cameras under one link, the colour frame two steps down."""
    frames = StaticFrames(
        [
            edge("rig", "camera_link", T[0]),
            edge("camera_link", COLOUR, T[1]),
            edge("rig", LEFT, T[2]),
        ]
    )
    T_left_colour = invert(T[2]) @ T[0] @ T[1]
    np.testing.assert_allclose(frames.lookup(LEFT, COLOUR), T_left_colour, atol=1e-12)
    np.testing.assert_allclose(frames.lookup(COLOUR, LEFT), invert(T_left_colour), atol=1e-12)
    np.testing.assert_allclose(frames.lookup("/" + LEFT, "/" + COLOUR), T_left_colour, atol=1e-12)
    np.testing.assert_allclose(frames.lookup("other", "/other"), np.eye(4))


def test_what_is_missing_is_told():
    frames = StaticFrames([edge("rig", LEFT, T[0])])
    answer = frames.lookup(LEFT, COLOUR)
    assert isinstance(answer, Rejected)
    assert COLOUR in answer.reason and LEFT in answer.reason and "--calibration" in answer.reason
    assert not StaticFrames()
    frames.add(edge("rig", COLOUR, T[1]))
    assert not isinstance(frames.lookup(LEFT, COLOUR), Rejected)  # no answer of before is kept


@pytest.mark.parametrize("by", [(0.002, 0, 0, 0, 0, 0), (0, 0, 0, 0, 0.006, 0)])
def test_two_sources_that_contradict_each_other_give_nothing(by):
    frames = StaticFrames([edge(LEFT, COLOUR, T[0]), edge(LEFT, COLOUR, T[0], "/tf_static")])
    np.testing.assert_allclose(frames.lookup(LEFT, COLOUR), T[0], atol=1e-12)
    frames.add(edge(LEFT, COLOUR, T[0] @ exp_se3(np.array(by)), "/tf_static"))
    answer = frames.lookup(LEFT, COLOUR)
    assert isinstance(answer, Rejected)
    assert (
        "contradict" in answer.reason and "file" in answer.reason and "/tf_static" in answer.reason
    )
    frames.add(edge(LEFT, COLOUR, T[0], "/tf_static"))  # corrected by whom had said it
    np.testing.assert_allclose(frames.lookup(LEFT, COLOUR), T[0], atol=1e-12)


def test_a_loop_that_does_not_close_gives_nothing():
    loop = [edge("rig", LEFT, T[0]), edge("rig", COLOUR, T[1]), edge(LEFT, COLOUR, T[2])]
    assert isinstance(StaticFrames(loop).lookup(LEFT, COLOUR), Rejected)
    loop[2] = edge(LEFT, COLOUR, invert(T[0]) @ T[1])
    np.testing.assert_allclose(
        StaticFrames(loop).lookup(LEFT, COLOUR), invert(T[0]) @ T[1], atol=1e-12
    )


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_file_is_read(tmp_path):
    q = q_xyzw_from_rotation(T[0][:3, :3]).tolist()
    file = write(
        tmp_path / "rig.yaml",
        f"version: 1\ntransforms:\n- {{parent: {LEFT}, child: {COLOUR},"
        f" translation_m: {T[0][:3, 3].tolist()}, q_xyzw: {q}}}\n",
    )
    (item,) = load_calibration(file)
    assert (item.parent, item.child, item.source) == (LEFT, COLOUR, str(file))
    np.testing.assert_allclose(item.T_parent_child, T[0], atol=1e-9)


ENTRY = "- {parent: a, child: b, translation_m: [0, 0, 0.1], q_xyzw: [0, 0, 0, 1]}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not readable"), ("3", "version"), ("version: 2", "version"), ("version: 1", "transforms"),
        ("version: 1\ntransforms: [3]", "no mapping"),
        ("version: 1\ntransforms:\n" + ENTRY.replace("child: b, ", ""), "child is missing"),
        ("version: 1\ntransforms:\n" + ENTRY.replace("child: b", "child: a"), "parent and child"),
        ("version: 1\ntransforms:\n" + ENTRY.replace("0.1]", "100]"), "write metres"),
        ("version: 1\ntransforms:\n" + ENTRY.replace("0.1]", ".nan]"), "finite"),
        ("version: 1\ntransforms:\n" + ENTRY.replace("0, 1]", "0, 2]"), "unit quaternion"),
        ("version: 1\ntransforms:\n" + ENTRY.replace("[0, 0, 0, 1]", "[0, 0, 1]"), "four"),
        ("version: 1\ntransforms:\n" + ENTRY.replace("child: b", "child: 3"), "names of frames"),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_in_one_line(tmp_path, text, words):
    with pytest.raises(CalibrationError, match=words) as caught:
        load_calibration(write(tmp_path / "rig.yaml", text))
    assert "\n" not in str(caught.value) and "rig.yaml" in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(CalibrationError, match="not readable"):
        load_calibration(tmp_path / "none.yaml")
