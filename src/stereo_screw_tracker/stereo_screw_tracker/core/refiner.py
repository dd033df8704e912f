# SPDX-License-Identifier: Apache-2.0
"""Head refiner: saddle point, tulip axis and confidence from paired crops around a hypothesis.

The network answers in crop pixels of `crops.head_crops` (left and right mean and difference) and
in that crop's ray frame; here the answers become full-resolution pixels and the left optical
frame. It looks several times, each time where the last answer pointed, until the answers rest: a
network that learnt from rough hypotheses goes only part of the way to the truth in one look. Then
it looks once more in three mirrors, and the mean counts: the network is not quite symmetric, and
what one look takes for a head, or for the depth of a slot, the others mostly do not.
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

from .crops import CropPair, head_crops, normalise, paired_crops
from .finder_grid import grey
from .types import HeadObservation, StereoCamera

MODEL_NAME = "screw_refiner.onnx"
MODEL_VARIABLE = "SPINENAV_SCREW_REFINER"
CROP_SIZE = 48
PITCH_M = 0.0006
BATCH = 4
LOOKS = 4
AT_REST_PX = 1.0  # crop pixels; a look that moves the place by less is the last plain one
MIRRORS = (
    (True, True),
    (True, False),
    (False, True),
)  # down, across; learnt from as often as plain
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
    mirrors: bool = True,
) -> tuple[HeadObservation, ...]:
    """One observation per candidate, in their order; see `HeadRefiner.refine` and `glance`."""
    if not candidates:
        return ()
    camera = StereoCamera(frame.intrinsics, frame.baseline_m)
    images = grey(frame.left), grey(frame.right)
    left = np.array([c[0] for c in candidates], float).reshape(-1, 2)
    right = np.array([c[1] for c in candidates], float).reshape(-1, 2)
    count = len(left)
    rows = np.zeros((count, len(OUTPUTS)))
    views = _Views(np.zeros((count, 4, 4)), np.zeros((count, 3, 3)))
    active = np.arange(count)
    for look in range(looks):
        pair, rotation = head_crops(left[active], right[active], camera, PITCH_M)
        crops = normalise(paired_crops(*images, pair, CROP_SIZE))
        rows[active] = run_in_batches(network, crops, BATCH)
        views.put(active, pair, rotation)
        eyes = rows[active, :4] @ EYES_FROM_PAIR.T
        moved = np.einsum("nij,nj->ni", views.to_image[active], eyes)
        left[active] += moved[:, :2]
        right[active] += moved[:, 2:]
        # A ghost that would wander onto a head stays a ghost: it is not followed.
        again = (np.abs(eyes).max(axis=1) > AT_REST_PX) & (left[active, 0] > right[active, 0])
        if look == 0:
            again &= rows[active, -1] > HOPELESS
        active = active[again]
        if not len(active):
            break
    plain = _placed(rows, scale, views, np.zeros((count, 4)))
    hopeful = np.flatnonzero((rows[:, -1] > HOPELESS) & (left[:, 0] > right[:, 0]))
    answers = plain
    if mirrors and len(hopeful):
        mirrored = _mirrored(network, scale, images, camera, left[hopeful], right[hopeful])
        answers = _averaged(plain, mirrored, hopeful)
    confidence = 0.5 * (1.0 + np.tanh(0.5 * answers.logit))
    return tuple(
        HeadObservation(
            left[i] + answers.shift[i, :2],
            right[i] + answers.shift[i, 2:],
            answers.covariance[i],
            answers.axis[i],
            float(answers.axis_sigma_rad[i]),
            float(confidence[i]),
        )
        for i in range(count)
    )


@dataclass(frozen=True)
class _Views:
    """Of N crops: to_image (N, 4, 4), image px of both eyes per crop px; R_ray_camera (N, 3, 3)."""

    to_image: np.ndarray
    rotation: np.ndarray

    def put(self, at: np.ndarray, pair: CropPair, rotation: np.ndarray) -> None:
        self.to_image[at, :2, :2], self.to_image[at, 2:, 2:] = (
            pair.left_from_crop,
            pair.right_from_crop,
        )
        self.rotation[at] = rotation


@dataclass(frozen=True)
class _Placed:
    """Answers in the image and the camera frame: shift (N, 4) px from a place (left, right), its
    covariance (N, 4, 4), axis (N, 3), axis_sigma_rad (N,), logit (N,)."""

    shift: np.ndarray
    covariance: np.ndarray
    axis: np.ndarray
    axis_sigma_rad: np.ndarray
    logit: np.ndarray


def _placed(rows: np.ndarray, scale: np.ndarray, views: _Views, shift: np.ndarray) -> _Placed:
    answers = decode_heads(rows, scale)
    root = views.to_image @ EYES_FROM_PAIR * answers.sigma[:, None, :]
    axis = np.einsum("nji,nj->ni", views.rotation, answers.axis)
    covariance = root @ np.swapaxes(root, 1, 2)
    return _Placed(shift, covariance, axis, answers.axis_sigma_rad, answers.logit)


def _mirrored(
    network: BatchNetwork,
    scale: np.ndarray,
    images: tuple[np.ndarray, np.ndarray],
    camera: StereoCamera,
    left: np.ndarray,
    right: np.ndarray,
) -> list[_Placed]:
    """Answers for places (N, 2) to the crops in every mirror, one entry per mirror."""
    pair, rotation = head_crops(left, right, camera, PITCH_M)
    views = _Views(np.zeros((len(left), 4, 4)), rotation)
    views.put(np.arange(len(left)), pair, rotation)
    crops = normalise(paired_crops(*images, pair, CROP_SIZE))
    seen = np.concatenate([mirror_pair(crops, down, across) for down, across in MIRRORS])
    answers = run_in_batches(network, seen, BATCH).reshape(len(MIRRORS), len(left), -1)
    out = []
    for (down, across), rows in zip(MIRRORS, answers, strict=True):
        back = rows * mirror_signs(down, across)
        moved = np.einsum("nij,nj->ni", views.to_image, back[:, :4] @ EYES_FROM_PAIR.T)
        out.append(_placed(back, scale, views, moved))
    return out


def _averaged(plain: _Placed, mirrored: Sequence[_Placed], at: np.ndarray) -> _Placed:
    """All answers with equal weight; how far they scatter counts as noise of their mean, for what
    the network errs by in one mirror it mostly errs by in the next."""
    parts = [_Placed(*(getattr(plain, f)[at] for f in _Placed.__annotations__)), *mirrored]
    shifts = np.stack([p.shift for p in parts])
    off = shifts - shifts.mean(axis=0)
    scatter = np.einsum("kni,knj->nij", off, off) / len(parts)
    axis = np.mean([p.axis for p in parts], axis=0)
    mean = {
        "shift": shifts.mean(axis=0),
        "covariance": np.mean([p.covariance for p in parts], axis=0) + scatter,
        "axis": axis / np.maximum(np.linalg.norm(axis, axis=1, keepdims=True), 1e-9),
        "axis_sigma_rad": np.sqrt(np.mean([p.axis_sigma_rad**2 for p in parts], axis=0)),
        "logit": np.mean([p.logit for p in parts], axis=0),
    }
    out = {}
    for name, values in mean.items():
        out[name] = getattr(plain, name).copy()
        out[name][at] = values
    return _Placed(**out)


def mirror_pair(crops: np.ndarray, down: bool, across: bool) -> np.ndarray:
    """Crops (N, 2, n, n) upside down, or left to right, which swaps the eyes too."""
    crops = crops[:, :, ::-1] if down else crops
    return crops[:, ::-1, :, ::-1] if across else crops


def mirror_signs(down: bool, across: bool) -> np.ndarray:
    """(13,) what the answers of OUTPUTS to mirrored crops are multiplied by for plain ones."""
    signs = np.ones(len(OUTPUTS))
    if down:
        signs[[1, 3, 9]] *= -1.0
    if across:
        signs[[0, 3, 8]] *= -1.0
    return signs


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

    def glance(
        self, frame: StereoFrame, candidates: Sequence[tuple[np.ndarray, np.ndarray]]
    ) -> tuple[HeadObservation, ...]:
        """As `refine`, without the mirrors: a third of the time, for heads that were refined
        before. Ghosts and wrong depths are told less well."""
        return refine_heads(self._network, self._scale, frame, candidates, mirrors=False)

    def warm_up(self) -> None:
        """One run on an empty crop, so that the first frame is not the slow one."""
        self._network.run(np.zeros((BATCH, 2, CROP_SIZE, CROP_SIZE), np.float32))
