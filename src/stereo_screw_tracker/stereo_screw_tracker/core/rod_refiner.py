# SPDX-License-Identifier: Apache-2.0
"""Rod refiner: where the rod's axis crosses the normal of a hypothesised curve, in each eye."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spine_nav_common.core.types import StereoFrame
from spine_perception.core.backends import AUTO
from spine_perception.core.inference import OnnxModel, find_model

from .crops import CropPair, normalise, paired_crops, rod_crops
from .finder_grid import grey
from .refiner import SIGMA_FROM_LAPLACE, BatchNetwork, run_in_batches, sigma_scale
from .types import RodMeasurements, StereoCamera

MODEL_NAME = "rod_refiner.onnx"
MODEL_VARIABLE = "SPINENAV_ROD_REFINER"
CROP_SIZE = 32
PITCH_M = 0.00045
BATCH = 20
OUTPUTS = ("offset", "log_offset", "presence")  # per eye: crop px, of the Laplace width, logit
SCALED = ("offset",)
MODEL_INPUT = {"size": CROP_SIZE, "pitch_mm": PITCH_M * 1e3, "batch": BATCH}
MIN_SLANT = 0.1  # sine of ray against tangent; a rod seen end on has no direction in the image


def measure_rod(
    network: BatchNetwork,
    scale: np.ndarray,
    frame: StereoFrame,
    points_m: np.ndarray,
    tangents: np.ndarray,
) -> RodMeasurements:
    """See `RodRefiner.measure`; scale (1,) as in SCALED."""
    points_m = np.asarray(points_m, float).reshape(-1, 3)
    tangents = np.asarray(tangents, float).reshape(-1, 3)
    if (
        len(points_m) != len(tangents)
        or not np.isfinite(points_m).all()
        or not np.isfinite(tangents).all()
        or (points_m[:, 2] <= 0.0).any()
    ):
        raise ValueError(
            "rod places must be finite, before the camera (z > 0) and have one tangent each"
        )
    camera = StereoCamera(frame.intrinsics, frame.baseline_m)
    pair = rod_crops(points_m, tangents, camera, PITCH_M)
    if len(points_m):
        crops = normalise(paired_crops(grey(frame.left), grey(frame.right), pair, CROP_SIZE))
        y = run_in_batches(network, crops, BATCH).astype(float)
    else:
        y = np.zeros((0, 2, len(OUTPUTS)))
    pixels = np.stack(
        [np.linalg.norm(m[:, :, 0], axis=1) for m in (pair.left_from_crop, pair.right_from_crop)],
        axis=1,
    )
    offset = y[:, :, 0] * pixels
    sigma = SIGMA_FROM_LAPLACE * np.exp(y[:, :, 1]) * scale[0] * pixels
    confidence = (
        0.5 * (1.0 + np.tanh(0.5 * y[:, :, 2])) * _measurable(pair, points_m, tangents, camera)
    )
    return RodMeasurements(
        point_m=points_m,
        normal_left=pair.left_from_crop[:, :, 0] / pixels[:, :1],
        normal_right=pair.right_from_crop[:, :, 0] / pixels[:, 1:],
        offset_left_px=offset[:, 0],
        offset_right_px=offset[:, 1],
        sigma_left_px=sigma[:, 0],
        sigma_right_px=sigma[:, 1],
        confidence_left=confidence[:, 0],
        confidence_right=confidence[:, 1],
    )


def _measurable(
    pair: CropPair, points_m: np.ndarray, tangents: np.ndarray, camera: StereoCamera
) -> np.ndarray:
    """(N, 2) bool: the place lies in that eye's image, and the tangent is not along its ray."""
    k = camera.intrinsics
    out = []
    for x0, place in ((0.0, pair.left_px), (camera.baseline_m, pair.right_px)):
        ray = points_m - np.array([x0, 0.0, 0.0])
        sine = np.linalg.norm(np.cross(ray, tangents), axis=1) / np.maximum(
            np.linalg.norm(ray, axis=1) * np.linalg.norm(tangents, axis=1), 1e-12
        )
        inside = np.all((place >= -0.5) & (place < [k.width - 0.5, k.height - 0.5]), axis=1)
        out.append(inside & (sine > MIN_SLANT))
    return np.stack(out, axis=1)


class RodRefiner:
    """The rod refiner's model, loaded and verified.

    model: default the packaged one or $SPINENAV_ROD_REFINER. Raises ModelError as `OnnxModel`.
    """

    def __init__(
        self,
        model: Path | None = None,
        backend: str = AUTO,
        threads: int | None = None,
    ) -> None:
        model = model or find_model(MODEL_NAME, MODEL_VARIABLE)
        self._network = OnnxModel(model, MODEL_INPUT, backend, threads)
        self._scale = sigma_scale(self._network.card, SCALED, model)
        self.provider = self._network.provider
        self.model_sha256 = self._network.model_sha256

    def measure(
        self, frame: StereoFrame, points_m: np.ndarray, tangents: np.ndarray
    ) -> RodMeasurements:
        """Offsets of the rod's axis from K places points_m (K, 3) along the image normals.

        tangents (K, 3): the hypothesised direction of the rod, either sense. A place outside an
        image, or a rod seen end on, gets confidence 0 in that eye. Raises ValueError if a place is
        not before the camera, or a number is not finite.
        """
        return measure_rod(self._network, self._scale, frame, points_m, tangents)

    def warm_up(self) -> None:
        """One run on an empty crop, so that the first frame is not the slow one."""
        self._network.run(np.zeros((BATCH, 2, CROP_SIZE, CROP_SIZE), np.float32))
