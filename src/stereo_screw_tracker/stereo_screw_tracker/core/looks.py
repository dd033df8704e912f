# SPDX-License-Identifier: Apache-2.0
"""The heads of one pair: known ones where they should be, and new ones by a search of the picture.

The picture is searched in turns only. While the finder searches, on one core, known heads are
measured on the other. Between two searches a settled head gets a glance; where the glance doubts that
the head is there and went where the others went, it is refined in the same pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from spine_nav_common.core.geometry import transform_points
from spine_nav_common.core.types import Head3D, Rejected, StereoFrame

from .confidence import ConfidenceModel, joint_confidence, logit
from .config import StereoConfig
from .finder_look import Look, close_look, whole
from .follow import picture_shift, thumbnail
from .ghosts import screen
from .pair_geometry import check_geometry
from .rod_support import supported
from .stages import Candidate, FindsScrews, Found, RefinesHeads, StageClock
from .tracks import NS, Track, Tracks, align, predict, probability
from .triangulate import project_pair
from .types import HeadObservation, StereoCamera

Place = tuple[np.ndarray, np.ndarray, float]
"""A place (2,) in the left image and one in the right, and the finder's score."""

FOLLOW_S = (
    1.0  # a longer gap between pairs is searched; a search that takes longer never catches up
)
LEAST_FOLLOWED = 0.6  # share of the heads seen before; when fewer are found the picture is searched
SETTLED_PAIRS = 3  # a head is followed without a search once it was in as many pairs
DISOWNED = 0.5  # by the refiner: what the finder sees there is looked at anew
GLANCE_LOOKS, GLANCE_CONFIDENCE = 5, 0.95  # of a track; a glance that says less is none
GLANCE_SIGMAS = 3.0  # farther from where the others say that it went, a head is refined
# 112 heads of 12 `calibrate` scenes: squared error over stated variance 1.25 times that of a full look
GLANCE_VARIANCE = 1.25
SAME_HEAD_M = 6e-3  # the finder's places are some pixels off, and no two heads stand this close


@dataclass(frozen=True)
class Pair:
    """A pair and what is known when it comes: tracks of the pair before, their motion as the
    texture tells it (None: not asked), whether the images' rows have been seen to agree, and proven
    rods (N, 3) of the pair before."""

    frame: StereoFrame
    camera: StereoCamera
    tracks: Tracks
    T_seen: np.ndarray | None
    rows_agree: bool
    rods_m: tuple[np.ndarray, ...] = ()


