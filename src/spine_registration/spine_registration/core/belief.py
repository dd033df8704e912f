# SPDX-License-Identifier: Apache-2.0
"""What is believed of the spine between two frames, how sure it is, and what of it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from spine_nav_common.core.depth_camera import DepthCamera
from spine_nav_common.core.types import Intrinsics, LevelEstimate, RgbdFrame, Status
from spine_perception.core.segmentation import RoiHint

from .bias import bias_response
from .chain import chain_gaps_m, chain_springs
from .config import NavigatorConfig
from .doubt import Explained, read_elsewhere, votes_apart_m
from .error import ErrorInputs, ErrorModel, noise_covariance, predicted_tre_mm, total_covariance
from .estimator import anchors
from .identity import Identity
from .levels import Evidence, LevelState, advance
from .model import SpineModel
from .observation import BonePixels
from .tracker import TrackState, TrackStep
from .visibility import view_levels


@dataclass(frozen=True)
class Belief:
    """Poses, states and predicted errors of all levels of the model after a frame."""

    track: TrackState
    levels: tuple[LevelState, ...]
    covariance: tuple[np.ndarray | None, ...]
    tre_mm: tuple[float, ...]
    best: Explained  # how well the bone was explained at best, slowly forgotten
    challenged_ns: int
    next_way: int = 1
    shown: bool = False  # some exposed level has been tracked since the registration
    followed: bool = False  # a frame after that of the registration was understood
    stamp_ns: int | None = None  # of the frame that made it
    noise: tuple[np.ndarray | None, ...] = ()  # of `covariance`, what is new with every frame

    def seen_ns(self, exposed: Sequence[int]) -> int:
        """Stamp of the last frame in which an exposed level was tracked, or of the registration."""
        return max(self.levels[k].seen_ns for k in exposed)


def judged(
    model: SpineModel,
    belief: Belief,
    result: TrackStep,
    pixels: BonePixels,
    frame: RgbdFrame,
    config: NavigatorConfig,
    camera: DepthCamera,
    error_model: ErrorModel,
) -> tuple[Belief, dict[int, ErrorInputs]]:
    """The belief after a solved frame: every level's state by the evidence of its own pixels, and its
    predicted error; with what each prediction was made of, by index of an exposed level."""
    T = result.state.T_camera_ct
    views = view_levels(model, T, frame.depth_m, frame.intrinsics)
    held = chain_springs(model, T, 1.0, config)
    single = _single_frame_covariance(result, held)
    bias = bias_response(
        model, T, pixels, result.estimate.level_of_pixel, anchors(model, T), held,
        1.0 / (result.state.pose_area_m2 * result.state.sigma_m**2),
        camera,
    )  # fmt: skip
    vote_gap = votes_apart_m(result.estimate, pixels)
    elsewhere = read_elsewhere(result.estimate, vote_gap, model.exposed)
    chain_gap = chain_gaps_m(model, T)
    inputs: dict[int, ErrorInputs] = {}
    levels, covariances, noises, bounds = [], [], [], []
    for k, state in enumerate(belief.levels):
        fit, anchor = result.estimate.fits[k], result.estimate.anchor_camera_m[k]
        covariance, noise, bound = None, None, 0.0  # of levels that are never shown nobody asks
        if model.exposed[k]:
            own = slice(6 * k, 6 * k + 6)
            inputs[k] = ErrorInputs(
                result.state.covariance[own, own],
                single[own, own],
                anchor,
                model.plan_points_m[k] @ T[k, :3, :3].T + T[k, :3, 3],
                bias[k],
            )
            covariance = total_covariance(inputs[k], error_model)
            noise = noise_covariance(inputs[k], error_model)
            bound = predicted_tre_mm(covariance, anchor, inputs[k].points_m)
        evidence = Evidence(
            fit.area_mm2 * fit.inlier_share, fit.inlier_share, views[k].contradicted,
            float(vote_gap[k]), float(chain_gap[k]), bound,
        )  # fmt: skip
        seen = None if elsewhere else evidence
        levels.append(advance(state, seen, frame.stamp_ns, config, elsewhere))
        covariances.append(covariance)
        noises.append(noise)
        bounds.append(bound)
    shown = any(s.status is Status.TRACKED and e for s, e in zip(levels, model.exposed))
    after = replace(
        belief, track=result.state, levels=tuple(levels), covariance=tuple(covariances),
        tre_mm=tuple(bounds), shown=belief.shown or shown, noise=tuple(noises),
    )  # fmt: skip
    return after, inputs


def _single_frame_covariance(result: TrackStep, held: np.ndarray) -> np.ndarray:
    """(6L, 6L) of this frame and the springs alone: noise that stays the same from frame to frame
    leaves an error of this size however many frames are fused."""
    information = held + np.eye(len(held))
    for k, H in enumerate(result.estimate.data_information):
        information[6 * k : 6 * k + 6, 6 * k : 6 * k + 6] += H
    return np.linalg.inv(information)


def report(
    model: SpineModel, belief: Belief, identity: Identity, exposed: Sequence[int]
) -> tuple[LevelEstimate, ...]:
    """What is shown of the exposed levels, in their order: poses only of those that belong to the case's patient."""
    out = []
    T = belief.track.T_camera_ct
    anchor = anchors(model, T)
    for k in exposed:
        state, level = belief.levels[k], model.levels[k]
        if foreign := identity.foreign(level):
            out.append(LevelEstimate(level, Status.REJECTED, reason=foreign))
        elif not identity.proven and state.status is not Status.LOST:
            out.append(LevelEstimate(level, Status.REGISTERING, reason=identity.why_waiting()))
        elif state.status in (Status.TRACKED, Status.OCCLUDED):
            covariance, bound = belief.covariance[k], belief.tre_mm[k]
            out.append(
                LevelEstimate(
                    level,
                    state.status,
                    T[k].copy(),
                    covariance,
                    anchor[k],
                    bound,
                    state.reason,
                    belief.noise[k],
                    state.measured,
                )
            )
        else:
            out.append(LevelEstimate(level, state.status, reason=state.reason))
    return tuple(out)


def where_to_look(
    model: SpineModel, belief: Belief, camera: Intrinsics, exposed: list[int]
) -> RoiHint:
    """Where in the image the exposed levels were last, and which way the head lies."""
    T_all = belief.track.T_camera_ct
    T = T_all[exposed]
    centre = anchors(model, T_all)[exposed].mean(axis=0)
    cranial = (T[:, :3, :3] @ model.axes[:, 2]).mean(axis=0)
    focal = (camera.fx, camera.fy)
    u, v = centre[:2] / centre[2] * focal + (camera.cx, camera.cy)
    # How the image of the centre moves when the centre moves towards the head.
    shift = (cranial[:2] - cranial[2] * centre[:2] / centre[2]) * focal
    return RoiHint(float(u), float(v), float(centre[2]), (float(shift[0]), float(shift[1])))
