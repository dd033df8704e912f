# SPDX-License-Identifier: Apache-2.0
"""Which clock a recording's images go by: the driver's stamps, or the recorder's receive times."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .types import Rejected

# Receive times jitter with the recorder's load. Below a quarter of a period the partner is still
# beyond doubt; a period that varies more than fourfold is a recorder that wrote in bursts.
_JITTER = 0.25
_FEW = 3  # as many equal stamps are no coincidence
_SINGLE_NS = 5_000_000  # of one pair alone, whose period nobody knows


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
