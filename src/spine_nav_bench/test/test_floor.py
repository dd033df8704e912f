# SPDX-License-Identifier: Apache-2.0
"""The floor of one frame: zero where the depth is true, the bias where it is biased."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spine_nav_bench.bench_floor import floor_tre_mm
from spine_nav_common.core.truth import Truth, TruthFrame
from spine_nav_common.core.types import Case
from spine_nav_sim.core.anatomy import make_anatomy
from spine_nav_sim.core.scene import SceneConfig, make_scene
from spine_nav_sim.core.splits import anatomy_seeds


@pytest.fixture(scope="module")
def recorded():
    rng = np.random.default_rng(anatomy_seeds("train")[5])
    anatomy = make_anatomy(rng, levels=("L2", "L3"))
    config = SceneConfig(
        exposed=("L2", "L3"), width=320, height=240, depth_noise=False, tissue_mm=0.0,
        resect_share=0.0, burr_share=0.0, tool_passes=False, camera="d415", threads=1,
    )  # fmt: skip
    scene = make_scene(anatomy, rng, config)
    case = Case("floor", "LPS", anatomy.meshes, scene.exposed, anatomy.plan, "")
    rendered = scene.render(0.0)
    frame = rendered.to_frame(1)
    truth = Truth(
        ("L2", "L3"), scene.exposed, anatomy.plan, {1: TruthFrame(1, rendered.T_camera_ct)}
    )
    return case, truth, frame


def test_true_depth_has_next_to_no_floor(recorded):
    case, truth, frame = recorded
    errors = floor_tre_mm(case, truth, [frame])
    assert len(errors) == 2
    assert max(errors) < 0.5


def test_a_scaled_depth_sets_the_floor_to_its_bias(recorded):
    case, truth, frame = recorded
    scaled = replace(frame, depth_m=(frame.depth_m * np.float32(1.003)).astype(np.float32))
    bias_mm = 1e3 * 0.003 * float(np.nanmedian(frame.depth_m))
    errors = floor_tre_mm(case, truth, [scaled])
    assert 0.6 * bias_mm < np.median(errors) < 1.6 * bias_mm
