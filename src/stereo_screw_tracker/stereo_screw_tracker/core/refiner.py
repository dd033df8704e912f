# SPDX-License-Identifier: Apache-2.0
"""Head refiner: saddle point, tulip axis and confidence from paired crops around a hypothesis.

The network answers in crop pixels of `crops.head_crops` (left and right mean and difference) and
in that crop's ray frame; here the answers become full-resolution pixels and the left optical
frame. It looks several times, each time where the last answer pointed, until the answers rest: a
network that learnt from rough hypotheses goes only part of the way to the truth in one look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from spine_nav_common.core.types import StereoFrame
from spine_perception.core.backends import AUTO
from spine_perception.core.inference import ModelError, OnnxModel, find_model

from .crops import head_crops, normalise, paired_crops
from .finder_grid import grey
from .types import HeadObservation, StereoCamera

MODEL_NAME = "screw_refiner.onnx"
MODEL_VARIABLE = "SPINENAV_SCREW_REFINER"
CROP_SIZE = 48
PITCH_M = 0.0006
BATCH = 4
LOOKS = 4
AT_REST_PX = 0.25  # crop pixels; a look that moves the place by less is the last one
HOPELESS = -2.0  # logit of the first look below which a place is not looked at again
# Shift (u, v) is the mean of both eyes; disparity and row difference are left minus right.
OUTPUTS = (
    *("shift_u", "shift_v", "disparity", "row_difference"),
    *("log_u", "log_v", "log_disparity", "log_row_difference"),  # of Laplace widths, crop px
    *("axis_x", "axis_y", "axis_z", "log_axis", "confidence"),  # unit in the ray frame, rad, logit
)
SCALED = ("shift_u", "shift_v", "disparity", "row_difference", "axis")
EYES_FROM_PAIR = np.array([[1, 0, 0.5, 0], [0, 1, 0, 0.5], [1, 0, -0.5, 0], [0, 1, 0, -0.5]])
SIGMA_FROM_LAPLACE = np.sqrt(2.0)
SIGMA_FROM_RADIAL = np.sqrt(3.0)  # density exp(-r/b) in the tangent plane: sigma per direction
MODEL_INPUT = {"size": CROP_SIZE, "pitch_mm": PITCH_M * 1e3, "batch": BATCH}


class BatchNetwork(Protocol):
    """A network of fixed batch; tests put a small fake here."""

    def run(self, x: np.ndarray) -> list[np.ndarray]:
        """x (batch, 2, n, n) float32, left and right, to one output (batch, ...)."""
        ...


@dataclass(frozen=True)
class HeadAnswers:
    """What the network says of N crops, in crop pixels and the ray frame.

    shift (N, 4): mean u, mean v, disparity, row difference; sigma (N, 4) crop px; axis (N, 3) unit;
    axis_sigma_rad (N,) per tangent direction; logit (N,).
    """

    shift: np.ndarray
    sigma: np.ndarray
    axis: np.ndarray
    axis_sigma_rad: np.ndarray
    logit: np.ndarray


def run_in_batches(network: BatchNetwork, x: np.ndarray, batch: int) -> np.ndarray:
    """The network's output for all rows of x; the last batch is filled up with zeros."""
    parts = []
    for begin in range(0, len(x), batch):
        part = x[begin : begin + batch]
        padded = np.zeros((batch, *x.shape[1:]), np.float32)
        padded[: len(part)] = part
        parts.append(network.run(padded)[0][: len(part)])
    return np.concatenate(parts)


def sigma_scale(card: dict, names: tuple[str, ...], model: Path) -> np.ndarray:
    """The card's calibration factors of the predicted sigmas, in the order of `names`.

    Raises ModelError if one is missing or not a positive number.
    """
    factors = card.get("sigma_scale")
    values = [factors.get(name) for name in names] if isinstance(factors, dict) else [None]
    if not all(isinstance(v, (int, float)) and 0.0 < v < 1e3 for v in values):
        raise ModelError(
            f"{model.with_suffix('.json')}: field sigma_scale is {factors}, needs a positive number "
            f"for each of {list(names)}; use the card that came with the model"
        )
    return np.array(values, float)


