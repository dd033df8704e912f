# SPDX-License-Identifier: Apache-2.0
"""What the tracker asks of its three networks (tests put fakes there), and how long each step takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from spine_nav_common.core.types import Rejected, StereoFrame

from .finder_look import Look
from .types import HeadObservation, RodMeasurements, RodSeeds


class Candidate(Protocol):
    """A place where a head may be: pixels (2,) in both images, and how sure the finder is."""

    @property
    def left_px(self) -> np.ndarray: ...
    @property
    def right_px(self) -> np.ndarray: ...
    @property
    def score(self) -> float: ...


class Found(Protocol):
    """What the finder sees in a whole pair."""

    @property
    def heads(self) -> Sequence[Candidate]: ...
    @property
    def rod_seeds(self) -> RodSeeds: ...


class FindsScrews(Protocol):
    """The first stage: rough places in the whole pair."""

    def find(self, frame: StereoFrame, look: Look | None = None) -> Found | Rejected:
        """look: the only part to search, in one pass; None: everything, as closely as it takes."""
        ...


class RefinesHeads(Protocol):
    """The second stage for heads: one sub-pixel observation per place (left_px, right_px), with a
    confidence that says whether there is a head at all."""

    def refine(
        self, frame: StereoFrame, candidates: Sequence[tuple[np.ndarray, np.ndarray]]
    ) -> Sequence[HeadObservation]: ...

    def glance(
        self, frame: StereoFrame, candidates: Sequence[tuple[np.ndarray, np.ndarray]]
    ) -> Sequence[HeadObservation]:
        """The same, cheaper, of places where a head has been seen surely."""
        ...


class MeasuresRods(Protocol):
    """The second stage for rods: where the axis lies across a hypothesis (K, 3) with tangents."""

    def measure(
        self, frame: StereoFrame, points_m: np.ndarray, tangents: np.ndarray
    ) -> RodMeasurements: ...


class StageClock:
    """Durations of the stages of one frame, ms."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._laps: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self._laps[stage] = 1e3 * (now - self._last)
        self._last = now

    def done(self) -> dict[str, float]:
        return {**self._laps, "total": 1e3 * (time.perf_counter() - self._start)}
