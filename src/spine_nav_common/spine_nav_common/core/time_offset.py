# SPDX-License-Identifier: Apache-2.0
"""The constant time between the clocks of two pose streams of one motion.

Angular speed is the same in every frame that a rigid body carries, so it needs no calibration between the
two. Where it tells nothing (rest), or says several things (a periodic motion), there is no answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from .pose_streams import PoseStream
from .types import Rejected

_STEP_S = 0.01
_SPAN_S = 0.1  # over which a speed is taken: noise of single poses falls with it
_LEAST_S = 5.0
_LEAST_DEG_S = 5.0  # standard deviation of the speed
_LEAST_ALIKE = 0.7
_MOST_SIGMA_S = 0.01
_RIVAL = 0.9  # of the best correlation, elsewhere: which of the two it is nobody knows
_PARTS = 6


@dataclass(frozen=True)
class TimeFound:
    """offset_s: added to stamps of the second stream gives the first one's. sigma_s: 1 sigma, by what
    parts of the motion say apart. alike: correlation of the two speeds there. rival: the largest elsewhere."""

    offset_s: float
    sigma_s: float
    alike: float
    rival: float


def time_offset(a: PoseStream, b: PoseStream, most_s: float = 1.0) -> TimeFound | Rejected:
    """How the clocks of two streams differ, within +- most_s; or why the motion does not tell."""
    begin, end = max(a.stamp_s[0], b.stamp_s[0]), min(a.stamp_s[-1], b.stamp_s[-1])
    if end - begin < _LEAST_S + 2.0 * most_s:
        return Rejected(
            f"the streams share {max(end - begin, 0.0):.1f} s, {_LEAST_S + 2 * most_s:.0f} are needed for an"
            f" offset within {most_s:g} s: record longer, or give a smaller --most"
        )
    if max(np.median(np.diff(s.stamp_s)) for s in (a, b)) > _SPAN_S:
        return Rejected("a stream has fewer than ten poses a second: that does not tell the time")
    grid = np.arange(begin + most_s + _SPAN_S, end - most_s - _SPAN_S, _STEP_S)
    first = _speed(a, grid)
    if first is None:
        return Rejected("the first stream has a hole: record both without a break")
    if (moves := float(first.std())) < _LEAST_DEG_S:
        return Rejected(
            f"the angular speed varies by {moves:.1f} deg/s, {_LEAST_DEG_S:g} are needed: turn the body to and"
            " fro, now fast, now slowly"
        )
    lags = np.arange(-round(most_s / _STEP_S), round(most_s / _STEP_S) + 1)
    wide = np.arange(len(grid) + 2 * lags[-1]) * _STEP_S + grid[0] - most_s
    second = _speed(b, wide)
    if second is None:
        return Rejected("the second stream has a hole: record both without a break")
    # at lag k the second is looked at k steps later: an offset of -k steps
    alike = np.array([_correlation(first, second[k + lags[-1] :][: len(grid)]) for k in lags])
    best = int(np.argmax(alike))
    if alike[best] < _LEAST_ALIKE:
        return Rejected(
            f"the two speeds are alike by {alike[best]:.2f} at best, {_LEAST_ALIKE:g} are needed: are both of"
            f" one rigid body, and do their clocks differ by less than {most_s:g} s?"
        )
    if best in (0, len(lags) - 1):
        return Rejected(f"the clocks differ by {most_s:g} s or more: give a larger --most")
    rival = _elsewhere(alike, best)
    if rival > _RIVAL * alike[best]:
        return Rejected(
            f"the motion repeats itself: another offset is as good ({rival:.2f} beside {alike[best]:.2f}). Move"
            " without a rhythm"
        )
    found = -_STEP_S * (lags[best] + _top(alike, best))
    sigma = _spread(first, second, lags, best)
    if sigma > _MOST_SIGMA_S:
        return Rejected(
            f"parts of the motion say times {1e3 * sigma:.0f} ms apart (1 sigma): are both of one rigid body, do"
            f" their clocks run alike and differ by less than {most_s:g} s?"
        )
    return TimeFound(float(found), sigma, float(alike[best]), rival)


def _speed(s: PoseStream, at: np.ndarray) -> np.ndarray | None:
    """(N,) degrees per second; None where the stream has a hole."""
    h = 0.5 * _SPAN_S
    inside = (s.stamp_s > at[0] - 1.0) & (s.stamp_s < at[-1] + 1.0)
    if np.diff(s.stamp_s[inside]).max() > 3.0 * _SPAN_S or at[0] - h < s.stamp_s[0]:
        return None
    stamps, first = np.unique(s.stamp_s, return_index=True)
    if at[-1] + h > stamps[-1]:
        return None
    turn = Slerp(stamps, Rotation.from_matrix(s.T[first, :3, :3]))
    found: np.ndarray = np.degrees((turn(at - h).inv() * turn(at + h)).magnitude()) / _SPAN_S
    return found


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / max(np.sqrt((x @ x) * (y @ y)), 1e-12))


def _top(alike: np.ndarray, at: int) -> float:
    """Where between samples a parabola through three has its top, in samples."""
    a, b, c = alike[at - 1 : at + 2]
    return float(0.5 * (a - c) / (a - 2.0 * b + c)) if a - 2.0 * b + c < 0.0 else 0.0


def _elsewhere(alike: np.ndarray, best: int) -> float:
    """The largest correlation beyond the valleys on either side of the best."""
    left, right = best, best
    while left > 0 and alike[left - 1] < alike[left]:
        left -= 1
    while right < len(alike) - 1 and alike[right + 1] < alike[right]:
        right += 1
    return float(max(np.concatenate([alike[:left], alike[right + 1 :], [-1.0]])))


def _spread(first: np.ndarray, second: np.ndarray, lags: np.ndarray, best: int) -> float:
    """1 sigma of the offset in seconds, by the tops that parts of the motion have near it."""
    reach, zero = 20, lags[-1]
    near = [k for k in lags if abs(k - lags[best]) <= reach]
    tops = []
    for part in np.array_split(np.arange(len(first)), _PARTS):
        x = first[part]
        if x.std() < 0.3 * first.std():
            continue
        own = np.array([_correlation(x, second[part + k + zero]) for k in near])
        top = int(np.argmax(own))
        if 0 < top < len(near) - 1:
            tops.append(_STEP_S * (near[top] + _top(own, top)))
    if len(tops) < 3:
        return _SPAN_S
    return float(max(np.std(tops, ddof=1) / np.sqrt(len(tops)), 1e-4))
