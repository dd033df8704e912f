# SPDX-License-Identifier: Apache-2.0
"""Which clock a recording's images go by: the driver's stamps, or the recorder's receive times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from .errors import RecordingError
from .recorded_messages import RecordedMessages
from .types import Rejected

# Receive times jitter with the recorder's load. Below a quarter of a period the partner is still
# beyond doubt; a period that varies more than fourfold is a recorder that wrote in bursts.
_JITTER = 0.25
_FEW = 3  # as many equal stamps are no coincidence
_SINGLE_NS = 5_000_000  # of one pair alone, whose period nobody knows
_PERIOD_STAMPS = 16
_ZERO_REACH_NS = 10_000_000_000  # a clock that shows more than this did not start at zero just now
_DEFAULT_SLOP_NS = 16_666_667  # half a frame at 30 Hz, where there is one frame only


@dataclass(frozen=True)
class RecordedClock:
    """How the images of two streams are told apart and put together.

    Attributes:
        slop_ns: largest difference of times within a pair.
        by_receipt: the driver's stamps are of no use; the recorder's receive times are used.
        zero_is_time: a clock that starts with the recording, as simulated ones do.
        note: what the user must know of it, or "".
    """

    slop_ns: int = _DEFAULT_SLOP_NS
    by_receipt: bool = False
    zero_is_time: bool = True
    note: str = ""

    def time_ns(self, message: Any, received_ns: int) -> int:
        """Time of a message by this clock."""
        return received_ns if self.by_receipt else stamp_ns(message)


def stamp_ns(message: Any) -> int:
    """Header stamp of a message."""
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def choose_clock(held: RecordedMessages, first: str, second: str) -> RecordedClock:
    """Header stamps rule, unless a driver gives none: then the recorder's receive times, if these
    tell which images belong together.

    Raises RecordingError: neither of the two does.
    """
    heads = {
        topic: [
            (stamp_ns(message), received_ns)
            for _, message, received_ns in islice(held.received(topic), _PERIOD_STAMPS)
            if message is not None
        ]
        for topic in (first, second)
    }
    clockless = [t for t, head in heads.items() if lacks_clock([stamp for stamp, _ in head])]
    if not clockless:
        others = [stamp for head in heads.values() for stamp, _ in head if stamp > 0]
        periods = np.diff(sorted({stamp for stamp, _ in heads[first]}))
        slop = int(np.median(periods)) // 2 if len(periods) else _DEFAULT_SLOP_NS
        return RecordedClock(slop, zero_is_time=min(others, default=0) < _ZERO_REACH_NS)
    slop_ns = receive_slop_ns(*([received for _, received in head] for head in heads.values()))
    problem = (
        f"the camera's driver gives no time: every header stamp is {heads[clockless[0]][0][0]}"
    )
    if isinstance(slop_ns, Rejected):
        raise RecordingError(
            held.path,
            clockless[0],
            f"{problem}, and the recorder's receive times are no help: {slop_ns.reason}",
            "let the driver stamp its images with the time of exposure and record again",
        )
    note = (
        f"{held.path}: {clockless[0]}: {problem}; the recorder's receive times are used instead,"
        " so that stamps, ages and pairs are only as true as these"
    )
    return RecordedClock(slop_ns, by_receipt=True, note=note)


def lacks_clock(stamps_ns: Sequence[int]) -> bool:
    """Whether header stamps are all zero, or all the same: their driver has no clock."""
    return bool(stamps_ns) and (
        not any(stamps_ns) or (len(stamps_ns) >= _FEW and len(set(stamps_ns)) == 1)
    )


def receive_slop_ns(first_ns: Sequence[int], second_ns: Sequence[int]) -> int | Rejected:
    """The largest difference of receive times within a pair, where these times are sound.

    Args:
        first_ns, second_ns: receive times of two streams' first images, in order of arrival.

    Returns:
        The slop in ns; Rejected where the times do not tell which images belong together.
    """
    first, second = np.asarray(first_ns, np.int64), np.asarray(second_ns, np.int64)
    if not len(first) or not len(second):
        return Rejected("one of the two streams holds no image")
    slop_ns = _SINGLE_NS
    for times in (first, second):
        periods = np.diff(times)
        if not len(periods):
            continue
        # against the upper quartile: bursts may be most of the periods, a pause is only one
        long = float(np.percentile(periods, 75))
        if long <= 0.0 or periods.min() < _JITTER * long:
            return Rejected("the images were received in bursts")
        slop_ns = int(_JITTER * float(np.median(periods)))
    # a stream may begin later or be probed further than the other: judge where both are
    inside = first[(first >= second.min() - slop_ns) & (first <= second.max() + slop_ns)]
    if not len(inside):
        return Rejected("the two streams were received at different times")
    apart = np.abs(inside[:, None] - second[None]).min(axis=1)
    if np.mean(apart <= slop_ns) < 0.9:
        return Rejected(
            f"partners were received {1e-6 * float(np.median(apart)):.0f} ms apart, too far to be"
            " sure of them"
        )
    return slop_ns
