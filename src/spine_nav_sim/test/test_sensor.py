# SPDX-License-Identifier: Apache-2.0
"""Depth noise follows the published law; colour sensor; stereo matching."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from spine_nav_common.core.types import Intrinsics
from spine_nav_sim.core import sensor as se

CAMERA = se.CAMERAS["d415"]
K = Intrinsics(320, 240, CAMERA.fx_640_px, CAMERA.fx_640_px, 159.5, 119.5)  # a 640 px image's crop
QUIET = se.DepthNoise(0.2, 0.7, 10.0, 0.0, 0.0, 6, 0.0, 0.0, 0.0, 5)
SHAPE = (240, 320)


def plane(z_m, noise=QUIET, frame=0, cosine=1.0, highlight=0.0, camera=CAMERA):
    full = [np.full(SHAPE, v, np.float32) for v in (z_m, cosine, highlight)]
    return se.measure_depth(*full, K, camera, noise, frame)


def test_correlated_noise_has_unit_variance_and_the_asked_width():
    fields = [se.correlated_noise(np.random.default_rng(i), (256, 256), 12.0) for i in range(8)]
    assert np.std(fields) == pytest.approx(1.0, abs=0.06)

    def correlation(lag):
        return np.mean([np.mean(f[:, :-lag] * f[:, lag:]) for f in fields])

    assert correlation(6) == pytest.approx(0.5, abs=0.08)  # half of the FWHM
    assert abs(correlation(30)) < 0.06


@pytest.mark.parametrize(
    ("camera", "z_m", "sigma_mm"),
    [("d415", 0.5, 0.36), ("d415", 0.6, 0.52), ("d435", 0.5, 0.88), ("d405", 0.5, 1.56)],
)
def test_frontal_sigma_is_the_published_table(camera, z_m, sigma_mm):
    noise = replace(QUIET, subpixel_rms_px=0.08)
    sigma = se.depth_sigma_m(np.float32(z_m), np.float32(1.0), se.CAMERAS[camera], noise)
    assert 1e3 * sigma == pytest.approx(sigma_mm, rel=0.02)


def test_tilt_widens_the_noise_up_to_a_bound():
    cosine = np.cos(np.radians([0, 30, 45, 60, 89])).astype(np.float32)
    sigma = se.depth_sigma_m(np.full(5, 0.5, np.float32), cosine, CAMERA, QUIET)
    assert np.all(np.diff(sigma) >= 0.0)
    assert sigma[2] / sigma[0] > 1.5
    assert sigma[4] / sigma[0] == pytest.approx(2.5)


def test_measured_plane_has_the_model_s_total_temporal_and_static_noise():
    frames = np.array([plane(0.5, frame=i) - 0.5 for i in range(60)])[:, :, 150:]  # no left shadow
    sigma = 0.25 * 0.2 / (1005.0 * 0.055)
    assert np.nanstd(frames) == pytest.approx(sigma, rel=0.12)
    assert np.nanmean(np.nanstd(frames, axis=0)) == pytest.approx(0.7 * sigma, rel=0.12)
    static = np.nanstd(np.nanmean(frames, axis=0))
    assert static == pytest.approx(np.sqrt(1 - 0.49 + 0.49 / 60) * sigma, rel=0.25)


def test_bias_field_is_fixed_to_the_camera_and_smooth():
    noise = replace(QUIET, subpixel_rms_px=1e-6, bias_share=0.002)
    first, second = (plane(0.5, noise, frame) - 0.5 for frame in (0, 1))
    np.testing.assert_allclose(first, second, atol=1e-6)
    assert 3e-4 < np.nanstd(first) < 2e-3
    assert np.nanmax(np.abs(np.diff(first, axis=1))) < 1e-4


def test_bias_grows_with_the_distance():
    noise = replace(QUIET, subpixel_rms_px=1e-6, bias_share=0.0, bias_scale=0.003)
    for z_m in (0.4, 0.8):
        assert np.nanmedian(plane(z_m, noise) - z_m) == pytest.approx(0.003 * z_m, rel=0.01)


def test_cameras_of_one_model_have_biases_of_their_own():
    rng = np.random.default_rng(3)
    drawn = [se.random_depth_noise(rng, CAMERA, 0.5, 0.5) for _ in range(200)]
    share = np.array([d.bias_share for d in drawn])
    assert 0.8 * CAMERA.bias_share < np.median(share) < 1.2 * CAMERA.bias_share
    assert share.max() / share.min() > 3.0
    assert np.std([d.bias_scale for d in drawn]) == pytest.approx(CAMERA.bias_share, rel=0.4)


def test_equal_frames_are_equal_and_others_are_not():
    np.testing.assert_array_equal(plane(0.5, frame=3), plane(0.5, frame=3))
    assert np.nanmax(np.abs(plane(0.5, frame=3) - plane(0.5, frame=4))) > 1e-4


def test_holes_where_a_sensor_has_none():
    assert np.isnan(plane(0.2)).all()  # nearer than the camera can measure
    assert np.isnan(plane(0.5, cosine=np.cos(np.radians(80.0)))).all()
    shiny = replace(QUIET, hole_share=1.0)
    assert np.isnan(plane(0.5, shiny, highlight=1.0)).mean() > 0.8
    assert np.isnan(plane(0.5, QUIET)).mean() < 0.01
    nothing = np.full(SHAPE, np.nan, np.float32)
    one = np.ones(SHAPE, np.float32)
    assert np.isnan(se.measure_depth(nothing, one, 0 * one, K, CAMERA, QUIET, 0)).all()


def test_stereo_shadow_is_left_of_a_near_object_and_as_wide_as_the_disparity_step():
    depth = np.full((3, 320), 0.6, np.float32)
    depth[:, 200:250] = 0.5
    shadow = se.stereo_shadow(depth, 600.0, 0.055)
    width = 600.0 * 0.055 * (1 / 0.5 - 1 / 0.6)
    assert shadow[1].sum() == pytest.approx(width, abs=2.0)
    assert shadow[1, 195:199].all()
    assert not shadow[1, 200:].any()


def test_edges_fly_between_the_two_surfaces():
    depth = np.full(SHAPE, 0.6, np.float32)
    depth[:, 160:] = 0.5
    one = np.ones(SHAPE, np.float32)
    noise = replace(QUIET, subpixel_rms_px=1e-6, flying_share=1.0)
    measured = se.measure_depth(depth, one, 0 * one, K, CAMERA, noise, 0)
    between = (measured > 0.51) & (measured < 0.59)
    assert between[:, 150:170].any()
    assert not between[:, 180:].any()


def test_matching_finds_the_depth_of_a_known_shift():
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.integers(0, 255, (120, 400), np.uint8), (0, 0), 1.0)
    camera = Intrinsics(360, 120, 600.0, 600.0, 180.0, 60.0)
    left, right = texture[:, :360], texture[:, 40:]  # disparity 40 px
    depth = se.match_stereo(left.copy(), right.copy(), camera, 0.04, (0.3, 1.4))
    assert np.nanmedian(depth[:, 100:]) == pytest.approx(600.0 * 0.04 / 40.0, rel=0.005)
    assert np.isnan(depth[:, :15]).all()  # their partners lie outside the right image


def test_exposure_saturates_and_repeats():
    sensor = se.random_colour_sensor(np.random.default_rng(1), 0.5)
    light = np.full((48, 64, 3), 0.2, np.float32)
    light[10:20, 10:20] = 50.0
    first = se.expose(light, sensor, 1.0, 4)
    assert first.dtype == np.uint8
    assert first.shape == light.shape
    assert (first[13:17, 13:17] > 250).all()
    np.testing.assert_array_equal(first, se.expose(light, sensor, 1.0, 4))
    assert not np.array_equal(first, se.expose(light, sensor, 1.0, 5))


def test_intrinsics_keep_the_field_of_view():
    small, large = (se.camera_intrinsics(CAMERA, w, w * 3 // 4) for w in (320, 640))
    assert large.fx / large.width == pytest.approx(small.fx / small.width)
    assert se.camera_intrinsics(CAMERA, 640, 480, np.random.default_rng(0)) != large
