# SPDX-License-Identifier: Apache-2.0
"""Screw heads followed over frames: stable ids, fused places, hidden heads held for a while.

What a network gets wrong in one frame it gets wrong again in the next, so a measurement's
covariance is split: the share `common_share` (of the axis: `axis_common_share`) stays the same over
frames and is carried beside the filter (`common_m2`), only the rest averages out. Time comes in
with the frames; nothing here reads a clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from spine_nav_common.core.geometry import transform_points
from spine_nav_common.core.types import Head3D

from .confidence import logit
from .config import TrackConfig
from .constellation import Match, Motion, match
from .ghosts import uncertainty_m

NS = 1e-9
_MEMORY = 10  # pairs over which the log odds are averaged
_SUREST = 6.0
_MISSED = -2.0  # log odds of a pair in which a head should be and is not measured
_FORGET = 0.8  # of hold_s


def probability(odds: float) -> float:
    """Of log odds."""
    return 1.0 / (1.0 + float(np.exp(-odds)))


@dataclass(frozen=True)
class Track:
    """One head in the frame of the last stamp.

    covariance_m2 (3, 3): what averages out, when it was last measured; common_m2: what does not.
    lost_m2: what its own wander and unseen camera motion added since; motion_m2: noise of the
    present frame's motion. track_id is -1 until the head is shown; seen_ns: last stamp that
    measured it. seen_odds: odds at that stamp; what hides a head says nothing about its place.
    """

    track_id: int
    point_m: np.ndarray
    covariance_m2: np.ndarray
    common_m2: np.ndarray
    axis: np.ndarray
    axis_sigma_rad: float
    axis_common_rad: float
    epipolar_px: float
    seen_ns: int
    odds: float
    age: int = 1
    looks: int = 1
    believed: bool = False
    seen_odds: float = 0.0
    lost_m2: np.ndarray = field(default_factory=lambda: np.zeros((3, 3)))
    motion_m2: np.ndarray = field(default_factory=lambda: np.zeros((3, 3)))

    def predicted_m2(self) -> np.ndarray:
        """(3, 3) what a new measurement has to be weighed against."""
        return self.covariance_m2 + self.lost_m2 + self.motion_m2

    def head(self) -> Head3D:
        """What is known of the head, all errors together."""
        return Head3D(
            self.point_m,
            self.predicted_m2() + self.common_m2,
            self.axis,
            float(np.hypot(self.axis_sigma_rad, self.axis_common_rad)),
            probability(self.odds),
            self.epipolar_px,
        )


@dataclass(frozen=True)
class Tracks:
    """All heads known at stamp_ns (None: nothing yet); next_id is never used twice."""

    stamp_ns: int | None = None
    tracks: tuple[Track, ...] = ()
    next_id: int = 0


@dataclass(frozen=True)
class Step:
    """Tracks after a frame, those to show, and what happened in words. hidden is parallel to
    shown. T_now_before (4, 4): how the heads moved together since the frame before."""

    state: Tracks
    shown: tuple[Track, ...]
    hidden: tuple[bool, ...]
    events: tuple[str, ...]
    T_now_before: np.ndarray


def advance(
    state: Tracks,
    heads: Sequence[Head3D],
    stamp_ns: int,
    config: TrackConfig,
    T_seen: np.ndarray | None = None,
) -> Step:
    """Bring the tracks up to date with the heads measured at stamp_ns.

    T_seen: see `align`. A stamp that does not follow the last one, or only after a long gap, forgets the tracks and
    says so; ids go on counting.
    """
    events: list[str] = []
    state = _restarted(state, stamp_ns, config, events)
    usable = [h for h in heads if h.confidence >= config.least_confidence]
    dt = 0.0 if state.stamp_ns is None else (stamp_ns - state.stamp_ns) * NS
    found = align(state, usable, stamp_ns, config, T_seen)
    predicted = [predict(t, found.motion, dt, config) for t in state.tracks]
    of_track = dict(found.pairs)
    taken = set(of_track.values())
    alive: list[Track] = []
    for i, track in enumerate(predicted):
        if i in of_track:
            track = updated(track, usable[of_track[i]], stamp_ns, config, events)
        elif track.track_id < 0:
            continue  # a single weak sighting that did not come again
        elif (stamp_ns - track.seen_ns) * NS > config.hold_s:
            events.append(f"screw {track.track_id} withdrawn: hidden for over {config.hold_s:g} s")
            continue
        else:
            track = _not_seen(track, dt, config)
        alive.append(track)
    for j, head in enumerate(usable):
        if j not in taken:
            alive.append(_started(head, stamp_ns, config))
    alive = [_judged(t, stamp_ns, config) for t in alive]
    alive, next_id = _named(_without_twins(alive, stamp_ns, events), state.next_id, config)
    shown = [t for t in alive if _showable(t, stamp_ns, config)]
    return Step(
        Tracks(stamp_ns, tuple(alive), next_id),
        tuple(shown),
        tuple(t.seen_ns != stamp_ns for t in shown),
        tuple(events),
        found.motion.T_now_before,
    )


def align(
    state: Tracks,
    heads: Sequence[Head3D],
    stamp_ns: int,
    config: TrackConfig,
    T_seen: np.ndarray | None = None,
) -> Match:
    """Which head is which track, and how the camera moved since the last frame.

    T_seen: (4, 4) that motion as the wound's texture tells it (odometry.py), where it was asked.
    """
    dt = 0.0 if state.stamp_ns is None else max((stamp_ns - state.stamp_ns) * NS, 1e-3)
    T = np.eye(4) if T_seen is None else T_seen
    R = T[:3, :3]
    before = transform_points(T, np.array([t.point_m for t in state.tracks]).reshape(-1, 3))
    before_covariance = np.array(
        [R @ (t.covariance_m2 + t.lost_m2) @ R.T for t in state.tracks]
    ).reshape(-1, 3, 3)
    now = np.array([h.point_m for h in heads]).reshape(-1, 3)
    # the common share moves with the heads and says nothing about their motion
    now_covariance = np.array(
        [(1.0 - config.common_share) * h.covariance_m2 for h in heads]
    ).reshape(-1, 3, 3)
    wander = (1e-3 * config.process_mm_per_sqrt_s) ** 2 * dt * np.eye(3)
    floor = 1e-9 * np.eye(3)
    sigma = (1e-3 * config.camera_mm_per_s * dt, np.radians(config.camera_deg_per_s) * dt)
    if T_seen is not None:
        sigma = (1e-3 * config.texture_mm, np.radians(config.texture_deg))
    found = match(
        before,
        before_covariance + wander + floor,
        now,
        now_covariance + floor,
        (max(sigma[0], 1e-4), max(sigma[1], 1e-4)),
        1e-3 * config.gate_mm,
    )
    if T_seen is None:
        return found
    # the texture is compared with one pair of before, so its error does not add up over frames
    rest = found.motion
    motion = Motion(
        rest.T_now_before @ T, rest.measured + rest.drift, np.zeros((6, 6)), rest.centre_m
    )
    return Match(found.pairs, motion)


def predict(track: Track, motion: Motion, dt: float, config: TrackConfig) -> Track:
    """The track moved with the camera, less certain by the motion and by the head's own wander."""
    R = motion.T_now_before[:3, :3]
    point = transform_points(motion.T_now_before, track.point_m)
    wander = (1e-3 * config.process_mm_per_sqrt_s) ** 2 * dt
    measured, drift = motion.spread_at(point)
    turn = np.radians(config.process_deg_per_sqrt_s) ** 2 * dt
    turn += float(np.trace(motion.drift[3:, 3:])) / 3.0
    return replace(
        track,
        point_m=point,
        covariance_m2=R @ track.covariance_m2 @ R.T,
        common_m2=R @ track.common_m2 @ R.T,
        lost_m2=R @ track.lost_m2 @ R.T + drift + wander * np.eye(3),
        motion_m2=measured,
        axis=R @ track.axis,
        axis_sigma_rad=float(np.sqrt(track.axis_sigma_rad**2 + turn)),
    )


