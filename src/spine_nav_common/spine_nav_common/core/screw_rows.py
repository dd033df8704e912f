# SPDX-License-Identifier: Apache-2.0
"""From the rows of screws.csv to the saddles of each side, caudal first.

Frame: left optical frame (x right, y down, z forward), here in mm. Left, right, cranial and caudal
are the patient's: left = posterior x cranial, posterior being the mean screw axis.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from .errors import RodError, RowError
from .implant_outputs import ScrewRow
from .types import LEVEL_CODE

SIDES = ("left", "right")
CRANIAL = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
# Design choices. Tulips are wider than the first; rows of one spine are further apart than the
# second (canal plus pedicle, published-systems.md 11.1 and 11.4); the third is steeper than the
# way from S1 to an iliac screw.
CLOSEST_MM = 12.0
ROWS_APART_MM = 20.0
STEEPEST_DEG = 55.0
# Heads of one construct, a level left out, lie nearer to each other than the first (74 mm in 12
# scenes of `calibrate`; 89 to 109 mm to a rack beside the wound), and within the last of one height.
APART_MM = 80.0
GROUP_MM = 55.0
HIGHER_MM = 40.0
MOST_TURN_DEG = 60.0  # --cranial knows four directions, and the camera may be rolled between them


@dataclass(frozen=True)
class SaddleRow:
    """The screws of one side, caudal first. saddles_mm (N, 3), axes (N, 3) unit, out of the bone;
    names (N,) for messages; ids (N,) track ids; source: the file they came from; bounds_mm: 95 %
    bound of each head; levels: "" where nothing tells; seen: measured in this frame, not only held.
    The last three are empty where nothing is known of them."""

    side: str
    saddles_mm: np.ndarray
    axes: np.ndarray
    names: tuple[str, ...]
    ids: tuple[int, ...]
    source: str
    bounds_mm: tuple[float, ...] = ()
    levels: tuple[str, ...] = ()
    seen: tuple[bool, ...] = ()


def select_stamp(rows: Sequence[ScrewRow], stamp: str, source: str | Path) -> list[ScrewRow]:
    """The rows of one frame; stamp is nanoseconds or 'last'. Raises RodError."""
    if not rows:
        raise RodError(source, "rows", "it holds no screw", "run spinenav screws until heads show")
    stamps = {row.stamp_ns for row in rows}
    if stamp == "last":
        wanted = max(stamps)
    else:
        try:
            wanted = int(stamp)
        except ValueError as error:
            raise RodError(
                source, "--stamp", f"{stamp!r} is no stamp", "give nanoseconds or 'last'"
            ) from error
    if wanted not in stamps:
        raise RodError(
            source,
            "--stamp",
            f"no screw has stamp {wanted}",
            f"give a stamp_ns of the file ({min(stamps)} to {max(stamps)}) or 'last'",
        )
    return [row for row in rows if row.stamp_ns == wanted]


def saddle_rows(
    rows: Sequence[ScrewRow],
    source: str | Path,
    side: str | None = None,
    cranial: str | None = None,
) -> list[SaddleRow]:
    """The saddles of one side, or of every side that has screws, each sorted caudal first.

    Args:
        rows: the screws of one frame (select_stamp), in any order.
        source: their file, for messages.
        side: 'left', 'right' or None for all.
        cranial: where the patient's head lies in the image (left, right, up, down), if known.

    Raises:
        RowError: no or one screw, unknown side or direction, duplicate ids or levels, both sides
            merged in one, heads that form no row, numbers that are not finite.
    """
    if side is not None and side not in SIDES:
        raise RowError(source, "--side", f"{side!r} is no side", "give left or right")
    sided, direction = sided_rows(rows, source, cranial)
    wanted = (side,) if side else tuple(s for s in SIDES if any(r.side == s for r in sided))
    found = []
    for name in wanted:
        own = [r for r in sided if r.side == name]
        if len(own) < 2:
            count = "no screw" if not own else "one screw"
            raise RowError(
                source,
                f"side {name}",
                f"it has {count}; a rod joins two at least",
                "show its other heads to both cameras",
            )
        found.append(_sorted_row(own, name, source, direction))
    return found


def sided_rows(
    rows: Sequence[ScrewRow], source: str | Path, cranial: str | None = None
) -> tuple[list[ScrewRow], np.ndarray]:
    """The rows of one frame with every side filled in, and the unit vector (3,) in the camera
    frame towards the patient's head. Arguments and errors as in saddle_rows, but any number of
    screws per side will do."""
    if cranial is not None and cranial not in CRANIAL:
        raise RowError(
            source, "--cranial", f"{cranial!r} is no direction", "give left, right, up or down"
        )
    _check_rows(rows, source)
    direction = _cranial_direction(rows, source, cranial)
    return _with_sides(rows, source, direction), direction


def lies_apart(heads_mm: np.ndarray, axes: np.ndarray) -> str | None:
    """Why these heads (N, 3) with axes (N, 3) cannot all stand in one spine, in words, or None.

    A tray or a rack of screws beside the wound holds heads as good as any other.
    """
    if len(heads_mm) < 4:
        return None
    tree = linkage(heads_mm, "single")
    for cut, least_mm in ((APART_MM, 0.0), (GROUP_MM, HIGHER_MM)):
        number = fcluster(tree, cut, "distance")
        groups = [heads_mm[number == k] for k in np.unique(number)]
        main = max(groups, key=len)
        up = _unit(axes[number == np.bincount(number).argmax()].mean(axis=0))
        for group in groups:
            higher = float((group.mean(axis=0) - main.mean(axis=0)) @ up)
            if group is main or len(group) < 2 or abs(higher) < least_mm:
                continue
            gap = np.linalg.norm(main[:, None] - group, axis=2).min()
            return (
                f"{len(group)} screw heads lie {gap:.0f} mm beside {len(main)} others and"
                f" {abs(higher):.0f} mm {'higher' if higher > 0 else 'lower'}: some are in no bone"
            )
    return None


def _check_rows(rows: Sequence[ScrewRow], source: str | Path) -> None:
    if not rows:
        raise RowError(source, "rows", "it holds no screw", "show the heads to both cameras")
    twice = _first_twice(row.track_id for row in rows)
    if twice is not None:
        raise RowError(
            source,
            "track_id",
            f"{twice} appears twice in one frame",
            "show the heads again",
        )
    for row in rows:
        where = f"track_id {row.track_id}"
        if not (np.isfinite(row.head_m).all() and np.isfinite(row.axis).all()):
            raise RowError(source, where, "a number is not finite", "show the head again")
        if abs(float(np.linalg.norm(row.axis)) - 1.0) > 0.01:
            raise RowError(source, where, "its axis is no unit vector", "show the head again")
        if row.side not in ("", *SIDES):
            raise RowError(
                source, f"{where}: side", f"{row.side!r} is no side", "write left or right"
            )
        if row.level and row.level not in LEVEL_CODE:
            raise RowError(
                source, f"{where}: level", f"{row.level!r} is no level", "T1 to T12, L1 to L6, S1"
            )


def _first_twice(values: Iterable[object]) -> object | None:
    seen = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def _heads_mm(rows: Sequence[ScrewRow]) -> np.ndarray:
    return np.array([row.head_m for row in rows]) * 1e3


def _posterior(rows: Sequence[ScrewRow]) -> np.ndarray:
    return _unit(np.mean([row.axis for row in rows], axis=0))


def _cranial_direction(
    rows: Sequence[ScrewRow], source: str | Path, cranial: str | None
) -> np.ndarray:
    """Unit vector towards the patient's head: from levels, from labelled sides, from --cranial."""
    heads = _heads_mm(rows)
    by_level = _by_levels(rows, heads)
    stated = None
    if cranial is not None:
        image = np.array([*CRANIAL[cranial], 0.0])
        stated = _unit(image - (image @ _posterior(rows)) * _posterior(rows))
    by_side = None
    if {row.side for row in rows} >= set(SIDES):
        labels = np.array([row.side for row in rows])
        apart = heads[labels == "left"].mean(axis=0) - heads[labels == "right"].mean(axis=0)
        by_side = _unit(np.cross(apart, _posterior(rows)))  # left x posterior = cranial
    known = [d for d in (by_level, by_side, stated) if d is not None]
    if not known:
        raise RowError(
            source,
            "level",
            "neither levels nor two labelled sides tell where the patient's head lies",
            "show the heads of both sides, or two tracked levels",
        )
    if any(d @ known[0] < 0.0 for d in known):
        raise RowError(
            source,
            "direction",
            "levels, sides and the stated direction contradict each other about the patient's head",
            "look whether every level is the right one, and register anew",
        )
    # a direction from the image or from two short rows is rough: follow the rows themselves
    direction = known[0]
    sides = [row.side for row in rows]
    for _ in range(3):
        direction = _along_rows(heads, sides, direction, _posterior(rows))
    return direction


