# SPDX-License-Identifier: Apache-2.0
"""Stereo pair in, screws and rods out: the order of the steps, and what is remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from spine_nav_common.core.geometry import transform_points
from spine_nav_common.core.screw_rows import lies_apart
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
from .confidence import ConfidenceModel, load_confidence_model
from .config import StereoConfig
from .focus import FocusWatch
from .looks import HeadLooks, Pair
from .odometry import Wound
from .output import known_well
from .pair_check import Eyes, check_pair, check_repeated, eyes_of
from .rectification import check_rig
from .rig_motion import RigWatch
from .rods import Rods, RodsSeen
from .stages import FindsScrews, MeasuresRods, RefinesHeads, StageClock
from .tracks import NS, Step, Tracks, advance, align, probability
from .triangulate import camera_of
from .types import StereoCamera

RIG_CHECK_NS = 5_000_000_000
"""Stamps between two checks that the pair is rectified and the right way round."""
TEXTURE_OFF_M = 5e-3  # a motion of the texture that leaves the seen heads farther off is not theirs


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
        confidence = confidence or load_confidence_model()
        self._looks = HeadLooks(config, finder, head_refiner, confidence)
        self._rod_refiner = rod_refiner
        self._bounds = bounds or load_bound_model()
        # Set to a list to collect (track_id, inputs, camera) of every bound
        # (training/calibration/stereo_calibrate.py).
        self.trace: list[tuple[int, BoundInputs, StereoCamera]] | None = None
        self.reset()

    def reset(self) -> None:
        """Forget everything that was seen; track ids start at 0 again."""
        self._tracks = Tracks()
        self._rig_good_ns: int | None = None
        self._rows_agree = False
        self._looks.reset()
        self._rods = Rods(self.config.rods, self._rod_refiner)
        self._wound = Wound()
        self._eyes: Eyes | None = None
        self._rig = RigWatch()
        self._focus = FocusWatch()
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
        wrong = (
            check_pair(frame)
            or self._repeated(frame)
            or self._wrong_rig(frame)
            or self._rig.look(frame, self._shown_m())
        )
        clock.lap("check")
        if wrong is not None:
            return wrong
        camera = camera_of(frame)
        self._T_seen = self._by_texture(frame) if self._wound.waiting else None
        found, heads = self._looks.heads(
            Pair(frame, camera, self._tracks, self._T_seen, self._rows_agree, self._rods.proven()),
            clock,
        )
        if isinstance(heads, Rejected):
            return heads
        step = self._advanced(frame, heads)
        labels = assign(
            [t.head() for t in step.shown], vertebrae, case, self.config.cranial, self.config.assign
        )
        screws = _screws(step, labels)
        clock.lap("tracks")
        rods = RodsSeen((), {}, ())
        if self.config.find_rods:
            seeds = None if found is None else found.rod_seeds
            rods = self._rods.step(frame, seeds, step.T_now_before, screws, labels.cranial)
        screws, unsure = known_well(
            self._bounded(screws, rods.held, step, camera), self.config.most_bound_mm
        )
        events = [*rods.events, *unsure]
        if len(screws) == 1 and screws[0].bound95_mm > self.config.lone_bound_mm:
            # screws come in rows: nothing else speaks for this one
            events.append(
                f"one place alone looks like a screw head, known within {screws[0].bound95_mm:.0f}"
                " mm only: not shown"
            )
            screws = ()
        events += self._oddities(frame, screws)
        clock.lap("rods")
        return StereoResult(
            frame.stamp_ns, screws, rods.rods, clock.done(), (*step.events, *events)
        )

    def _repeated(self, frame: StereoFrame) -> Rejected | None:
        before, self._eyes = self._eyes, eyes_of(frame)
        return check_repeated(before, self._eyes)

    def _oddities(self, frame: StereoFrame, screws: Sequence[ScrewTrack]) -> list[str]:
        """What is told and changes nothing: a blurred eye, heads that are in no bone."""
        heads = [s.head for s in screws if not s.hidden]
        apart = lies_apart(
            1e3 * np.array([h.point_m for h in heads]).reshape(-1, 3),
            np.array([h.axis for h in heads]).reshape(-1, 3),
        )
        told = [self._focus.look(frame)]
        if apart is not None:
            told.append(f"{apart}; take a tray with screws out of the picture, or cover it")
        return [t for t in told if t is not None]

    def _shown_m(self) -> np.ndarray:
        """(N, 3) heads that the pair before has shown."""
        tracks = self._tracks.tracks
        return np.array([t.point_m for t in tracks if t.believed and t.track_id >= 0]).reshape(
            -1, 3
        )

    def _wrong_rig(self, frame: StereoFrame) -> Rejected | None:
        """Asked now and then: a rig that was good stays good, one that is bad is asked again."""
        good = self._rig_good_ns
        if good is not None and 0 <= frame.stamp_ns - good < RIG_CHECK_NS:
            return None
        check = check_rig(frame, self.config.ghosts.systematic_row_px)
        self._rig_good_ns = frame.stamp_ns if check.wrong is None else None
        self._rows_agree = check.row_px is not None
        return check.wrong

    def _by_texture(self, frame: StereoFrame) -> np.ndarray | None:
        moved = self._wound.motion(frame)
        return None if isinstance(moved, Rejected) else moved

    def _advanced(self, frame: StereoFrame, heads: Sequence[Head3D]) -> Step:
        """The next step of the tracks. Where a shown head is hidden, the texture is asked how the
        wound moved; it is not believed against two heads and more."""
        state, config = self._tracks, self.config.tracks
        T, step = self._T_seen, None
        if T is None:
            step = advance(state, heads, frame.stamp_ns, config)
            if _some_hidden(step, frame.stamp_ns):
                T = self._by_texture(frame)
        if T is not None and not self._contradicted(T, heads, frame.stamp_ns):
            step = advance(state, heads, frame.stamp_ns, config, T)
        step = step or advance(state, heads, frame.stamp_ns, config)
        self._tracks = step.state
        if _some_hidden(step, frame.stamp_ns):
            self._wound.passed(step.T_now_before)
        elif step.shown:
            self._wound.seen(frame, np.array([t.point_m for t in step.shown]))
        return step

    def _contradicted(self, T: np.ndarray, heads: Sequence[Head3D], stamp_ns: int) -> bool:
        """Whether the heads that are seen are not where the texture's motion brings them."""
        tracks = self._tracks.tracks
        apart_m = [
            float(np.linalg.norm(transform_points(T, tracks[i].point_m) - heads[j].point_m))
            for i, j in align(self._tracks, heads, stamp_ns, self.config.tracks).pairs
            if tracks[i].track_id >= 0
        ]
        return len(apart_m) > 1 and float(np.median(apart_m)) > TEXTURE_OFF_M

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


def _screws(step: Step, labels: Labels) -> tuple[ScrewTrack, ...]:
    """The shown tracks by id, named; their bounds are still to come."""
    screws = [
        ScrewTrack(track.track_id, track.head(), float("nan"), level, side, hidden, track.age)
        for track, hidden, level, side in zip(
            step.shown, step.hidden, labels.levels, labels.sides, strict=True
        )
    ]
    return tuple(sorted(screws, key=lambda s: s.track_id))


def _some_hidden(step: Step, stamp_ns: int) -> bool:
    """Whether a head that was shown is not seen in this pair."""
    return any(t.believed and t.track_id >= 0 and t.seen_ns != stamp_ns for t in step.state.tracks)
