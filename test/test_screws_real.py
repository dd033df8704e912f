# SPDX-License-Identifier: Apache-2.0
"""`spinenav screws` with the shipped networks on one virtual pair, and what they make of bad ones.

Numbers of accuracy are the bench's; here counts that the input is used, or refused with a reason.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from spine_nav_bringup import screws
from spine_nav_common.core.implant_outputs import read_screws
from spine_nav_common.core.recording_writer import RecordingWriter
from spine_nav_common.core.types import StereoFrame
from spine_nav_sim.core.anatomy import make_anatomy
from spine_nav_sim.core.operation import ALL_LEVELS
from spine_nav_sim.core.stereo_config import StereoConfig
from spine_nav_sim.core.stereo_layout import make_stereo_scene
from spine_nav_sim.core.stereo_scene import StereoScene
from stereo_screw_tracker.core.config import StereoConfig as TrackerConfig
from stereo_screw_tracker.core.load import StereoCore

SCENE = StereoConfig(sizes=((640, 480),), mono_share=0.0, screws=(6, 6), rods="none")


@pytest.fixture(scope="module")
def scene() -> StereoScene:
    rng = np.random.default_rng(77)
    return make_stereo_scene(make_anatomy(rng, ALL_LEVELS, "real"), rng, SCENE)


@pytest.fixture(scope="module")
def pair(scene) -> StereoFrame:
    return scene.render(0.0).to_frame(10**18)


@pytest.fixture(scope="module")
def core() -> StereoCore:
    return screws.load_core(TrackerConfig())


def run(core: StereoCore, pairs: list[StereoFrame], folder: Path) -> screws.ScrewsOutcome:
    core.tracker.reset()
    with RecordingWriter(folder / "rec", compress=False) as writer:
        for pair in pairs:
            writer.write_stereo(pair)
    return screws.find_screws(folder / "rec", folder / "out", core=core)


def test_a_good_pair_is_used_and_gives_the_same_bytes_again(core, pair, tmp_path):
    found = [run(core, [pair], tmp_path / name) for name in ("a", "b")]
    assert [o.exit_code for o in found] == [0, 0]
    first, second = (tmp_path / n / "out" / "screws.csv" for n in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    rows = read_screws(first)
    assert rows and all(0.3 < r.head_m[2] < 0.8 and r.bound95_mm > 0.0 for r in rows)


def turned(image: np.ndarray) -> np.ndarray:
    c, s = np.cos(0.01), np.sin(0.01)
    return cv2.warpAffine(image, np.array([[c, -s, 0.0], [s, c, 9.0]]), image.shape[1::-1])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda p: replace(p, left=p.right, right=p.left), "left and right are swapped"),
        (lambda p: replace(p, right=turned(p.right)), "not rectified"),
        (lambda p: replace(p, right=np.zeros_like(p.right)), "right image is black"),
        (lambda p: replace(p, left=np.full_like(p.left, 255)), "left image is overexposed"),
        (lambda p: replace(p, right=p.left), "the same image"),
    ],
    ids=["swapped", "not rectified", "black", "overexposed", "same"],
)
def test_a_pair_that_cannot_be_measured_ends_with_1_and_the_reason(
    core, pair, tmp_path, change, text
):
    outcome = run(core, [change(pair)], tmp_path)
    assert outcome.exit_code == 1
    assert text in outcome.stopped
    assert read_screws(tmp_path / "out" / "screws.csv") == []
    assert "next: spinenav rod plan" not in outcome.text()


def test_a_wound_without_screws_gives_none_and_no_plan(core, scene, tmp_path):
    empty = replace(scene, screws=(), rods=(), implants=())
    outcome = run(core, [empty.render(0.0).to_frame(10**18)], tmp_path)
    assert outcome.exit_code == 0 and outcome.screws == ()
    assert "no screw head was found" in outcome.text()