def _by_levels(rows: Sequence[ScrewRow], heads: np.ndarray) -> np.ndarray | None:
    """Regression of the heads' positions on the level's number; None below two levels."""
    known = [i for i, row in enumerate(rows) if row.level]
    codes = np.array([LEVEL_CODE[rows[i].level] for i in known], dtype=np.float64)
    if len(set(codes.tolist())) < 2:
        return None
    # per side, so that an uneven number of levels on the two sides does not skew it
    slope = np.zeros(3)
    for side in {rows[i].side for i in known}:
        own = [j for j, i in enumerate(known) if rows[i].side == side]
        code = codes[own] - codes[own].mean()
        slope -= code @ heads[[known[j] for j in own]]
    return _unit(slope) if np.linalg.norm(slope) > 0 else None


def _along_rows(
    heads: np.ndarray, labels: Sequence[str], direction: np.ndarray, posterior: np.ndarray
) -> np.ndarray:
    """The direction turned, by MOST_TURN_DEG at most, to lie along the rows of heads."""
    across = heads @ _unit(np.cross(posterior, direction))
    order = np.argsort(across)
    gaps = np.diff(across[order])
    groups = [order]
    if all(labels):
        groups = [
            np.array([i for i, s in enumerate(labels) if s == side]) for side in sorted(set(labels))
        ]
    elif len(gaps) and gaps.max() > ROWS_APART_MM:
        cut = int(gaps.argmax()) + 1
        groups = [order[:cut], order[cut:]]
    own = [heads[g] - heads[g].mean(axis=0) for g in groups if len(g) > 1]
    if not own:
        return direction
    along = np.linalg.svd(np.concatenate(own), full_matrices=False)[2][0]
    along = along if along @ direction > 0 else -along
    return along if along @ direction > np.cos(np.radians(MOST_TURN_DEG)) else direction