class HeadLooks:
    """Finder and head refiner, and whose turn it is. Not thread-safe."""

    def __init__(
        self,
        config: StereoConfig,
        finder: FindsScrews,
        refiner: RefinesHeads,
        confidence: ConfidenceModel,
    ):
        self.config = config
        self._finder = finder
        self._refiner = refiner
        self._confidence = confidence
        self._beside = ThreadPoolExecutor(1, "finder")
        self.reset()

    def reset(self) -> None:
        """Forget the picture before, and search the next one."""
        self.since_search = self._searches = 0
        self._thumbnail: np.ndarray | None = None
        self._scores: dict[int, float] = {}

    def heads(
        self, pair: Pair, clock: StageClock
    ) -> tuple[Found | None, tuple[Head3D, ...] | Rejected]:
        """Heads of a pair, and what the finder saw where the picture was searched."""
        places = self._expected(pair)
        due = self.since_search >= self.config.search_every - 1
        search = None
        if places and due:
            search = self._beside.submit(self._finder.find, pair.frame, self._look(pair, places))
        if places and not due:
            followed = self._followed(pair, places)
            clock.lap("follow")
            if followed is not None:
                self.since_search += 1
                return None, followed
        try:
            known = self._refined(pair.frame, places.values())
        finally:
            found = search.result() if search is not None else None
        clock.lap("follow")
        if found is None:
            found = self._finder.find(pair.frame, self._look(pair, places))
        clock.lap("find")
        self._searches += 1
        self.since_search = 0
        if isinstance(found, Rejected):
            return None, found
        if pair.tracks.stamp_ns is None or not found.heads:
            wrong = check_geometry(pair.frame)
            clock.lap("geometry")
            if wrong is not None:
                return found, wrong
        heads = self._searched(pair, list(places), known, found.heads)
        clock.lap("heads")
        return found, heads

    def _expected(self, pair: Pair) -> dict[int, Place]:
        """By number of the track: where settled heads should be, from the picture's shift alone.

        Empty where nothing is settled, or too long ago.
        """
        before, self._thumbnail = self._thumbnail, thumbnail(pair.frame)
        state = pair.tracks
        if before is None or state.stamp_ns is None:
            return {}
        if not 0.0 < (pair.frame.stamp_ns - state.stamp_ns) * NS <= FOLLOW_S:
            return {}
        if sum(t.track_id >= 0 and t.age >= SETTLED_PAIRS for t in state.tracks) < 2:
            return {}
        size = (pair.camera.intrinsics.width, pair.camera.intrinsics.height)
        shift = picture_shift(before, self._thumbnail, size)
        places = {}
        for i, track in enumerate(state.tracks):
            left, right = project_pair(pair.camera, track.point_m)
            if _inside(left + shift, size) and _inside(right + shift, size):
                score = self._scores.get(track.track_id, self.config.expected_score)
                places[i] = (left + shift, right + shift, score)
        return places

    def _look(self, pair: Pair, places: Mapping[int, Place]) -> Look | None:
        """Where to search: in turns all of it and closely about known heads."""
        if not places or self.config.search_every <= 1:
            return None
        everything = whole(pair.frame)
        if not self._searches % 2:
            return everything
        left, right = (np.array([p[eye] for p in places.values()]) for eye in (0, 1))
        return close_look(pair.frame, left, left[:, 0] - right[:, 0]) or everything

    def _followed(
        self, pair: Pair, places: Mapping[int, Place]
    ) -> tuple[Head3D, ...] | Rejected | None:
        """Heads that are where they should be; None where the picture has to be searched."""
        config, state = self.config.tracks, pair.tracks
        glanced = self._glanced(pair, places)
        # a glance is no news of whether this is a head: the track keeps its odds
        sure = [
            replace(o, confidence=probability(state.tracks[i].odds)) for i, o in glanced.items()
        ]
        rest = {i: place for i, place in places.items() if i not in glanced}
        observations = sure + self._looked_again(pair, rest)
        screened = screen(pair.camera, observations, self.config.ghosts, pair.rows_agree)
        if isinstance(screened, Rejected):
            return screened
        match = align(state, screened.heads, pair.frame.stamp_ns, config, pair.T_seen)
        numbers, went = list(glanced), dict(match.pairs)
        doubted = set(numbers)
        for i, j in went.items():
            k = screened.of[j]
            if k < len(numbers) and numbers[k] == i:
                dt = (pair.frame.stamp_ns - (state.stamp_ns or 0)) * NS
                if _with_the_others(
                    predict(state.tracks[i], match.motion, dt, config),
                    screened.heads[j],
                    config.common_share,
                ):
                    doubted.discard(i)
        if doubted:
            kept = [o for i, o in zip(numbers, sure, strict=True) if i not in doubted]
            again = self._looked_again(pair, {i: places[i] for i in numbers if i in doubted})
            observations = kept + observations[len(sure) :] + again
            screened = screen(pair.camera, observations, self.config.ghosts, pair.rows_agree)
            if isinstance(screened, Rejected):
                return screened
            match = align(state, screened.heads, pair.frame.stamp_ns, config, pair.T_seen)
        seen = {
            i for i in places
            if state.tracks[i].track_id >= 0 and state.tracks[i].seen_ns == state.stamp_ns
        }  # fmt: skip
        if len(seen & {i for i, _ in match.pairs}) < LEAST_FOLLOWED * len(seen) or not seen:
            return None
        return screened.heads

    def _glanced(self, pair: Pair, places: Mapping[int, Place]) -> dict[int, HeadObservation]:
        """By number of the track: settled heads that a glance finds."""
        state = pair.tracks
        settled = {i: place for i, place in places.items() if _settled(state.tracks[i], state)}
        ahead = {i: p for i, p in settled.items() if p[0][0] > p[1][0]}
        if not ahead:
            return {}
        seen = self._refiner.glance(
            pair.frame, [(left, right) for left, right, _ in ahead.values()]
        )
        return {
            i: replace(o, covariance_px2=GLANCE_VARIANCE * o.covariance_px2)
            for i, o in zip(ahead, seen, strict=True)
            if o.confidence >= GLANCE_CONFIDENCE
        }

    def _looked_again(self, pair: Pair, places: Mapping[int, Place]) -> list[HeadObservation]:
        """Known heads refined where they should be; those that the networks disown left out."""
        scores = [score for left, right, score in places.values() if left[0] > right[0]]
        known = self._refined(pair.frame, places.values())
        return self._supported(pair, self._judged(known, scores, self._least(pair)))

    def _searched(
        self,
        pair: Pair,
        numbers: Sequence[int],
        known: Sequence[HeadObservation],
        candidates: Sequence[Candidate],
    ) -> tuple[Head3D, ...] | Rejected:
        """Known heads (`numbers` of their tracks) with the finder's opinion of them, what it sees
        besides, and what both miss."""
        config, least = self.config.tracks, self._least(pair)
        likely = sorted(candidates, key=lambda c: -c.score)[: self.config.most_candidates]
        own = [_at(known, c, pair.camera) for c in likely]
        score: dict[int, float] = {}
        for i, c in zip(own, likely, strict=True):
            if i is not None:
                score[i] = max(score.get(i, 0.0), c.score)
        # until the next search the finder's opinion of a head is this one
        self._scores = {pair.tracks.tracks[numbers[i]].track_id: v for i, v in score.items()}
        fresh = [c for i, c in zip(own, likely, strict=True) if i is None]
        observations = [
            *self._judged([known[i] for i in score], list(score.values()), least),
            *self._looked(pair.frame, [(c.left_px, c.right_px, c.score) for c in fresh], least),
        ]
        observations = self._supported(pair, observations)
        screened = screen(pair.camera, observations, self.config.ghosts, pair.rows_agree)
        if isinstance(screened, Rejected):
            return screened
        again = self._looked(pair.frame, self._missed(pair, screened.heads), config.sure_confidence)
        if again:
            screened = screen(
                pair.camera, [*observations, *again], self.config.ghosts, pair.rows_agree
            )
        return screened if isinstance(screened, Rejected) else screened.heads

    def _looked(
        self, frame: StereoFrame, places: Sequence[Place], least_confidence: float
    ) -> list[HeadObservation]:
        """Observations of places in front of the camera, less those that the networks disown."""
        ahead = [place for place in places if place[0][0] > place[1][0]]
        return self._judged(
            self._refined(frame, ahead), [score for *_, score in ahead], least_confidence
        )

    def _refined(self, frame: StereoFrame, places: Iterable[Place]) -> Sequence[HeadObservation]:
        """As the refiner says, of places in front of the camera."""
        ahead = [(left, right) for left, right, _ in places if left[0] > right[0]]
        return self._refiner.refine(frame, ahead) if ahead else ()

    def _judged(
        self,
        observations: Sequence[HeadObservation],
        scores: Sequence[float],
        least_confidence: float,
    ) -> list[HeadObservation]:
        judged = [
            replace(o, confidence=joint_confidence(self._confidence, o.confidence, score))
            for o, score in zip(observations, scores, strict=True)
        ]
        return [o for o in judged if o.confidence >= least_confidence]

    def _least(self, pair: Pair) -> float:
        """Least confidence of a place that counts, or may with a rod's support."""
        least = self.config.tracks.least_confidence
        if not pair.rods_m:
            return least
        return probability(float(logit(least)) - self.config.rods.head_log_odds)

    def _supported(
        self, pair: Pair, observations: Sequence[HeadObservation]
    ) -> list[HeadObservation]:
        """Those that count, after known rods have spoken for what they pass through."""
        config = self.config.tracks
        sure = [o for o in observations if o.confidence >= config.least_confidence]
        more = self.config.rods.head_log_odds if pair.rods_m else 0.0
        if more > 0.0 and any(o.confidence < config.sure_confidence for o in observations):
            screened = screen(pair.camera, sure, self.config.ghosts, pair.rows_agree)
            if not isinstance(screened, Rejected):
                stamp, T_seen = pair.frame.stamp_ns, pair.T_seen
                T = align(pair.tracks, screened.heads, stamp, config, T_seen).motion.T_now_before
                rods = [transform_points(T, rod) for rod in pair.rods_m]
                observations = supported(observations, rods, pair.camera, more)
                sure = [o for o in observations if o.confidence >= config.least_confidence]
        return sure

    def _missed(self, pair: Pair, heads: Sequence[Head3D]) -> list[Place]:
        """Where shown tracks should be seen in this frame and no measured head explains them."""
        state, config = pair.tracks, self.config.tracks
        if not self.config.look_again or state.stamp_ns is None:
            return []
        dt = (pair.frame.stamp_ns - state.stamp_ns) * NS
        if not 0.0 < dt <= config.reset_s:
            return []
        found = align(state, heads, pair.frame.stamp_ns, config, pair.T_seen)
        matched = {i for i, _ in found.pairs}
        expected = []
        for i, track in enumerate(state.tracks):
            if i in matched or track.track_id < 0:
                continue
            point = predict(track, found.motion, dt, config).point_m
            left, right = project_pair(pair.camera, point)
            size = (pair.camera.intrinsics.width, pair.camera.intrinsics.height)
            if _inside(left, size) and _inside(right, size):
                score = self._scores.get(track.track_id, self.config.expected_score)
                expected.append((left, right, score))
        return expected


