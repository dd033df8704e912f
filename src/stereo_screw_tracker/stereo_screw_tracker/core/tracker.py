# SPDX-License-Identifier: Apache-2.0
"""Stereo pair in, screws and rods out: the order of the steps, and what is remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from spine_nav_common.core.geometry import transform_points
from spine_nav_common.core.types import (
    Case,
    Head3D,
    Rejected,
    ScrewTrack,
    StereoFrame,
    StereoResult,
)

from .assign import Labels, assign
from .bounds import BoundInputs, BoundModel, bound95_mm, load_bound_model
from .confidence import ConfidenceModel, joint_confidence, load_confidence_model
from .config import StereoConfig
from .finder_look import close_look, whole
from .follow import moved, picture_shift, rough_curve, thumbnail, unknown
from .ghosts import screen
from .odometry import Wound
from .output import known_well
from .pair_check import check_pair
from .pair_geometry import check_geometry
from .rectification import check_rig
from .rod_fit import FittedRod, fit_rod, seen_by_both
from .rod_ghosts import without_ghosts
from .rod_group import SeedCurve, group_rods
from .rod_heads import rods_between_heads
from .rod_width import outline_share
from .stages import Candidate, FindsScrews, Found, MeasuresRods, RefinesHeads, StageClock
from .tracks import NS, Step, Tracks, advance, align, predict, probability
from .triangulate import camera_of, project_pair
from .types import HeadObservation, StereoCamera

Place = tuple[np.ndarray, np.ndarray, float]
"""A place (2,) in the left image and one in the right, and the finder's score."""


RIG_CHECK_NS = 5_000_000_000
"""Stamps between two checks that the pair is rectified and the right way round."""
FOLLOW_S = 0.35  # a longer gap between pairs is searched
LEAST_FOLLOWED = 0.6  # share of the heads seen before; when fewer are found the picture is searched
TEXTURE_OFF_M = 5e-3  # a motion of the texture that leaves the seen heads farther off is not theirs
SETTLED_PAIRS = 3  # a head is followed without a search once it was in as many pairs


