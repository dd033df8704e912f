# SPDX-License-Identifier: Apache-2.0
"""The surgeon's landmark check between page and graph: what a page may say of it, and what it is told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from spine_nav_common.core.types import LEVELS, Rejected

_FARTHEST_PX = 1e6
_MOST_LANDMARKS, _STAMP_DIGITS = 99, 19
VERBS = ("begin", "touch", "skip", "undo", "end")


def check_word(values: Mapping[str, Any]) -> str | Rejected:
    """What a page asks for as the parameter `landmark_check` of the navigation takes it."""
    verb, level = values.get("do"), values.get("level")
    if verb not in VERBS or level not in LEVELS:
        return Rejected("that is no word of a landmark check")
    word = f"{verb} {level}"
    if verb in ("touch", "skip"):
        number = values.get("number")
        if type(number) is not int or not 0 < number <= _MOST_LANDMARKS:
            return Rejected("which landmark is meant is not said")
        word += f" {number}"
    if verb == "touch":
        stamp, at = str(values.get("stamp_ns", "")), (values.get("u"), values.get("v"))
        if not (stamp.isdecimal() and len(stamp) <= _STAMP_DIGITS) or not all(
            isinstance(x, (int, float)) and abs(x) < _FARTHEST_PX for x in at
        ):
            return Rejected("where the picture was clicked is not said")
        word += f" {stamp} {at[0]:.2f} {at[1]:.2f}"
    return word


def check_message(levels: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """landmarks/status for a page: per level the landmarks, which of them is asked for (from 1, None =
    none), and the verdict."""
    told = {}
    for fields in levels:
        marks: list[dict[str, Any]] = []
        while (name := fields.get(f"landmark {len(marks) + 1}")) is not None:
            n = len(marks) + 1
            mark = {"name": name, "mark": fields.get(f"mark {n}", "")}
            marks.append({**mark, "residual_mm": _number(fields.get(f"residual_mm {n}"))})
        told[fields["level"]] = {
            "state": fields.get("state", ""),
            "text": fields.get("message", ""),
            "next": int(fields["next"]) if fields.get("next") else None,
            "landmarks": marks,
            "mean_mm": _number(fields.get("mean_mm")),
            "limit_mm": _number(fields.get("limit_mm")),
        }
    return {"levels": told}


def _number(text: str | None) -> float | None:
    value = float(text) if text else math.nan
    return round(value, 3) if math.isfinite(value) else None
