# SPDX-License-Identifier: Apache-2.0
"""Camera models, depth noise (published-systems.md, section 12) and the colour sensor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from spine_nav_common.core.types import Intrinsics


@dataclass(frozen=True)
class CameraModel:
    """Nominal depth camera. fx_640_px: focal length of a 640 px wide colour image; depth_fx_px and
    baseline_m: of the stereo head at its native size; they rule the depth noise. mount_m: how far
    from the wound it is mounted."""

    name: str
    fx_640_px: float
    depth_fx_px: float
    baseline_m: float
    range_m: tuple[float, float]
    mount_m: tuple[float, float]
    dots: bool  # projects an infrared pattern
    bias_share: float  # typical 1 sigma of the smooth depth bias, as a share of the distance


# The D405 is made for 7 to 50 cm and its baseline is 18 mm: at 0.5 m its noise is four times that of
# a D415, so it hangs where its data sheet puts it, as near as hands leave room.
CAMERAS: dict[str, CameraModel] = {
    c.name: c
    for c in (
        CameraModel("d415", 615.0, 1005.0, 0.055, (0.30, 3.0), (0.35, 0.75), True, 0.8e-3),
        CameraModel("d435", 608.0, 455.0, 0.050, (0.17, 3.0), (0.35, 0.70), True, 1.2e-3),
        CameraModel("d405", 436.0, 711.0, 0.018, (0.07, 1.0), (0.25, 0.40), False, 0.8e-3),
        CameraModel("zedm", 467.0, 1050.0, 0.063, (0.15, 3.0), (0.35, 0.75), False, 1.0e-3),
    )
}


def camera_intrinsics(
    model: CameraModel, width: int, height: int, rng: np.random.Generator | None = None
) -> Intrinsics:
    """Pinhole of the colour image; with `rng` each camera is an individual (2 %, 8 px)."""
    fx = model.fx_640_px * width / 640.0
    cx, cy, fy = (width - 1) / 2.0, (height - 1) / 2.0, fx
    if rng is not None:
        fx *= 1.0 + rng.normal(0.0, 0.01)
        fy = fx * (1.0 + rng.normal(0.0, 0.002))
        cx += rng.normal(0.0, 4.0) * width / 640.0
        cy += rng.normal(0.0, 4.0) * width / 640.0
    return Intrinsics(width, height, float(fx), float(fy), float(cx), float(cy))


FRONTAL_LIMIT_M = 1.5e-3


@dataclass(frozen=True)
class DepthNoise:
    """Depth sensor of one scene. Lengths in pixels are native ones of the stereo head: matching
    windows are as many pixels wide as its picture has, whatever picture the depth is put over."""

    subpixel_rms_px: float
    temporal_share: float  # of the standard deviation; the rest is fixed to the image
    fwhm_px: float
    bias_share: float  # of the distance: 1 sigma of the smooth field that is fixed to the image
    bias_scale: float  # of the distance: the same everywhere
    bias_cells: int  # bumps of that field over the image's width
    smoothing_px: float
    flying_share: float
    hole_share: float
    seed: int


def random_depth_noise(
    rng: np.random.Generator, model: CameraModel, hardness: float, distance_m: float
) -> DepthNoise:
    """s ~ U(0.1, 0.5) px at hardness 1, less below; active heads and the ZED have the low half."""
    high = 0.15 + 0.35 * hardness
    if model.baseline_m < 0.03 or model.depth_fx_px < 600.0:
        high *= 0.5  # vendors' coarse heads interpolate harder; keeps sigma within section 12.2
    # A head whose frontal noise passes 1.5 mm at the wound would be mounted nearer, or another bought.
    # Two cameras of one model differ: some are well calibrated, some have been dropped.
    bias = model.bias_share * float(np.exp(np.clip(rng.normal(0.0, 0.45), -1.0, 1.0)))
    usable = FRONTAL_LIMIT_M * model.depth_fx_px * model.baseline_m / distance_m**2
    low, high = min(0.08, usable), min(high, usable)
    return DepthNoise(
        subpixel_rms_px=float(rng.uniform(low, high)),
        temporal_share=float(rng.uniform(0.4, 0.9)),
        fwhm_px=float(rng.uniform(8.0, 15.0)),
        # 1 sigma of the field: its peaks, at two sigma, are the published 0.5 to 2 mm.
        bias_share=bias,
        bias_scale=float(rng.normal(0.0, bias)),
        bias_cells=int(rng.integers(3, 8)),
        smoothing_px=float(rng.uniform(0.0, 0.8 + 1.2 * hardness)),
        flying_share=float(rng.uniform(0.0, 0.3 + 0.5 * hardness)),
        hole_share=float(rng.uniform(0.0, 0.3 + 0.7 * hardness)),
        seed=int(rng.integers(2**62)),
    )


def correlated_noise(
    rng: np.random.Generator, shape: tuple[int, int], fwhm_px: float
) -> np.ndarray:
    """Gaussian noise, unit variance, whose autocorrelation is a Gaussian of the given FWHM."""
    sigma = fwhm_px / 2.3548 / np.sqrt(2.0)  # the kernel's; the autocorrelation is sqrt(2) wider
    if sigma < 0.3:
        return rng.standard_normal(shape, dtype=np.float32)
    pad = int(3 * sigma) + 1
    white = rng.standard_normal((shape[0] + 2 * pad, shape[1] + 2 * pad), dtype=np.float32)
    size = 2 * pad + 1
    kernel = cv2.getGaussianKernel(size, sigma, cv2.CV_32F)
    kernel /= np.sqrt(float((kernel**2).sum()))
    return cv2.sepFilter2D(white, -1, kernel, kernel)[pad:-pad, pad:-pad]


def low_frequency(rng: np.random.Generator, shape: tuple[int, int], cells: int = 6) -> np.ndarray:
    """A smooth field with `cells` bumps over the image's width, deviation about 1."""
    coarse = rng.standard_normal((max(2, cells - 1), cells), dtype=np.float32)
    return cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)


