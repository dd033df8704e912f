# SPDX-License-Identifier: Apache-2.0
"""Level and side of a planned screw from the name that a person gave it."""

from __future__ import annotations

import re

from .types import LEVELS, Rejected

_SIDES = {"left": "left", "l": "left", "right": "right", "r": "right"}
_SIDE = "left|right|l|r"
_LEVEL = r"(?:th|t|l|s)0?[0-9]{1,2}"
# level and side written together: L1R, leftL1
_GLUED = re.compile(rf"({_LEVEL})({_SIDE})|({_SIDE})({_LEVEL})")
# a screw's size says nothing about where it goes: 6.5x45, 6,5 x 45 mm, 45mm
_SIZE = re.compile(
    r"[0-9]+(?:[.,][0-9]+)?\s*[x×*]\s*[0-9]+(?:[.,][0-9]+)?(?:\s*mm)?|[0-9]+(?:[.,][0-9]+)?\s*mm"
)
_WORDS = re.compile(r"[^\W_]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def read_screw_name(name: str) -> tuple[str, str] | Rejected:
    """(level, side) of a name such as L1_left, "L1 Left", L1R, l1-left, Screw_L1_R or "Left L1".

    Exactly one level and one side must be there; other words are passed over. What could be read
    in two ways is Rejected with the reason.
    """
    levels: list[str] = []
    sides: list[str] = []
    tokens = [t for word in _WORDS.findall(_SIZE.sub(" ", name)) for t in _split(word)]
    previous = ""
    for i, token in enumerate(tokens):
        if re.fullmatch(_LEVEL, token):
            levels.append(_level(token))
        elif token in _SIDES:
            sides.append(_SIDES[token])
        elif token.isdigit():
            # a running number is plain at the start or after the side; "L 1" and "L4-5" are not
            if i > 0 and (previous not in ("left", "right", "r") or not levels):
                return Rejected(f"the number {token} in it may belong to a level")
        elif any(c.isdigit() for c in token):
            return Rejected(f"'{token}' is no level")
        previous = token
    unknown = [level for level in levels if level not in LEVELS]
    if unknown:
        return Rejected(f"level {unknown[0]} is unknown")
    if len(set(levels)) != 1 or len(set(sides)) != 1:
        return Rejected(f"it names {_list(levels, 'level')} and {_list(sides, 'side')}")
    return levels[0], sides[0]


def _split(word: str) -> list[str]:
    """Lower-case tokens of a word: LeftL1, L1R and L1Left fall apart, others stay whole."""
    glued = _GLUED.fullmatch(word.lower())
    if glued:
        return [part for part in glued.groups() if part]
    return [token.lower() for token in _CAMEL.split(word)]


def _level(token: str) -> str:
    match = re.fullmatch(r"(th|t|l|s)0?([0-9]{1,2})", token)
    assert match is not None
    return f"{match[1][0].upper()}{int(match[2])}"


def _list(found: list[str], what: str) -> str:
    return " and ".join(dict.fromkeys(found)) or f"no {what}"
