# SPDX-License-Identifier: Apache-2.0
"""Frame in, poses out: the state machine around registration and tracking."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from spine_nav_common.core.depth_camera import DEPTH_CAMERAS, DepthCamera
from spine_nav_common.core.journal import JournalError
from spine_nav_common.core.types import (
    Case,
    LevelEstimate,
    NavigationResult,
    Rejected,
    RgbdFrame,
    Status,
)
from spine_perception.core.instances import find_instances
from spine_perception.core.segmentation import Segmentation, SegmentsFrames

from .answers import Answer, Answers, Question
from .belief import Belief, judged, report, where_to_look
from .config import NavigatorConfig
from .doubt import CHALLENGE_S, FIT_FALL_NAT, Explained, doubt, explained, has_jumped
from .error import ErrorInputs, ErrorModel, load_error_model
from .estimator import Noise
from .identity import Identity, make_patches
from .identity import advance as compare
from .identity import begin as unknown_patient
from .journal import Took, took_answer
from .labels import label_image
from .levels import advance, registered
from .memory import Memory, Recall, Said, case_key, remember
from .model import SpineModel, build_model
from .observation import BonePixels, observe
from .registration import Registration, differs, led, register
from .tracker import TrackStep, start, step
from .warm import warm_up

LONG_GAP_S = 0.35
"""After a longer one the camera may be anywhere: the answer must come from scratch."""
AGREE_FRAMES = 3
"""After a refusal, this many frames in a row must give the same clear answer."""
MAX_FOREIGN = 2
"""Registrations whose shape is not the case's before no more are tried: the first may have been a
wrong reading of the right patient."""
_RECENT = 3
"""Poses that a frame may have been looked at by: a frame is segmented while the one before is
solved."""


@dataclass(frozen=True)
class Segmented:
    """A frame and what its pixels show: what `segment` hands to `solve`.

    tracking: made for a spine that was being followed: one look at its place, few pixels.
    epoch: how often the camera's clock had been set back before. looked_ns: see Took.
    """

    frame: RgbdFrame
    seg: Segmentation | Rejected
    pixels: BonePixels | Rejected
    tracking: bool
    ms: float
    epoch: int = 0
    looked_ns: int | None = None


class Navigator:
    """Keeps the pose of every exposed level current; one instance per operation.

    One thread calls `process`; or one `segment` and another `solve`, so that the network looks at
    the next frame meanwhile. Requests of other threads are flags that the next frame honours.
    """

    def __init__(
        self,
        case: Case,
        segmenter: SegmentsFrames,
        config: NavigatorConfig | None = None,
        error_model: ErrorModel | None = None,
        model: SpineModel | None = None,
        camera: DepthCamera | None = None,
    ):
        self.case = case
        self.config = config or NavigatorConfig()
        self.error_model = error_model or load_error_model()
        self.model = model or build_model(case)
        warm_up(self.model)
        # What a calibration has measured of this very camera is better than what its class has.
        self._camera = camera or DEPTH_CAMERAS[self.config.camera]
        self._segmenter = segmenter
        self._looking = threading.Lock()  # `solve` looks again where `segment` looked elsewhere
        # Set to a list to collect what each prediction was made of (training/calibration/fit_error.py).
        self.trace: list[tuple[int, str, ErrorInputs]] | None = None
        self._exposed = [self.model.levels.index(level) for level in case.exposed_levels]
        self._answers, self._epoch = Answers(self.model), 0
        self._patches = make_patches(self.model)
        self._past: Recall | None = None
        self._uptime_s: float | None = None  # instead of the machine's own, see `again`
        self._recent: deque[Belief] = deque(maxlen=_RECENT)
        self.took = Took()  # what went into the last frame's answer besides its pixels
        self._withheld: dict[str, str] = {}
        self._to_withhold: deque[dict[str, str]] = deque()
        self._suggested: np.ndarray | None = None
        self.registrations = (
            0  # so often the pose was begun from scratch: a check is of one of them
        )
        self.reset()

    def reset(self) -> None:
        """Forget everything that was seen; what the surgeon rejected or a check withheld stays so."""
        self._belief: Belief | None = None
        self._answers.close()
        self._agreeing: tuple[Registration, int] | None = None
        self._refused = False
        self._renew = False
        self._identity = unknown_patient(self._patches)
        self._foreign, self._known = 0, False
        self._last_stamp: int | None = None
        self._seg: Segmentation | None = None

    @property
    def following(self) -> bool:
        """Whether there is a registration that the next frame continues."""
        return self._belief is not None

    @property
    def pending(self) -> str | None:
        """The hypothesis that waits for the surgeon's answer, or None."""
        question = self._answers.open
        return None if question is None else str(question)

    @property
    def pending_id(self) -> str | None:
        """Its id, by which an answer names it."""
        question = self._answers.open
        return None if question is None else question.id

    @property
    def question(self) -> Question | None:
        """What waits for the surgeon's answer, with the poses that it was asked for."""
        return self._answers.open

    def confirm(self, accept: bool, hypothesis_id: str | None = None) -> str | Rejected:
        """Answer the pending hypothesis; see Answers.answer."""
        return self._answers.answer(accept, hypothesis_id)

    @property
    def identity(self) -> Identity:
        """What is known of whose spine this is."""
        return self._identity

    def request_registration(self) -> None:
        """Register from scratch with the next frame."""
        self._to_withhold.clear()
        self._renew = True

    def withhold(self, reasons: Mapping[str, str]) -> None:
        """From the next frame on show these levels no more, each with its reason, until
        `request_registration`: the surgeon's check has failed."""
        self._to_withhold.append(dict(reasons))

    @property
    def proven_poses(self) -> np.ndarray | None:
        """(L, 4, 4) poses of all levels of the case in the last frame, None unless some are tracked and
        the spine is proven to be the case's."""
        belief = self._belief
        if belief is None or not self._identity.proven:
            return None
        tracked = any(belief.levels[k].status is Status.TRACKED for k in self._exposed)
        return belief.track.T_camera_ct.copy() if tracked else None

    def suggest(self, T_camera_ct: np.ndarray | None) -> None:
        """Where a camera that is registered with this one follows the levels (L, 4, 4), in this one's
        frame: heard in the next frame, should this camera have to search; see `registration.led`."""
        self._suggested = T_camera_ct

    def memory(self, frame: RgbdFrame, clock: str = "") -> Memory:
        """What a process that takes this one's place may use; `frame` is the last one solved."""
        belief = self._belief if self._identity.proven else None
        levels = () if belief is None else belief.levels
        tracked = [e and s.status is Status.TRACKED for e, s in zip(self.model.exposed, levels)]
        T = None if belief is None else belief.track.T_camera_ct
        before = None if self._past is None else self._past.shown
        known = remember(self.case, frame, clock, T, np.array(tracked), self._answers, before)
        return replace(known, withheld=tuple(self._withheld.items()))

    def recall(self, memory: Memory, within_s: float, boot: str | None = None) -> None:
        """Before the first frame: what the process before this one knew; see `Recall`."""
        if memory.case == case_key(self.case):
            self._answers.recall(memory.rejections, memory.contradicted)
            self._withheld |= dict(memory.withheld)
            self._past = Recall(memory, self.case, self.model, within_s, boot)

    def process(self, frame: RgbdFrame) -> NavigationResult:
        """Bring all levels up to date with one frame.

        Raises:
            ValueError: the frame is older than the last one or its images do not match.
        """
        self._check(frame)
        return self.solve(self.segment(frame))

    def again(
        self, frame: RgbdFrame, took: Took, epoch: int = 0, answer: Answer | None = None
    ) -> NavigationResult:
        """`process` as it was once done live, whose `took` is given: the same result, bit by bit, if
        all frames before were done so too.

        Args:
            epoch: see `segment`.
            answer: the one that `took` names, to the `question` that a frame before has asked.

        Raises:
            JournalError: this navigator has not the poses by which the frame was looked at.
            ValueError: as `process`.
        """
        seen_by = None
        if took.looked_ns is not None:
            seen_by = next((b for b in self._recent if b.stamp_ns == took.looked_ns), None)
            if seen_by is None:
                raise JournalError(f"frame {frame.stamp_ns} was looked at by poses of another run")
        self._check(frame, epoch == self._epoch)
        self._renew = took.renewed
        self._uptime_s = took.uptime_s
        if answer is not None:
            self._answers.put(answer)
        if took.withheld:
            self.withhold(dict(took.withheld))
        return self.solve(replace(self._look(frame, seen_by), epoch=epoch))

    def segment(self, frame: RgbdFrame, epoch: int = 0) -> Segmented:
        """What the pixels of a frame show. Uses the last pose only to know where to look.

        Args:
            epoch: how often the camera's clock was set back before this frame. With another one
                all poses are forgotten, and stamps begin anew.

        Raises ValueError as `process`.
        """
        same = epoch == self._epoch
        self._check(frame, same)
        seen = self._look(frame, self._belief if same and not self._renew else None)
        return replace(seen, epoch=epoch)

    def _look(self, frame: RgbdFrame, belief: Belief | None) -> Segmented:
        start = time.perf_counter()
        hint = None
        if belief is not None:
            hint = where_to_look(self.model, belief, frame.intrinsics, self._exposed)
        with self._looking:
            seg = self._segmenter.run(frame, hint)
        tracking = belief is not None
        pixels = self._observe(frame, seg, tracking)
        ms = 1e3 * (time.perf_counter() - start)
        looked_ns = None if belief is None else belief.stamp_ns
        return Segmented(frame, seg, pixels, tracking, ms, looked_ns=looked_ns)

    def solve(self, seen: Segmented) -> NavigationResult:
        """Bring all levels up to date with one segmented frame.

        Raises ValueError: the frame is older than the last one.
        """
        frame, events = seen.frame, []
        self.took = Took(seen.looked_ns)
        if seen.epoch < self._epoch:
            raise ValueError(f"frame {frame.stamp_ns} is of before the camera's clock was set back")
        if seen.epoch > self._epoch:
            self.reset()
            self._epoch, self._past = seen.epoch, None
            events.append("the camera's clock was set back: registered anew")
        self._check(frame)
        self._last_stamp = frame.stamp_ns
        clock = _Clock(seen.ms)
        if self._renew:
            self._belief, self._renew, self._past = None, False, None
            self.took = replace(self.took, renewed=True)
            self._answers.forget()
            self._withheld = {}
            self._identity = unknown_patient(self._patches)
            self._foreign, self._known = 0, False
        self._withhold(events)
        if seen.tracking and self._belief is None:
            # Lost or asked anew since it was segmented: the whole image counts, not the old place.
            seen = self._look(frame, None)
        seg, pixels = seen.seg, seen.pixels
        if self._belief is not None and not seen.tracking:
            pixels = self._observe(frame, seg, tracking=True)
        clock.lap("network")
        if self._belief is None:
            levels = self._search(frame, seg, pixels, events)
            clock.lap("registration")
        else:
            levels = self._follow(self._belief, frame, seg, pixels, events)
            clock.lap("update")
        self._seg = None if isinstance(seg, Rejected) else seg
        self._suggested = None
        verdict = self._identity.verdict
        shown = tuple(
            LevelEstimate(e.level, Status.REJECTED, reason=self._withheld[e.level])
            if e.level in self._withheld
            else e
            for e in levels
        )
        return NavigationResult(
            frame.stamp_ns, shown, clock.done(), tuple(events),
            identity=self._identity.state,
            identity_margin_nat=None if verdict is None else float(verdict.margin_nat),
        )  # fmt: skip

    def _withhold(self, events: list[str]) -> None:
        new: dict[str, str] = {}
        while self._to_withhold:
            new |= self._to_withhold.popleft()
        if new:
            self.took = replace(self.took, withheld=tuple(new.items()))
            self._withheld |= new
            events.append(f"{', '.join(new)} not shown any more: {next(iter(new.values()))}")

    def _check(self, frame: RgbdFrame, same_clock: bool = True) -> None:
        if same_clock and self._last_stamp is not None and frame.stamp_ns <= self._last_stamp:
            raise ValueError(f"frame {frame.stamp_ns} is not newer than {self._last_stamp}")
        if frame.colour.shape[:2] != frame.depth_m.shape:
            raise ValueError(
                f"colour {frame.colour.shape[:2]} and depth {frame.depth_m.shape} differ in size"
            )

    def _observe(
        self, frame: RgbdFrame, seg: Segmentation | Rejected, tracking: bool
    ) -> BonePixels | Rejected:
        if isinstance(seg, Rejected):
            return seg
        limit = self.config.max_points if tracking else self.config.registration_points
        return observe(frame, seg, self.config.bone_threshold, limit)

    # -- registration ---------------------------------------------------------------------------

    def _search(
        self,
        frame: RgbdFrame,
        seg: Segmentation | Rejected,
        pixels: BonePixels | Rejected,
        events: list[str],
    ) -> tuple[LevelEstimate, ...]:
        if self._foreign >= MAX_FOREIGN:
            return self._all(Status.REJECTED, self._identity.refusal)
        if isinstance(seg, Rejected):
            return self._all(Status.SEARCHING, seg.reason)
        if isinstance(pixels, Rejected):
            return self._all(Status.SEARCHING, pixels.reason)
        found = register(self.model, pixels, find_instances(seg), self._noise(), self.config)
        found = self._led(found, pixels, events)
        if isinstance(found, Rejected):
            self._agreeing = None
            return self._all(Status.SEARCHING, found.reason)
        before = Said.NOTHING
        if self._past is not None:
            before = self._past.says(found.best.estimate, frame, self._uptime_s)
            self.took = replace(self.took, uptime_s=self._past.now_s)
        answer = self._answers.take()
        if answer is not None:
            self.took = replace(self.took, answer=took_answer(answer))
            verb = "confirmed" if answer.accept else "rejected"
            events.append(f"{verb} by the surgeon: {answer.question.name} ({answer.question.id})")
            if self._answers.holds(answer, found, frame.stamp_ns):
                return self._begin(frame, found, pixels, events)
        if (said := self._answers.rejected(found)) is not None:
            self._answers.close()
            self._refused, self._agreeing = True, None
            return self._all(
                Status.REJECTED,
                f"{said.name} ({said.id}) was rejected by the surgeon; press Register to be asked anew",
            )
        if before is Said.SAME and not self._answers.contradicted:
            events.append("the same as before the restart, and the camera stood still")
            return self._begin(frame, found, pixels, events)
        if before is Said.ANOTHER:
            reason = "another reading was shown before the restart, and the camera stood still"
            found = replace(found, clear=False, reason=reason)
        # Where a hypothesis was rejected the next one is asked for, however clear it is.
        if not found.clear or self._answers.contradicted:
            self._refused, self._agreeing = True, None
            question = self._answers.ask(found, frame.stamp_ns)
            reason = found.reason or "another hypothesis was rejected by the surgeon"
            return self._all(
                Status.REJECTED, f"confirm level {question.name} ({question.id}): {reason}"
            )
        if self._refused:
            last = self._agreeing
            again = last is not None and self._answers.same(last[0], found)
            count = last[1] + 1 if last is not None and again else 1
            self._agreeing = (found, count)
            if count < AGREE_FRAMES:
                return self._all(Status.REGISTERING, f"{found.best.name}: {count} clear frames")
        return self._begin(frame, found, pixels, events)

    def _led(
        self, found: Registration | Rejected, pixels: BonePixels, events: list[str]
    ) -> Registration | Rejected:
        """The answer of a search, with what another camera suggested."""
        if self._suggested is None:
            return found
        before = isinstance(found, Registration) and found.clear
        found = led(self.model, pixels, found, self._suggested, self._noise(), self.config)
        if isinstance(found, Registration) and found.clear and not before:
            events.append("found where the other camera follows it")
        return found

    def _begin(
        self, frame: RgbdFrame, found: Registration, pixels: BonePixels, events: list[str]
    ) -> tuple[LevelEstimate, ...]:
        self._answers.close()
        self.registrations += 1
        events.append(f"registered {found.best.name}, margin {found.margin:.0f} nat")
        same = self._past is not None and self._past.same
        if same:
            events.append("the spine that was proven before the restart")
        known = self._identity.proven or self._identity.again
        self._identity = unknown_patient(self._patches, same, known)
        self._refused, self._agreeing, self._past = False, None, None
        track = start(found.best.estimate, frame.stamp_ns, self.config)
        levels = (registered(frame.stamp_ns),) * len(self.model.levels)
        estimate = found.best.estimate
        belief = Belief(
            track,
            levels,
            (None,) * len(levels),
            (np.inf,) * len(levels),
            explained(estimate, pixels, self._noise()),
            frame.stamp_ns,
        )
        return self._judge(belief, frame, TrackStep(track, estimate, (), ()), pixels, events)

    # -- tracking -------------------------------------------------------------------------------

    def _follow(
        self,
        belief: Belief,
        frame: RgbdFrame,
        seg: Segmentation | Rejected,
        pixels: BonePixels | Rejected,
        events: list[str],
    ) -> tuple[LevelEstimate, ...]:
        if isinstance(seg, Rejected):
            return self._blind(belief, frame, seg.reason, events)
        if isinstance(pixels, Rejected):
            return self._blind(belief, frame, pixels.reason, events)
        result = step(self.model, belief.track, pixels, frame.stamp_ns, self._noise(), self.config)
        gap_s = (frame.stamp_ns - belief.seen_ns(self._exposed)) * 1e-9
        # A registration takes time itself: the gap that it leaves must not ask for another.
        long_gap = belief.shown and belief.followed and gap_s > LONG_GAP_S
        now = explained(result.estimate, pixels, self._noise())
        tracked = np.array([s.status is Status.TRACKED for s in belief.levels])
        searched = long_gap or has_jumped(
            belief.best, now, result, pixels, tracked & self.model.exposed
        )
        if searched:
            found = register(
                self.model, pixels, find_instances(seg), self._noise(), self.config,
                result.estimate.T_camera_ct,
            )  # fmt: skip
            found = self._led(found, pixels, events)
            if isinstance(found, Rejected) or not found.clear:
                return self._blind(
                    belief, frame, f"level not certain again: {found.reason}", events
                )
            stuck = now.fit < belief.best.fit - FIT_FALL_NAT  # near the right place, and turned
            if stuck or differs(self.model, found.best.estimate, result.estimate):
                events.append("came back elsewhere: registered again")
                return self._begin(frame, found, pixels, events)
        belief, reason, slipped = self._doubt(belief, frame.stamp_ns, result, pixels, gap_s, now)
        if slipped:
            self._belief = None
            events.append(f"all levels lost: {reason}")
            return self._all(Status.LOST, reason)
        belief = replace(belief, followed=not searched)
        if reason:
            return self._blind(belief, frame, reason, events)
        for k, mm in zip(result.moved, result.moved_mm):
            events.append(f"{self.model.levels[k]} moved {mm:.1f} mm against its neighbours")
        return self._judge(belief, frame, result, pixels, events)

    def _blind(
        self, belief: Belief, frame: RgbdFrame, reason: str, events: list[str]
    ) -> tuple[LevelEstimate, ...]:
        """A frame that tells nothing of any level."""
        levels = tuple(advance(s, None, frame.stamp_ns, self.config, reason) for s in belief.levels)
        return self._keep(belief, replace(belief, levels=levels), events)

    def _doubt(
        self,
        belief: Belief,
        stamp_ns: int,
        result: TrackStep,
        pixels: BonePixels,
        gap_s: float,
        now: Explained,
    ) -> tuple[Belief, str, bool]:
        """Why the spine may have slipped by a level ('' = it has not), and whether it surely has."""
        due = (stamp_ns - belief.challenged_ns) * 1e-9 >= CHALLENGE_S
        found = doubt(
            self.model, result, pixels, self._noise(), self.config, belief.best, now, gap_s,
            belief.next_way if due else 0,
        )  # fmt: skip
        if found.reason:
            return belief, found.reason, found.slipped
        if not found.compared:
            return replace(belief, best=belief.best.best(now)), "", False
        after = replace(belief, best=now, challenged_ns=stamp_ns, next_way=-belief.next_way)
        return after, "", False

    def _judge(
        self,
        belief: Belief,
        frame: RgbdFrame,
        result: TrackStep,
        pixels: BonePixels,
        events: list[str],
    ) -> tuple[LevelEstimate, ...]:
        foreign = self._compare(result.state.T_camera_ct, pixels, events)
        if foreign is not None:
            return foreign
        levels, inputs = judged(
            self.model, belief, result, pixels, frame, self.config, self._camera, self.error_model
        )
        if self.trace is not None:
            self.trace += [(frame.stamp_ns, self.model.levels[k], i) for k, i in inputs.items()]
        return self._keep(belief, levels, events)

    def _compare(
        self, T: np.ndarray, pixels: BonePixels, events: list[str]
    ) -> tuple[LevelEstimate, ...] | None:
        """Whether this is the spine of the case; what to show if it is not."""
        before = self._identity
        self._identity = now = compare(before, self._patches, self.model, T, pixels)
        if now.proven and not before.proven and now.verdict is not None:
            events.append(f"shape of the case proven by {now.verdict.margin_nat:.0f} nat")
        self._known = self._known or now.proven
        events += now.news
        if not now.refusal:
            return None
        self._belief = None
        events.append(f"all levels lost: {now.refusal}")
        if (
            self._known or before.proven
        ):  # it was this patient before: the reading is wrong, however often
            self._identity = unknown_patient(self._patches)
            return self._all(Status.LOST, now.refusal)
        self._foreign += 1
        return self._all(Status.REJECTED, now.refusal)

    def _keep(self, past: Belief, belief: Belief, events: list[str]) -> tuple[LevelEstimate, ...]:
        for k in self._exposed:
            after = belief.levels[k]
            if past.levels[k].status is not after.status and after.status in (
                Status.LOST,
                Status.OCCLUDED,
            ):
                events.append(f"{self.model.levels[k]} {after.status.value}: {after.reason}")
        belief = replace(belief, stamp_ns=self._last_stamp)
        self._recent.append(belief)
        out = report(self.model, belief, self._identity, self._exposed)
        alive = any(belief.levels[k].status is not Status.LOST for k in self._exposed)
        self._belief = belief if alive else None
        if not alive:
            events.append("all levels lost: registering again")
        return out

    # -- helpers --------------------------------------------------------------------------------

    def _all(self, status: Status, reason: str) -> tuple[LevelEstimate, ...]:
        return tuple(
            LevelEstimate(level, status, reason=reason) for level in self.case.exposed_levels
        )

    def _noise(self) -> Noise:
        c = self.config
        return Noise(
            1e-3 * c.noise_floor_mm,
            1e-3 * c.tissue_scale_mm,
            1e-6 * c.correlation_area_mm2,
        )

    def label_image(self, frame: RgbdFrame) -> np.ndarray | None:
        """(H, W) uint8 labels of the frame processed last, None if nothing was segmented in it."""
        if self._seg is None or frame.stamp_ns != self._last_stamp:
            return None
        T = self._belief.track.T_camera_ct if self._belief else None
        return label_image(frame, self._seg, self.model, T)


class _Clock:
    """Stage durations in ms; `ahead` was spent on the first stage before."""

    def __init__(self, ahead_ms: float) -> None:
        self._t0 = self._t = time.perf_counter() - 1e-3 * ahead_ms
        self._laps: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self._laps[stage] = 1e3 * (now - self._t)
        self._t = now

    def done(self) -> dict[str, float]:
        return {**self._laps, "total": 1e3 * (time.perf_counter() - self._t0)}
