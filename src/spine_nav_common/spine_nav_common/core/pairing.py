# SPDX-License-Identifier: Apache-2.0
"""Pairs two image streams by their header stamps: colour with depth, left with right."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

# A partner that has not come after this many further images will not come; bounds the memory.
HOLD = 30
# A hand-held camera at 80 mm/s moves 0.4 mm in this time, several millimetres of depth in a pair.
STEREO_SLOP_NS = 5_000_000


@dataclass(frozen=True)
class Pair:
    """A first image and its partner; second is None where none came within the slop."""

    stamp_ns: int
    first: Any
    second: Any | None


@dataclass
class Pairer:
    """Equal stamps pair at once, else the nearest within slop_ns; the first image's stamp rules.

    Pairs leave in order of arrival of their first image. Doubled and late first images are
    counted in `duplicated` and `late` and give no pair; `reasons` counts unused second images.
    """

    slop_ns: int
    names: tuple[str, str] = ("colour", "depth")
    duplicated: int = 0
    late: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    _seen: set[int] = field(default_factory=set)
    _newest: int = -1
    _newest_second: int = -1
    _waiting: deque[tuple[int, Any]] = field(default_factory=deque)
    _seconds: dict[int, Any] = field(default_factory=dict)

    def add_first(self, stamp_ns: int, item: Any) -> None:
        """Take a first image; a doubled or late one is only counted."""
        if stamp_ns in self._seen:
            self.duplicated += 1
        elif stamp_ns < self._newest:
            self.late += 1
        else:
            self._seen.add(stamp_ns)
            self._newest = stamp_ns
            self._waiting.append((stamp_ns, item))

    def add_second(self, stamp_ns: int, item: Any) -> None:
        """Take a second image."""
        if stamp_ns in self._seconds:
            self.reasons[f"{self.names[1]} image doubled"] += 1
            return
        self._newest_second = max(self._newest_second, stamp_ns)
        self._seconds[stamp_ns] = item
        if len(self._seconds) > HOLD:
            self._drop(min(self._seconds))

    def ready(self, end: bool = False) -> list[Pair]:
        """Pairs that are decided; with `end` all that remain."""
        pairs: list[Pair] = []
        while self._waiting:
            stamp_ns, item = self._waiting[0]
            match = stamp_ns if stamp_ns in self._seconds else None
            if match is None:
                undecided = self._newest_second <= stamp_ns + self.slop_ns
                if undecided and not end and len(self._waiting) <= HOLD:
                    break
                near = min(self._seconds, key=lambda s: (abs(s - stamp_ns), s), default=None)
                if near is not None and abs(near - stamp_ns) <= self.slop_ns:
                    match = near
            self._waiting.popleft()
            second = None if match is None else self._seconds.pop(match)
            pairs.append(Pair(stamp_ns, item, second))
            for old in [s for s in self._seconds if s < stamp_ns - self.slop_ns]:
                self._drop(old)
        if end:
            for old in list(self._seconds):
                self._drop(old)
        return pairs

    def _drop(self, stamp_ns: int) -> None:
        del self._seconds[stamp_ns]
        self.reasons[f"{self.names[1]} image without {self.names[0]}"] += 1