def depth_sigma_m(
    depth_m: np.ndarray, cos_incidence: np.ndarray, model: CameraModel, noise: DepthNoise
) -> np.ndarray:
    """Standard deviation per pixel: z^2 s / (f B), times a tilt factor: 1.8 at 45 deg, 2.5 at most."""
    frontal = depth_m**2 * (noise.subpixel_rms_px / (model.depth_fx_px * model.baseline_m))
    theta = np.arccos(np.clip(cos_incidence, 0.0, 1.0))
    tilt = 1.0 + 0.6 * theta / np.maximum(np.pi / 2.0 - theta, 0.15) ** 2
    return frontal * np.minimum(tilt, 2.5)


def stereo_shadow(depth_m: np.ndarray, fx_px: float, baseline_m: float) -> np.ndarray:
    """Pixels of the left image that the right camera cannot see, from the depth alone."""
    disparity = fx_px * baseline_m / depth_m
    right_x = np.arange(depth_m.shape[1], dtype=np.float32)[None, :] - disparity
    nearest = np.minimum.accumulate(right_x[:, ::-1], axis=1)[:, ::-1]
    return right_x > nearest + 1.5


def measure_depth(
    depth_true_m: np.ndarray,
    cos_incidence: np.ndarray,
    highlight: np.ndarray,
    intrinsics: Intrinsics,
    model: CameraModel,
    noise: DepthNoise,
    frame: int,
) -> np.ndarray:
    """What the depth sensor reports.

    depth_true_m (H, W) metres, NaN = nothing; cos_incidence (H, W); highlight (H, W) 0 to 1 share
    of specular light. frame: number of the frame, drives the temporal noise. Returns (H, W)
    float32 metres with NaN holes.
    """
    shape = depth_true_m.shape
    scale = intrinsics.fx / model.fx_640_px  # pixels of this image per pixel of a 640 px one
    native = intrinsics.fx / model.depth_fx_px  # and per native pixel of the stereo head
    known = np.isfinite(depth_true_m)
    depth = np.where(known, depth_true_m, 10.0).astype(np.float32)
    fixed = np.random.default_rng([noise.seed, 0])
    moving = np.random.default_rng([noise.seed, 1, frame])
    sigma = depth_sigma_m(depth, cos_incidence, model, noise)

    reach = 2 * max(1, round(1.5 * scale)) + 1
    kernel = np.ones((reach, reach), np.uint8)
    near, far = cv2.erode(depth, kernel), cv2.dilate(depth, kernel)
    edge = (far - near) > 0.012 + 0.02 * depth
    blur = max(noise.smoothing_px * native, 0.05)
    inverse = 1.0 / depth
    smooth = 1.0 / cv2.GaussianBlur(inverse, (0, 0), blur)
    fat_blur = 1.0 / cv2.GaussianBlur(inverse, (0, 0), max(2.0 * scale, 0.3))
    flying = edge & (moving.random(shape, np.float32) < noise.flying_share)
    measured = np.where(edge, depth, smooth)
    measured = np.where(flying, fat_blur, measured)

    fwhm = noise.fwhm_px * native
    static_share = np.sqrt(1.0 - noise.temporal_share**2)
    error = noise.temporal_share * correlated_noise(moving, shape, fwhm)
    error += static_share * correlated_noise(fixed, shape, fwhm)
    field = noise.bias_share * low_frequency(fixed, shape, noise.bias_cells)
    measured = measured * (1.0 + noise.bias_scale + field) + sigma * error

    patches = correlated_noise(moving, shape, fwhm)
    hole = ~known
    hole |= edge & (patches > 1.0 - 1.6 * noise.hole_share)
    hole |= (highlight > 0.35) & (patches > 0.6 - 2.0 * noise.hole_share)
    hole |= cos_incidence < np.cos(np.radians(78.0))
    hole |= stereo_shadow(depth, intrinsics.fx, model.baseline_m)
    hole |= moving.random(shape, np.float32) < 0.004 * noise.hole_share
    hole |= (depth < model.range_m[0]) | (depth > model.range_m[1])
    return np.where(hole, np.nan, measured).astype(np.float32)