def _settled(track: Track, state: Tracks) -> bool:
    """Whether a glance is enough for a head: it was seen surely, again and again, and just now."""
    return (
        track.believed
        and track.looks >= GLANCE_LOOKS
        and track.seen_ns == state.stamp_ns
        and probability(track.odds) >= GLANCE_CONFIDENCE
    )


def _with_the_others(predicted: Track, head: Head3D, common_share: float) -> bool:
    """Whether a head is where it went if it went with the others."""
    off = head.point_m - predicted.point_m
    total = predicted.predicted_m2() + (1.0 - common_share) * head.covariance_m2
    return float(off @ np.linalg.solve(total, off)) <= GLANCE_SIGMAS**2


def _at(known: Sequence[HeadObservation], c: Candidate, camera: StereoCamera) -> int | None:
    """Which known head stands where the finder sees one, in both images."""
    best, least = None, 1.0
    for i, o in enumerate(known):
        if o.confidence < DISOWNED:
            continue
        disparity = max(float(o.left_px[0] - o.right_px[0]), 1e-3)
        reach = SAME_HEAD_M * disparity / camera.baseline_m  # f / z = disparity / baseline
        off = max(
            float(np.linalg.norm(o.left_px - c.left_px)),
            float(np.linalg.norm(o.right_px - c.right_px)),
        )
        if off / reach < least:
            best, least = i, off / reach
    return best


def _inside(pixel: np.ndarray, size: tuple[int, int]) -> bool:
    return bool(
        np.isfinite(pixel).all() and 0.0 <= pixel[0] < size[0] and 0.0 <= pixel[1] < size[1]
    )