def updated(
    track: Track, head: Head3D, stamp_ns: int, config: TrackConfig, events: list[str]
) -> Track:
    """The track with one measurement more; started anew where the head moved by itself."""
    share = config.common_share
    noise = (1.0 - share) * head.covariance_m2
    innovation = head.point_m - track.point_m
    predicted = track.predicted_m2()
    total = predicted + noise
    squared = float(innovation @ np.linalg.solve(total, innovation))
    if squared > config.restart_sigmas**2:
        events.append(
            f"screw {track.track_id} moved by {1e3 * np.linalg.norm(innovation):.1f} mm against"
            " the others"
        )
        fresh = _started(head, stamp_ns, config)
        return replace(fresh, track_id=track.track_id, age=track.age + 1)
    gain = np.linalg.solve(total, predicted).T
    keep = np.eye(3) - gain
    # Joseph form: stays positive definite whatever the rounding
    covariance = keep @ predicted @ keep.T + gain @ noise @ gain.T
    weight = float(np.trace(gain)) / 3.0
    axis_share = config.axis_common_share
    axis, sigma, axis_weight = _fused_axis(track, head, np.sqrt(1.0 - axis_share))
    return replace(
        track,
        point_m=track.point_m + gain @ innovation,
        covariance_m2=0.5 * (covariance + covariance.T),
        lost_m2=np.zeros((3, 3)),
        motion_m2=np.zeros((3, 3)),
        common_m2=(1.0 - weight) * track.common_m2 + weight * share * head.covariance_m2,
        axis=axis,
        axis_sigma_rad=sigma,
        axis_common_rad=(1.0 - axis_weight) * track.axis_common_rad
        + axis_weight * np.sqrt(axis_share) * head.axis_sigma_rad,
        odds=track.odds + (_odds(head) - track.odds) / min(track.looks + 1, _MEMORY),
        epipolar_px=head.epipolar_px,
        seen_ns=stamp_ns,
        age=track.age + 1,
        looks=min(track.looks + 1, _MEMORY),
    )