class StereoTracker:
    """Keeps the screws current over the frames of one camera; one instance per operation.

    Not thread-safe. A new camera model, or frames of another operation, need `reset`.
    """

    def __init__(
        self,
        config: StereoConfig,
        finder: FindsScrews,
        head_refiner: RefinesHeads,
        rod_refiner: MeasuresRods,
        bounds: BoundModel | None = None,
        confidence: ConfidenceModel | None = None,
    ):
        self.config = config
        self._finder = finder
        self._heads = head_refiner
        self._rods = rod_refiner
        self._bounds = bounds or load_bound_model()
        self._confidence = confidence or load_confidence_model()
        # Set to a list to collect (track_id, inputs, camera) of every bound
        # (training/calibration/stereo_calibrate.py).
        self.trace: list[tuple[int, BoundInputs, StereoCamera]] | None = None
        self.reset()

    def reset(self) -> None:
        """Forget everything that was seen; track ids start at 0 again."""
        self._tracks = Tracks()
        self._rig_good_ns: int | None = None
        self._rows_agree = False
        self._since_search = self._searches = 0
        self._thumbnail: np.ndarray | None = None
        self._rod_curves: list[np.ndarray] = []
        self._wound = Wound()
        self._T_seen: np.ndarray | None = None

    def process(
        self,
        frame: StereoFrame,
        vertebrae: Mapping[str, np.ndarray] | None = None,
        case: Case | None = None,
    ) -> StereoResult | Rejected:
        """Screws and rods of one rectified pair.

        Args:
            frame: the pair; its stamp is the only clock that counts.
            vertebrae: T_camera_ct (4, 4) in the left optical frame per registered level, in the
                mesh frame of `case`.
            case: plan, meshes and anatomical frame that belong to `vertebrae`.

        Returns:
            A result without screws when none is in view. Rejected, with the remedy, when the pair
            cannot be used; the tracks then wait for the next frame.
        """
        clock = StageClock()
        if frame.stamp_ns == self._tracks.stamp_ns:
            return Rejected(f"stamp {frame.stamp_ns} came twice: the pair is not used again")
        wrong = check_pair(frame) or self._wrong_rig(frame)
        clock.lap("check")
        if wrong is not None:
            return wrong
        camera = camera_of(frame)
        self._T_seen = self._by_texture(frame) if self._wound.waiting else None
        places = self._expected(frame, camera)
        heads = self._followed(frame, camera, places)
        clock.lap("follow")
        if isinstance(heads, Rejected):
            return heads
        found: Found | None = None
        if heads is None:
            found, heads = self._searched(frame, camera, places, clock)
            if isinstance(heads, Rejected):
                return heads
        step = self._advanced(frame, heads)
        labels = assign(
            [t.head() for t in step.shown], vertebrae, case, self.config.cranial, self.config.assign
        )
        screws = _screws(step, labels)
        clock.lap("tracks")
        curves = self._rod_starts(found, step, camera)
        if found is not None and self.config.find_rods:
            curves += self._between_heads(frame, camera, curves, screws)
        rods, events = self._fitted_rods(frame, camera, curves, screws, labels)
        held = {i: head for rod in rods for i, head in rod.held.items()}
        screws, unsure = known_well(
            self._bounded(screws, held, step, camera), self.config.most_bound_mm
        )
        events += unsure
        if len(screws) == 1 and screws[0].bound95_mm > self.config.lone_bound_mm:
            # screws come in rows: nothing else speaks for this one
            events.append(
                f"one place alone looks like a screw head, known within {screws[0].bound95_mm:.0f}"
                " mm only: not shown"
            )
            screws = ()
        clock.lap("rods")
        shapes = tuple(r.rod for r in rods)
        return StereoResult(frame.stamp_ns, screws, shapes, clock.done(), (*step.events, *events))

    def _wrong_rig(self, frame: StereoFrame) -> Rejected | None:
        """Asked now and then: a rig that was good stays good, one that is bad is asked again."""
        good = self._rig_good_ns
        if good is not None and 0 <= frame.stamp_ns - good < RIG_CHECK_NS:
            return None
        check = check_rig(frame, self.config.ghosts.systematic_row_px)
        self._rig_good_ns = frame.stamp_ns if check.wrong is None else None
        self._rows_agree = check.row_px is not None
        return check.wrong

    # -- heads ----------------------------------------------------------------------------------

    def _expected(self, frame: StereoFrame, camera: StereoCamera) -> dict[int, Place]:
        """By number of the track: where settled heads should be, from the picture's shift alone.

        Empty where nothing is settled, or too long ago.
        """
        before, self._thumbnail = self._thumbnail, thumbnail(frame)
        state = self._tracks
        if before is None or state.stamp_ns is None:
            return {}
        if not 0.0 < (frame.stamp_ns - state.stamp_ns) * NS <= FOLLOW_S:
            return {}
        if sum(t.track_id >= 0 and t.age >= SETTLED_PAIRS for t in state.tracks) < 2:
            return {}
        size = (camera.intrinsics.width, camera.intrinsics.height)
        shift = picture_shift(before, self._thumbnail, size)
        places = {}
        for i, track in enumerate(state.tracks):
            left, right = project_pair(camera, track.point_m)
            if _inside(left + shift, size) and _inside(right + shift, size):
                places[i] = (left + shift, right + shift, self.config.expected_score)
        return places

    def _followed(
        self, frame: StereoFrame, camera: StereoCamera, places: Mapping[int, Place]
    ) -> tuple[Head3D, ...] | Rejected | None:
        """Known heads measured where they should be; None where the picture has to be searched."""
        if not places or self._since_search >= self.config.search_every - 1:
            return None
        observations = self._refined(
            frame, list(places.values()), self.config.tracks.least_confidence
        )
        screened = screen(camera, observations, self.config.ghosts, self._rows_agree)
        if isinstance(screened, Rejected):
            return screened
        state = self._tracks
        matched = align(
            state, screened.heads, frame.stamp_ns, self.config.tracks, self._T_seen
        ).pairs
        seen = {
            i for i in places
            if state.tracks[i].track_id >= 0 and state.tracks[i].seen_ns == state.stamp_ns
        }  # fmt: skip
        if len(seen & {i for i, _ in matched}) < LEAST_FOLLOWED * len(seen) or not seen:
            return None
        self._since_search += 1
        return screened.heads

    def _searched(
        self,
        frame: StereoFrame,
        camera: StereoCamera,
        places: Mapping[int, Place],
        clock: StageClock,
    ) -> tuple[Found | None, tuple[Head3D, ...] | Rejected]:
        """Heads of a picture that is searched: in turns all of it and closely about known heads."""
        look = None
        if places and self.config.search_every > 1:
            left, right = (np.array([p[eye] for p in places.values()]) for eye in (0, 1))
            look = whole(frame)
            if self._searches % 2:
                look = close_look(frame, left, left[:, 0] - right[:, 0]) or look
        self._searches += 1
        self._since_search = 0
        found = self._finder.find(frame, look)
        clock.lap("find")
        if isinstance(found, Rejected):
            return None, found
        if self._tracks.stamp_ns is None or not found.heads:
            wrong = check_geometry(frame)
            clock.lap("geometry")
            if wrong is not None:
                return found, wrong
        heads = self._measured_heads(frame, camera, found.heads)
        clock.lap("heads")
        return found, heads

    def _measured_heads(
        self, frame: StereoFrame, camera: StereoCamera, candidates: Sequence[Candidate]
    ) -> tuple[Head3D, ...] | Rejected:
        likely = sorted(candidates, key=lambda c: -c.score)[: self.config.most_candidates]
        observations = self._refined(
            frame,
            [(c.left_px, c.right_px, c.score) for c in likely],
            self.config.tracks.least_confidence,
        )
        screened = screen(camera, observations, self.config.ghosts, self._rows_agree)
        if isinstance(screened, Rejected):
            return screened
        expected = self._missed(frame, camera, screened.heads)
        again = self._refined(frame, expected, self.config.tracks.sure_confidence)
        if again:
            screened = screen(camera, [*observations, *again], self.config.ghosts, self._rows_agree)
        return screened if isinstance(screened, Rejected) else screened.heads

    def _refined(
        self, frame: StereoFrame, places: list[Place], least_confidence: float
    ) -> list[HeadObservation]:
        """Observations of places in front of the camera, less those that the networks disown."""
        ahead = [place for place in places if place[0][0] > place[1][0]]
        if not ahead:
            return []
        refined = self._heads.refine(frame, [(left, right) for left, right, _ in ahead])
        judged = [
            replace(o, confidence=joint_confidence(self._confidence, o.confidence, score))
            for o, (_, _, score) in zip(refined, ahead, strict=True)
        ]
        return [o for o in judged if o.confidence >= least_confidence]

    def _missed(
        self, frame: StereoFrame, camera: StereoCamera, heads: Sequence[Head3D]
    ) -> list[Place]:
        """Where shown tracks should be seen in this frame and no measured head explains them."""
        state, config = self._tracks, self.config.tracks
        if not self.config.look_again or state.stamp_ns is None:
            return []
        dt = (frame.stamp_ns - state.stamp_ns) * NS
        if not 0.0 < dt <= config.reset_s:
            return []
        found = align(state, heads, frame.stamp_ns, config, self._T_seen)
        matched = {i for i, _ in found.pairs}
        expected = []
        for i, track in enumerate(state.tracks):
            if i in matched or track.track_id < 0:
                continue
            point = predict(track, found.motion, dt, config).point_m
            left, right = project_pair(camera, point)
            size = (camera.intrinsics.width, camera.intrinsics.height)
            if _inside(left, size) and _inside(right, size):
                expected.append((left, right, self.config.expected_score))
        return expected

    def _by_texture(self, frame: StereoFrame) -> np.ndarray | None:
        moved = self._wound.motion(frame)
        return None if isinstance(moved, Rejected) else moved

    def _advanced(self, frame: StereoFrame, heads: Sequence[Head3D]) -> Step:
        """The next step of the tracks. Where a shown head is hidden, the texture is asked how the
        wound moved; it is not believed against two heads and more."""
        state, config = self._tracks, self.config.tracks
        T = self._T_seen
        found = align(state, heads, frame.stamp_ns, config, T)
        shown = {i for i, t in enumerate(state.tracks) if t.track_id >= 0}
        if T is None and shown - {i for i, _ in found.pairs}:
            T = self._by_texture(frame)
        if T is not None:
            found = align(state, heads, frame.stamp_ns, config)
            apart_m = [
                float(
                    np.linalg.norm(transform_points(T, state.tracks[i].point_m) - heads[j].point_m)
                )
                for i, j in found.pairs
                if i in shown
            ]
            if len(apart_m) > 1 and np.median(apart_m) > TEXTURE_OFF_M:
                T = None
        step = advance(state, heads, frame.stamp_ns, config, T)
        self._tracks = step.state
        known = [t for t in step.state.tracks if t.track_id >= 0]
        if any(t.seen_ns != frame.stamp_ns for t in known):
            self._wound.passed(step.T_now_before)
        elif known:
            self._wound.seen(frame, np.array([t.point_m for t in known]))
        return step

    def _bounded(
        self,
        screws: Sequence[ScrewTrack],
        held: Mapping[int, Head3D],
        step: Step,
        camera: StereoCamera,
    ) -> tuple[ScrewTrack, ...]:
        """The screws with the saddles that rods made more certain, and with their bounds."""
        stamp_ns, out = step.state.stamp_ns or 0, []
        track_of = {t.track_id: t for t in step.shown}
        for screw in screws:
            head = (
                held.get(screw.track_id, screw.head) if self.config.rods.seat_heads else screw.head
            )
            track = track_of[screw.track_id]
            inputs = BoundInputs(
                head.point_m,
                head.covariance_m2,
                probability(track.seen_odds),
                (stamp_ns - track.seen_ns) * NS,
            )
            if self.trace is not None:
                self.trace.append((screw.track_id, inputs, camera))
            bound = bound95_mm(inputs, camera, self._bounds)
            out.append(replace(screw, head=head, bound95_mm=bound))
        return tuple(out)

    # -- rods -----------------------------------------------------------------------------------

    def _rod_starts(
        self, found: Found | None, step: Step, camera: StereoCamera
    ) -> list[tuple[SeedCurve, int]]:
        """Where rods are measured from, and in how many passes: known ones once."""
        if not self.config.find_rods:
            return []
        known = moved(self._rod_curves, step.T_now_before)
        new: list[SeedCurve] = []
        if found is not None:
            seen = group_rods(found.rod_seeds, self.config.rods)
            new = unknown(known, seen, camera, self.config.rods.across_mm)
        followed = [(SeedCurve(curve, np.inf), 1) for curve in known]
        return [*followed, *((curve, self.config.rods.passes) for curve in new)]

    def _between_heads(
        self,
        frame: StereoFrame,
        camera: StereoCamera,
        curves: Sequence[tuple[SeedCurve, int]],
        screws: Sequence[ScrewTrack],
    ) -> list[tuple[SeedCurve, int]]:
        between = rods_between_heads(
            camera,
            screws,
            [curve.points_m for curve, _ in curves],
            lambda points, tangents: self._rods.measure(frame, points, tangents),
            seen_by_both,
            self.config.rods,
        )
        return [(curve, self.config.rods.passes) for curve in between]

    def _fitted_rods(
        self,
        frame: StereoFrame,
        camera: StereoCamera,
        curves: Sequence[tuple[SeedCurve, int]],
        screws: Sequence[ScrewTrack],
        labels: Labels,
    ) -> tuple[list[FittedRod], list[str]]:
        rods: list[FittedRod] = []
        events: list[str] = []
        for curve, passes in curves:
            rod = fit_rod(
                camera,
                curve,
                lambda points, tangents: self._rods.measure(frame, points, tangents),
                screws,
                replace(self.config.rods, passes=passes),
                labels.cranial,
            )
            if isinstance(rod, Rejected):
                events.append(f"rod not reported: {rod.reason}")
            elif not rod.held and outline_share(frame, rod.rod) < self.config.rods.lone_outline:
                events.append("rod not reported: no head holds it and it is thinner than a rod")
            else:
                rods.append(rod)
        rods, ghosts = without_ghosts(rods, screws, camera)
        if ghosts:
            events.append(f"{ghosts} rod not reported: it lies over a better one in an image")
        self._rod_curves = [rough_curve(r.rod) for r in rods]
        return rods, events


def _screws(step: Step, labels: Labels) -> tuple[ScrewTrack, ...]:
    """The shown tracks by id, named; their bounds are still to come."""
    screws = [
        ScrewTrack(track.track_id, track.head(), float("nan"), level, side, hidden, track.age)
        for track, hidden, level, side in zip(
            step.shown, step.hidden, labels.levels, labels.sides, strict=True
        )
    ]
    return tuple(sorted(screws, key=lambda s: s.track_id))


def _inside(pixel: np.ndarray, size: tuple[int, int]) -> bool:
    return bool(
        np.isfinite(pixel).all() and 0.0 <= pixel[0] < size[0] and 0.0 <= pixel[1] < size[1]
    )
