# SPDX-License-Identifier: Apache-2.0
"""The 95 % bound: it covers what it says, grows where less is known, and its fit finds the truth."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from screw_support import CAMERA

from stereo_screw_tracker.core.bounds import (
    BoundInputs,
    BoundModel,
    bound95_mm,
    load_bound_model,
    radius_quantile,
    total_covariance,
)

MODEL = BoundModel(gain=1.2, lateral_mm=0.2, disparity_px=0.1, doubt=2.0, hidden_mm_per_s=1.0)
HEAD = BoundInputs(np.array([0.03, -0.02, 0.5]), np.diag([0.1, 0.1, 1.0]) ** 2 * 1e-6, 0.9)
ROOT = Path(__file__).resolve().parents[3]


def fitter() -> ModuleType:
    """training/calibration/stereo_fit_bounds.py as a module."""
    spec = importlib.util.spec_from_file_location(
        "stereo_fit_bounds", ROOT / "training" / "calibration" / "stereo_fit_bounds.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "sigmas", [(1, 1, 1), (0.1, 0.1, 1), (0.5, 1, 2), (1e-3, 1e-3, 1), (1, 1, 0.1)]
)
def test_the_quantile_of_the_length_is_that_of_samples(sigmas: tuple) -> None:
    draws = np.random.default_rng(0).normal(size=(200000, 3)) * sigmas
    sampled = np.quantile(np.linalg.norm(draws, axis=1), 0.95)
    stated = radius_quantile(np.diag(np.square(sigmas))[None].astype(float), 0.95)[0]
    assert abs(stated / sampled - 1.0) < 0.03


def test_nothing_unknown_is_a_bound_of_nothing() -> None:
    assert radius_quantile(np.zeros((2, 3, 3)), 0.95).tolist() == [0.0, 0.0]


def test_it_grows_with_doubt_hiding_and_distance() -> None:
    plain = bound95_mm(HEAD, CAMERA, MODEL)
    assert bound95_mm(replace(HEAD, confidence=0.4), CAMERA, MODEL) > plain
    assert bound95_mm(replace(HEAD, hidden_s=1.0), CAMERA, MODEL) > plain
    assert bound95_mm(replace(HEAD, point_m=2.0 * HEAD.point_m), CAMERA, MODEL) > plain
    assert bound95_mm(replace(HEAD, covariance_m2=4.0 * HEAD.covariance_m2), CAMERA, MODEL) > plain


def test_a_disparity_offset_is_depth_as_the_camera_makes_it() -> None:
    only = BoundModel(gain=1e-6, lateral_mm=0.0, disparity_px=1.0, doubt=1.0, hidden_mm_per_s=0.0)
    straight = BoundInputs(np.array([0.0, 0.0, 0.5]), np.eye(3) * 1e-12, 1.0)
    sigma_mm = bound95_mm(straight, CAMERA, only) / 1.96  # one direction alone is uncertain
    assert abs(sigma_mm - 1e3 * 0.25 / (600.0 * 0.06)) < 1e-2  # z^2 / (f b) per pixel


def test_the_shipped_sizes_load() -> None:
    assert load_bound_model().gain > 0.0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"gain": "x"}', '{"gain": 0}'])
def test_a_file_without_sizes_names_itself_and_the_remedy(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bounds.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="stereo_fit_bounds") as error:
        load_bound_model(file)
    assert str(file) in str(error.value)


def test_a_missing_file_is_the_same_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stereo_fit_bounds"):
        load_bound_model(tmp_path / "none.json")


class TestFit:
    """Records drawn from a known model are covered to 95 %, and others too."""

    def columns(self, count: int, seed: int, truth: BoundModel) -> dict[str, np.ndarray]:
        """As training/calibration/stereo_calibrate.py writes them."""
        rng = np.random.default_rng(seed)
        k = CAMERA.intrinsics
        point = np.c_[rng.uniform(-0.1, 0.1, (count, 2)), rng.uniform(0.35, 0.7, count)]
        sigma = 1e-3 * rng.uniform(0.5, 2.0, (count, 1)) * np.array([0.1, 0.1, 1.0])
        columns = {
            "seed": rng.integers(0, 10, count),
            "point_m": point,
            "covariance_m2": sigma[:, :, None] ** 2 * np.eye(3),
            "confidence": rng.uniform(0.3, 1.0, count),
            "hidden_s": rng.choice([0.0, 0.0, 0.0, 1.0], count),
            "camera": np.tile(
                [k.width, k.height, k.fx, k.fy, k.cx, k.cy, CAMERA.baseline_m], (count, 1)
            ),
        }
        total = total_covariance(
            point, columns["covariance_m2"], columns["confidence"], columns["hidden_s"],
            np.full(count, k.fx * CAMERA.baseline_m), truth,
        )  # fmt: skip
        draw = np.einsum("nij,nj->ni", np.linalg.cholesky(total), rng.normal(size=(count, 3)))
        return {**columns, "error_mm": 1e3 * np.linalg.norm(draw, axis=1)}

    def file(self, tmp_path: Path, count: int, seed: int, truth: BoundModel) -> Path:
        path = tmp_path / f"heads{seed}.npz"
        np.savez_compressed(
            path, origin=np.array(json.dumps({"seeds": [1]})), **self.columns(count, seed, truth)
        )
        return path

    def test_it_covers_records_that_it_has_not_seen(self, tmp_path: Path) -> None:
        module = fitter()
        truth = BoundModel(2.0, 0.3, 0.2, 1.5, 2.0)
        records, _ = module.load_records(self.file(tmp_path, 800, 0, truth))
        model = module.fit(records)
        fresh, _ = module.load_records(self.file(tmp_path, 3000, 1, truth))
        assert 0.93 < np.mean(fresh.error_mm <= fresh.bounds_mm(model)) < 0.97
        assert 0.85 < np.median(fresh.bounds_mm(model) / fresh.bounds_mm(truth)) < 1.15

    def test_the_command_writes_sizes_that_load(self, tmp_path: Path) -> None:
        out = tmp_path / "bounds.json"
        heads = self.file(tmp_path, 400, 2, MODEL)
        assert fitter().main([str(heads), "--out", str(out)]) == 0
        document = json.loads(out.read_text(encoding="utf-8"))
        assert 0.95 <= document["fit"]["share_under_bound"] < 0.97
        assert 0.9 < document["fit"]["share_held_out"] < 0.99
        assert 0.8 <= document["fit"]["worst_scene"] <= document["fit"]["scene_p5"]
        assert document["fit"]["records"] == {"seeds": [1]}
        assert load_bound_model(out).gain > 0.0

    def test_a_design_that_errs_alike_in_one_scene_of_ten_widens_all_bounds(
        self, tmp_path: Path
    ) -> None:
        """95 % of all heads would leave that scene's surgeon with hardly any."""
        module = fitter()
        columns = self.columns(600, 4, MODEL)
        columns["error_mm"][columns["seed"] == 7] *= 3.0
        path = tmp_path / "heads.npz"
        np.savez_compressed(path, origin=np.array("{}"), **columns)
        out = tmp_path / "b.json"
        assert module.main([str(path), "--out", str(out)]) == 0
        records, _ = module.load_records(path)
        near = records.where(records.error_mm <= module.GHOST_MM)
        own = near.where(near.scene == 7)
        pooled_only, shipped = module.fit(near), load_bound_model(out)
        assert np.mean(own.error_mm <= own.bounds_mm(pooled_only)) < 0.8
        assert np.mean(own.error_mm <= own.bounds_mm(shipped)) >= 0.75  # its half was held out

    def test_no_rig_is_taken_to_be_perfect(self) -> None:
        module = fitter()
        least = module._model(np.full(5, -20.0))
        assert least.disparity_px >= 0.05 and least.lateral_mm >= 0.05 and least.doubt >= 1.0

    @pytest.mark.parametrize("scenes", [5, 40])
    def test_the_scene_factor_covers_the_share_that_it_promises(self, scenes: int) -> None:
        module = fitter()
        scene = np.repeat(np.arange(scenes), 10)
        ratios = np.full(len(scene), 0.5)
        ratios[scene == 0] = np.linspace(1.0, 2.0, 10)
        factor = module.scene_factor(ratios, scene)
        shares = np.array([np.mean(ratios[scene == s] <= factor) for s in range(scenes)])
        assert np.mean(shares >= module.SCENE_SHARE) >= module.SCENES
        assert factor == (1.0 if scenes == 40 else pytest.approx(1.0 + 7.0 / 9.0))

    def test_ghosts_do_not_widen_the_bound_of_heads(self, tmp_path: Path) -> None:
        module = fitter()
        columns = self.columns(400, 3, MODEL)
        columns["error_mm"][:40] = 18.0
        path = tmp_path / "ghosts.npz"
        np.savez_compressed(path, origin=np.array("{}"), **columns)
        out = tmp_path / "b.json"
        assert module.main([str(path), "--out", str(out)]) == 0
        document = json.loads(out.read_text(encoding="utf-8"))
        assert document["fit"]["excluded_beyond_10_mm"] >= 40
        assert document["fit"]["median_bound_mm"] < 8.0

    def test_too_few_records_and_other_files_are_refused(self, tmp_path: Path) -> None:
        module = fitter()
        out = tmp_path / "b.json"
        assert module.main([str(self.file(tmp_path, 20, 0, MODEL)), "--out", str(out)]) == 1
        (tmp_path / "x.npz").write_bytes(b"no archive")
        assert module.main([str(tmp_path / "x.npz"), "--out", str(out)]) == 2
        assert not out.exists()
