# SPDX-License-Identifier: Apache-2.0
"""simulate writes what the contracts say, and nothing by half."""

import json

import numpy as np
import pytest

from spine_nav_common.core.case import load_case
from spine_nav_common.core.errors import InputError
from spine_nav_common.core.recording import open_recording
from spine_nav_sim.core.anatomy import make_anatomy
from spine_nav_sim.core.operation import render_all, simulate, stamp
from spine_nav_sim.core.scene import SceneConfig, make_scene

CONFIG = SceneConfig(exposed=("L2", "L3"), width=160, height=120, fps=5.0, threads=1,
                     resect_share=0.0)  # fmt: skip


@pytest.fixture(scope="module")
def anatomy():
    return make_anatomy(np.random.default_rng(3), ("L1", "L2", "L3"), "virtual-3")


@pytest.fixture(scope="module")
def written(anatomy, tmp_path_factory):
    out = tmp_path_factory.mktemp("operation") / "out"
    calls = []
    operation = simulate(out, anatomy, seed=5, seconds=1.0, config=CONFIG,
                         progress=lambda *args: calls.append(args))  # fmt: skip
    return out, operation.rgbd, calls


def test_the_case_is_the_anatomy(anatomy, written):
    case = load_case(written[0] / "case")
    assert case.exposed_levels == ("L2", "L3")
    assert case.frame == "LPS"
    assert set(case.meshes) == set(anatomy.meshes)
    np.testing.assert_allclose(
        np.sort(case.meshes["L2"].vertices_m, axis=0),
        np.sort(anatomy.meshes["L2"].vertices_m, axis=0),
        atol=1e-6,
    )
    assert len(case.plan) == len(anatomy.plan) == 6


def test_the_recording_is_the_rendered_frames(written):
    out, scene, calls = written
    frames = list(open_recording(out / "recording").rgbd_frames())
    truth = json.loads((out / "truth.json").read_text())
    assert len(frames) == len(truth["frames"]) == 5
    assert [c[:2] for c in calls] == [(i, 5) for i in range(1, 6)]
    for i, (frame, entry) in enumerate(zip(frames, truth["frames"], strict=True)):
        assert frame.stamp_ns == entry["stamp_ns"] == stamp(i / 5.0)
        rendered = scene.render(i / 5.0)
        np.testing.assert_array_equal(frame.colour, rendered.colour)
        np.testing.assert_allclose(frame.depth_m, rendered.depth_m, atol=0.00051)  # 16UC1: mm
        assert frame.intrinsics == rendered.intrinsics
        assert entry["visible_px"] == rendered.visible_px
        for level, T in entry["T_camera_ct_m"].items():
            np.testing.assert_array_equal(T, rendered.T_camera_ct[level])


def test_truth_names_levels_exposed_and_plan(anatomy, written):
    truth = json.loads((written[0] / "truth.json").read_text())
    assert truth["levels"] == ["L1", "L2", "L3"]
    assert truth["exposed"] == ["L2", "L3"]
    line = next(p for p in anatomy.plan if (p.level, p.side) == ("L2", "left"))
    np.testing.assert_allclose(truth["plan"]["L2_left"]["entry_mm"], 1e3 * line.entry_m)


def test_the_same_seed_writes_the_same_truth_and_another_does_not(anatomy, written, tmp_path):
    for name, seed in (("same", 5), ("other", 6)):
        simulate(tmp_path / name, anatomy, seed=seed, seconds=1.0, config=CONFIG)
    expected = (written[0] / "truth.json").read_bytes()
    assert (tmp_path / "same" / "truth.json").read_bytes() == expected
    assert (tmp_path / "other" / "truth.json").read_bytes() != expected


def test_parallel_rendering_keeps_order_and_content(anatomy):
    scene = make_scene(anatomy, np.random.default_rng(1), CONFIG)
    times = np.arange(5) / 5.0
    together = list(render_all(scene, times, workers=3))
    assert [f.t_s for f in together] == list(times)
    for frame in together:
        np.testing.assert_array_equal(frame.depth_m, scene.render(frame.t_s).depth_m)


def test_a_folder_of_meshes_is_an_anatomy(written, tmp_path):
    out = tmp_path / "real"
    simulate(out, written[0] / "case", seed=1, seconds=0.2, config=CONFIG)
    case = load_case(out / "case")
    assert set(case.meshes) == {"L1", "L2", "L3"}
    assert case.plan


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"scenes": ("rgbd", "radar")}, "radar"),
        ({"scenes": ()}, "no scene"),
        ({"seconds": 0.0}, "not positive"),
    ],
)
def test_what_cannot_be_simulated_is_refused_before_anything_is_written(
    anatomy, tmp_path, arguments, words
):
    out = tmp_path / "out"
    with pytest.raises(InputError, match=words):
        simulate(out, anatomy, config=CONFIG, **arguments)
    assert not out.exists()


def test_an_older_result_is_not_overwritten(anatomy, written):
    before = (written[0] / "truth.json").read_bytes()
    with pytest.raises(InputError, match="already there"):
        simulate(written[0], anatomy, seed=9, seconds=0.2, config=CONFIG)
    assert (written[0] / "truth.json").read_bytes() == before


def test_an_exposed_level_that_the_anatomy_lacks_is_refused(anatomy, tmp_path):
    with pytest.raises(ValueError, match="T5"):
        simulate(tmp_path / "x", anatomy, config=SceneConfig(exposed=("T5",)))
    assert not (tmp_path / "x").exists()