def _odds(head: Head3D) -> float:
    return float(np.clip(logit(head.confidence), -_SUREST, _SUREST))


def _judged(track: Track, stamp_ns: int, config: TrackConfig) -> Track:
    if track.seen_ns != stamp_ns:
        return track
    believed = bool(track.odds >= logit(config.sure_confidence))
    return replace(track, believed=believed, seen_odds=track.odds)


def _not_seen(track: Track, dt: float, config: TrackConfig) -> Track:
    """A pair that should have shown the head speaks against it, by time and not by pairs: it may
    be hidden, which takes as long at any rate."""
    keep = float(np.exp(-dt / (_FORGET * max(config.hold_s, 1e-3))))
    return replace(track, odds=keep * track.odds + (1.0 - keep) * _MISSED)


def _fused_axis(track: Track, head: Head3D, noise: float) -> tuple[np.ndarray, float, float]:
    """Axis, sigma (rad) and the measurement's weight: information-weighted mean of two axes."""
    own = max(head.axis_sigma_rad * noise, 1e-4)
    weight = track.axis_sigma_rad**2 / (track.axis_sigma_rad**2 + own**2)
    if track.axis @ head.axis < 0.5:  # 60 deg apart: one of them is wrong, and new beats old
        return head.axis, own, 1.0
    axis = (1.0 - weight) * track.axis + weight * head.axis
    return axis / np.linalg.norm(axis), float(np.sqrt(weight) * own), float(weight)


def _restarted(state: Tracks, stamp_ns: int, config: TrackConfig, events: list[str]) -> Tracks:
    if state.stamp_ns is None:
        return state
    gap = (stamp_ns - state.stamp_ns) * NS
    if 0.0 < gap <= config.reset_s:
        return state
    if gap <= 0.0:
        events.append(f"stamp went back by {-gap:.3f} s: tracks start anew")
    else:
        events.append(f"no frame for {gap:.1f} s: tracks start anew")
    return Tracks(None, (), state.next_id)


def _started(head: Head3D, stamp_ns: int, config: TrackConfig) -> Track:
    share, axis_share = config.common_share, config.axis_common_share
    return Track(
        -1,
        head.point_m,
        (1.0 - share) * head.covariance_m2,
        share * head.covariance_m2,
        head.axis,
        float(np.sqrt(1.0 - axis_share) * head.axis_sigma_rad),
        float(np.sqrt(axis_share) * head.axis_sigma_rad),
        head.epipolar_px,
        stamp_ns,
        _odds(head),
    )


def _without_twins(alive: list[Track], stamp_ns: int, events: list[str]) -> list[Track]:
    """Drop a held track where a measured head stands: two rows for one screw are one too many."""
    kept = []
    measured = [t for t in alive if t.seen_ns == stamp_ns]
    for track in alive:
        twin = track.seen_ns != stamp_ns and any(
            np.linalg.norm(track.point_m - t.point_m) < _TWIN_M for t in measured
        )
        if twin:
            events.append(f"screw {track.track_id} withdrawn: another head stands in its place")
        else:
            kept.append(track)
    return kept


_TWIN_M = 8e-3  # as ghosts.duplicate_mm: no two screws stand this close


def _named(alive: list[Track], next_id: int, config: TrackConfig) -> tuple[list[Track], int]:
    """Give an id to every head that is now believed, the surest first."""
    order = sorted(range(len(alive)), key=lambda i: uncertainty_m(alive[i].head()))
    named = list(alive)
    for i in order:
        track = alive[i]
        if track.track_id < 0 and track.believed:
            named[i] = replace(track, track_id=next_id)
            next_id += 1
    return named, next_id


def _showable(track: Track, stamp_ns: int, config: TrackConfig) -> bool:
    if not track.believed:
        return False
    if track.seen_ns == stamp_ns:
        return True
    lost = float(np.trace(track.lost_m2 + track.motion_m2))
    return 1e3 * np.sqrt(lost) <= config.most_lost_mm