def decode_heads(y: np.ndarray, scale: np.ndarray) -> HeadAnswers:
    """y (N, 13) as in OUTPUTS; scale (5,) as in SCALED."""
    y = y.astype(float)
    axis = y[:, 8:11] / np.maximum(np.linalg.norm(y[:, 8:11], axis=1, keepdims=True), 1e-9)
    return HeadAnswers(
        shift=y[:, :4],
        sigma=SIGMA_FROM_LAPLACE * np.exp(y[:, 4:8]) * scale[:4],
        axis=axis,
        axis_sigma_rad=SIGMA_FROM_RADIAL * np.exp(y[:, 11]) * scale[4],
        logit=y[:, 12],
    )


def refine_heads(
    network: BatchNetwork,
    scale: np.ndarray,
    frame: StereoFrame,
    candidates: Sequence[tuple[np.ndarray, np.ndarray]],
    looks: int = LOOKS,
) -> tuple[HeadObservation, ...]:
    """One observation per candidate, in their order; see `HeadRefiner.refine`."""
    if not candidates:
        return ()
    camera = StereoCamera(frame.intrinsics, frame.baseline_m)
    images = grey(frame.left), grey(frame.right)
    left = np.array([c[0] for c in candidates], float).reshape(-1, 2)
    right = np.array([c[1] for c in candidates], float).reshape(-1, 2)
    count = len(left)
    to_image, rotation = np.zeros((count, 4, 4)), np.zeros((count, 3, 3))
    rows = np.zeros((count, len(OUTPUTS)), np.float32)
    active = np.arange(count)
    for look in range(looks):
        pair, rotation[active] = head_crops(left[active], right[active], camera, PITCH_M)
        crops = normalise(paired_crops(*images, pair, CROP_SIZE))
        rows[active] = run_in_batches(network, crops, BATCH)
        eyes = rows[active, :4].astype(float) @ EYES_FROM_PAIR.T
        to_image[active, :2, :2], to_image[active, 2:, 2:] = (
            pair.left_from_crop,
            pair.right_from_crop,
        )
        moved = np.einsum("nij,nj->ni", to_image[active], eyes)
        left[active] += moved[:, :2]
        right[active] += moved[:, 2:]
        # A ghost that would wander onto a head stays a ghost: it is not followed.
        again = (np.abs(eyes).max(axis=1) > AT_REST_PX) & (left[active, 0] > right[active, 0])
        if look == 0:
            again &= rows[active, -1] > HOPELESS
        active = active[again]
        if not len(active):
            break
    answers = decode_heads(rows, scale)
    root = to_image @ EYES_FROM_PAIR * answers.sigma[:, None, :]
    covariance = root @ np.swapaxes(root, 1, 2)
    confidence = 0.5 * (1.0 + np.tanh(0.5 * answers.logit))
    axis = np.einsum("nji,nj->ni", rotation, answers.axis)
    return tuple(
        HeadObservation(
            left[i],
            right[i],
            covariance[i],
            axis[i],
            float(answers.axis_sigma_rad[i]),
            float(confidence[i]),
        )
        for i in range(len(left))
    )


class HeadRefiner:
    """The head refiner's model, loaded and verified.

    model: default the packaged one or $SPINENAV_SCREW_REFINER. Raises ModelError as `OnnxModel`.
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

    def refine(
        self, frame: StereoFrame, candidates: Sequence[tuple[np.ndarray, np.ndarray]]
    ) -> tuple[HeadObservation, ...]:
        """One observation per candidate (left_px (2,), right_px (2,)), in their order.

        Nothing is dropped: the caller judges `confidence`, and a wrong candidate may have wandered
        onto a head that another one found too. Raises ValueError if a candidate's disparity is not
        above zero.
        """
        return refine_heads(self._network, self._scale, frame, candidates)

    def warm_up(self) -> None:
        """One run on an empty crop, so that the first frame is not the slow one."""
        self._network.run(np.zeros((BATCH, 2, CROP_SIZE, CROP_SIZE), np.float32))