def _with_sides(
    rows: Sequence[ScrewRow], source: str | Path, direction: np.ndarray
) -> list[ScrewRow]:
    """The rows with sides: as given, or split across the spine where some are empty, as those of a
    level that is not tracked are."""
    if all(row.side for row in rows):
        return list(rows)
    heads = _heads_mm(rows)
    apart = lies_apart(heads, np.array([row.axis for row in rows]))
    if apart is not None:
        raise RowError(
            source, "side", apart, "take a tray with screws out of the picture, or cover it"
        )
    left = _unit(np.cross(_posterior(rows), direction))
    across = heads @ left
    order = np.argsort(across)
    gaps = np.diff(across[order])
    cut = int(gaps.argmax()) + 1 if len(gaps) else 0
    inner = np.delete(gaps, cut - 1) if cut else gaps
    split = bool(cut) and gaps[cut - 1] > max(ROWS_APART_MM, 2.0 * inner.max(initial=0.0))
    if not split:
        raise RowError(
            source,
            "side",
            "it is empty for some heads, and they do not part into two rows across the spine",
            "cover what is no screw of this spine, or let its levels be tracked",
        )
    is_left = np.zeros(len(rows), dtype=bool)
    is_left[order[cut:]] = True
    found = [
        replace(r, side="left" if own else "right") for r, own in zip(rows, is_left, strict=True)
    ]
    for given, by_place in zip(rows, found, strict=True):
        if given.side and given.side != by_place.side:
            raise RowError(
                source,
                "side",
                f"the head {given.level} {given.side} lies in the {by_place.side} row",
                "look whether every level is the right one, and register anew",
            )
    return found


def _sorted_row(
    rows: Sequence[ScrewRow], side: str, source: str | Path, direction: np.ndarray
) -> SaddleRow:
    along = _heads_mm(rows) @ direction
    rows = [rows[i] for i in np.argsort(along, kind="stable")]
    heads = _heads_mm(rows)
    names = tuple(r.level or f"head {r.track_id}" for r in rows)
    where = f"side {side}"
    merged = "cover what is no screw of this side, or let the levels be tracked"
    levels = [r.level for r in rows if r.level]
    twice = _first_twice(levels)
    if twice is not None:
        raise RowError(
            source, where, f"two screws at {twice}: both sides merged or a duplicate", merged
        )
    step = np.diff(heads, axis=0)
    for i, ahead in enumerate(step @ direction):
        if ahead < CLOSEST_MM:
            aside = float(np.linalg.norm(step[i]))
            raise RowError(
                source,
                where,
                f"{names[i]} and {names[i + 1]} lie {aside:.0f} mm apart but only {ahead:.0f} mm"
                " along the spine: both sides merged or a duplicate",
                merged,
            )
        steep = np.degrees(np.arccos(min(1.0, ahead / float(np.linalg.norm(step[i])))))
        if steep > STEEPEST_DEG:
            raise RowError(
                source,
                where,
                f"from {names[i]} to {names[i + 1]} the row runs {steep:.0f} degrees across the"
                " spine: both sides merged or a wrong head",
                merged,
            )
    codes = [LEVEL_CODE[level] for level in levels]
    if codes != sorted(codes, reverse=True):
        raise RowError(
            source,
            where,
            f"levels {', '.join(levels)} do not follow each other from caudal to cranial",
            "look whether every level is the right one, and register anew",
        )
    return SaddleRow(
        side,
        heads,
        np.array([r.axis for r in rows]),
        names,
        tuple(r.track_id for r in rows),
        str(source),
        tuple(r.bound95_mm for r in rows),
        tuple(r.level for r in rows),
        tuple(r.seen for r in rows),
    )