@lru_cache(maxsize=1)
def _dots() -> np.ndarray:
    rng = np.random.default_rng(415)
    tile = (rng.random((1024, 1024)) < 0.06).astype(np.float32)
    return np.clip(2.5 * cv2.GaussianBlur(tile, (0, 0), 0.8), 0.0, 1.0)


def dot_pattern(points_m: np.ndarray) -> np.ndarray:
    """Brightness (H, W) 0 to 1 of a projected random dot pattern at points (H, W, 3) in the
    projector's frame; a dot spans about 1.3 mrad."""
    forward = np.maximum(points_m[..., 2], 0.05)
    u, v = (np.mod(points_m[..., k] / forward * 900.0, 1024.0).astype(np.float32) for k in (0, 1))
    return cv2.remap(_dots(), u, v, cv2.INTER_LINEAR, None, cv2.BORDER_WRAP)


def match_stereo(
    left: np.ndarray,
    right: np.ndarray,
    intrinsics: Intrinsics,
    baseline_m: float,
    range_m: tuple[float, float],
) -> np.ndarray:
    """Depth of the left image by semi-global matching: (H, W) float32 metres, NaN = no match.

    left, right (H, W) uint8, rectified, both with `intrinsics`; range_m is searched.
    """
    scale = intrinsics.fx * baseline_m
    first = int(scale / range_m[1])
    count = 16 * max(1, int(np.ceil((scale / range_m[0] - first) / 16.0)))
    matcher = cv2.StereoSGBM.create(
        minDisparity=first,
        numDisparities=count,
        blockSize=5,
        P1=2 * 25,
        P2=8 * 25,
        disp12MaxDiff=1,
        uniquenessRatio=8,
        speckleWindowSize=80,
        speckleRange=2,
        mode=cv2.STEREO_SGBM_MODE_SGBM_3WAY,
    )
    # A border lets the matcher use the columns whose partner lies left of the image.
    reach = first + count
    left, right = (
        cv2.copyMakeBorder(a, 0, 0, reach, 0, cv2.BORDER_REPLICATE) for a in (left, right)
    )
    disparity = matcher.compute(left, right)[:, reach:].astype(np.float32) / 16.0
    beyond = np.arange(disparity.shape[1])[None, :] - disparity < 0.0
    bad = (disparity <= first) | beyond
    return np.where(bad, np.nan, scale / np.maximum(disparity, 1e-3)).astype(np.float32)


@dataclass(frozen=True)
class ColourSensor:
    """The colour camera of one scene."""

    exposure: float
    white_balance: tuple[float, float, float]
    gamma: float
    vignette: float
    noise: float
    blur_px: float
    jpeg_quality: int  # 0: none
    seed: int


def random_colour_sensor(rng: np.random.Generator, hardness: float) -> ColourSensor:
    """Exposure multiplies an automatic gain that puts the wound at middle grey."""
    white = np.exp(rng.normal(0.0, 0.04 + 0.06 * hardness, 3))
    return ColourSensor(
        exposure=float(np.exp(rng.normal(0.0, 0.15 + 0.3 * hardness))),
        white_balance=(float(white[0]), float(white[1]), float(white[2])),
        gamma=float(rng.uniform(1.9, 2.5)),
        vignette=float(rng.uniform(0.0, 0.4)),
        noise=float(rng.uniform(0.002, 0.008 + 0.014 * hardness)),
        blur_px=float(rng.uniform(0.2, 0.7 + 0.6 * hardness)),
        jpeg_quality=int(rng.integers(50, 96)) if rng.uniform() < 0.4 else 0,
        seed=int(rng.integers(2**62)),
    )


def expose(radiance: np.ndarray, sensor: ColourSensor, gain: float, frame: int) -> np.ndarray:
    """Linear radiance (H, W, 3) to an sRGB-like (H, W, 3) uint8 picture."""
    rng = np.random.default_rng([sensor.seed, frame])
    height, width = radiance.shape[:2]
    scale = width / 640.0
    image = radiance * (gain * sensor.exposure * np.array(sensor.white_balance, np.float32))
    if sensor.vignette > 0.02:
        v = np.linspace(-1.0, 1.0, height, dtype=np.float32)[:, None]
        u = np.linspace(-1.0, 1.0, width, dtype=np.float32)[None, :]
        image = image * (1.0 - 0.5 * sensor.vignette * (u * u + v * v))[..., None]
    if sensor.blur_px * scale > 0.25:
        image = cv2.GaussianBlur(image, (0, 0), sensor.blur_px * scale)
    grain = rng.standard_normal(image.shape, dtype=np.float32)
    image = image + grain * (sensor.noise * (0.15 + np.sqrt(np.maximum(image, 0.0))))
    image = np.clip(image, 0.0, 1.0) ** np.float32(1.0 / sensor.gamma)
    picture = np.rint(image * 255.0).astype(np.uint8)
    if sensor.jpeg_quality:
        _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, sensor.jpeg_quality])
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(picture)
