# SPDX-License-Identifier: Apache-2.0
"""Vertebrae as a chain that the CT holds together, softly."""

from __future__ import annotations

import numpy as np

from spine_nav_common.core.geometry import kabsch

from .config import NavigatorConfig
from .estimator import Prior, anchors, springs
from .model import SpineModel


def chain_prior(
    model: SpineModel,
    poses: np.ndarray,
    stiffness: float,
    config: NavigatorConfig,
    tail: float = np.inf,
) -> Prior:
    """Springs about the rigid pose nearest to `poses`; tail: see `springs`."""
    centre = common_pose(model, poses)
    information = chain_springs(model, poses, stiffness, config, tail)
    return Prior(np.broadcast_to(centre, poses.shape).copy(), information)


def chain_springs(
    model: SpineModel,
    poses: np.ndarray,
    stiffness: float,
    config: NavigatorConfig,
    tail: float = np.inf,
) -> np.ndarray:
    """(6L, 6L) information of `chain_prior`."""
    return springs(
        model,
        poses,
        stiffness * np.deg2rad(config.spring_rotation_deg),
        stiffness * 1e-3 * config.spring_translation_mm,
        tail,
    )


def chain_gaps_m(model: SpineModel, T: np.ndarray) -> np.ndarray:
    """(L,) distance of each anchor from where its more agreeing neighbour would put it, metres."""
    here, gap = anchors(model, T), np.full((2, len(T)), np.inf)
    for side, by, of in (
        (0, slice(None, -1), slice(1, None)),
        (1, slice(1, None), slice(None, -1)),
    ):
        put = np.einsum("lij,lj->li", T[by, :3, :3], model.anchor_m[of]) + T[by, :3, 3]
        gap[side, of] = np.sqrt(((put - here[of]) ** 2).sum(axis=1))
    least = gap.min(axis=0)
    return np.where(np.isfinite(least), least, 0.0)


def common_pose(model: SpineModel, T: np.ndarray) -> np.ndarray:
    """(4, 4) rigid pose nearest to all levels' poses, at their anchors."""
    arms = 25e-3 * np.vstack([np.zeros(3), np.eye(3), -np.eye(3)])
    points = model.anchor_m[:, None] + arms[None]
    posed = np.einsum("lij,lnj->lni", T[:, :3, :3], points) + T[:, None, :3, 3]
    return kabsch(points.reshape(-1, 3), posed.reshape(-1, 3))
