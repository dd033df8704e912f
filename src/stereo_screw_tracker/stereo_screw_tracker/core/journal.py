# SPDX-License-Identifier: Apache-2.0
"""What a screw tracker was given and did, in order, so that its run can be computed again bit by bit.

A pair's result follows from its pixels, from the pairs before, and from which vertebrae were registered
when it was worked on, which depends on other threads. The entries (see spine_nav_common.core.journal):

`pair`: one was tracked (or refused), with the vertebrae that were handed in and what became of the result.
`reset`: all tracks were forgotten, and `why`.
`begin`: a new tracker, with case, models and settings. `asked`: a service was called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from spine_nav_common.core.journal import JournalError

CORES = ("spine_nav_common.core", "spine_perception.core", "stereo_screw_tracker.core")
"""What a result of the tracker is computed by."""

Rows = tuple[tuple[float, ...], ...]
"""A transform (4, 4), metres, by its rows."""


@dataclass(frozen=True)
class PairEntry:
    """One pair that a live tracker worked on.

    Attributes:
        stamp_ns, epoch: of the left image; how often its stamps had gone back before.
        right_ns, left_info_ns, right_info_ns: stamps of the right image and of both camera_infos.
        vertebrae: T_camera_ct in the left optical frame per registered level, as they were handed
            in; None = none were.
        trouble: why it could not be used, "" = it could. fault: it broke the tracker.
        shown: "" = its result was published as it was; else why it was withdrawn or not shown.
        published: whether a result of it was published at all.
        events: what happened in it, in words.
    """

    stamp_ns: int
    epoch: int
    right_ns: int
    left_info_ns: int
    right_info_ns: int
    vertebrae: tuple[tuple[str, Rows], ...] | None = None
    trouble: str = ""
    fault: bool = False
    shown: str = ""
    published: bool = True
    events: tuple[str, ...] = ()

    def transforms(self) -> dict[str, np.ndarray] | None:
        """`vertebrae` as the tracker takes them, to the last bit."""
        if self.vertebrae is None:
            return None
        return {level: np.array(rows, dtype=np.float64) for level, rows in self.vertebrae}


def noted_vertebrae(
    vertebrae: Mapping[str, np.ndarray] | None,
) -> tuple[tuple[str, Rows], ...] | None:
    """Vertebrae (4, 4) as an entry holds them."""
    if vertebrae is None:
        return None
    return tuple(
        (level, tuple(map(tuple, np.asarray(T, dtype=np.float64).tolist())))
        for level, T in vertebrae.items()
    )


def pair_entry(values: Mapping[str, Any]) -> PairEntry:
    """The pair of an entry with op `pair`. Raises JournalError: something of it is missing."""
    try:
        given = {k: values[k] for k in PairEntry.__dataclass_fields__}
        vertebrae = given["vertebrae"]
        if vertebrae is not None:
            known = {str(level): np.array(rows, dtype=np.float64) for level, rows in vertebrae}
            if any(T.shape != (4, 4) or not np.isfinite(T).all() for T in known.values()):
                raise ValueError("a vertebra's transform is not (4, 4) finite numbers")
            vertebrae = noted_vertebrae(known)
        return PairEntry(**{**given, "vertebrae": vertebrae, "events": tuple(given["events"])})
    except (KeyError, TypeError, ValueError) as error:
        raise JournalError(f"no pair entry: {error!r}") from error
