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
# A jump of the stamps by more is a clock that was set, or one broken stamp; the next image tells.
STEP_NS = 1_000_000_000
_RECENT = 64  # stamps among which a doubled image is looked for


@dataclass(frozen=True)
class Pair:
    """A first image and its partner; second is None where none came within the slop. epoch: how
    often the stamps had gone back before it: the clock was set."""

    stamp_ns: int
    first: Any
    second: Any | None
    epoch: int = 0


@dataclass
class Pairer:
    """Equal stamps pair at once, else the nearest within slop_ns; the first image's stamp rules.

    Pairs leave in order of arrival of their first image. Doubled and late first images are
    counted in `duplicated` and `late` and give no pair; `reasons` counts unused second images.
    An image whose stamp jumps by more than STEP_NS waits for the next one: if that goes on from
    it, the clock was set or the stream was off; else the stamp was broken (`broken` counts them).
    Stamps that go back are followed only with `follow_back`; a recording's are late for good.
    `apart_ns`: of the newest first images without an equal stamp, the distance to the nearest.
    """

    slop_ns: int
    names: tuple[str, str] = ("colour", "depth")
    duplicated: int = 0
    late: int = 0
    broken: int = 0
    follow_back: bool = False
    apart_ns: deque[int] = field(default_factory=lambda: deque(maxlen=16))
    reasons: Counter[str] = field(default_factory=Counter)
    _seen: deque[int] = field(default_factory=lambda: deque(maxlen=_RECENT))
    _newest: int = -1
    _newest_second: int = -1
    _epoch: int = 0
    _odd: tuple[int, Any] | None = None
    _waiting: deque[tuple[int, Any, int]] = field(default_factory=deque)
    _seconds: dict[int, Any] = field(default_factory=dict)

    def add_first(self, stamp_ns: int, item: Any) -> None:
        """Take a first image; a doubled or late one is only counted."""
        odd, self._odd = self._odd, None
        if odd is not None:
            forward = odd[0] > self._newest
            if odd[0] < stamp_ns and (forward or stamp_ns < self._newest - STEP_NS):
                self._accept(*odd)
            else:
                self.broken += 1
        if stamp_ns in self._seen:
            self.duplicated += 1
        elif stamp_ns < self._newest and not (
            self.follow_back and stamp_ns < self._newest - STEP_NS
        ):
            self.late += 1
        elif self._newest >= 0 and abs(stamp_ns - self._newest) > STEP_NS:
            self._odd = (stamp_ns, item)
        else:
            self._accept(stamp_ns, item)

    def _accept(self, stamp_ns: int, item: Any) -> None:
        if stamp_ns < self._newest:
            self._epoch += 1
            self._seen.clear()
            for old in [s for s in self._seconds if s > stamp_ns + STEP_NS]:
                self._drop(old)
        self._seen.append(stamp_ns)
        self._newest = stamp_ns
        self._waiting.append((stamp_ns, item, self._epoch))

    def add_second(self, stamp_ns: int, item: Any) -> None:
        """Take a second image."""
        if stamp_ns in self._seconds:
            self.reasons[f"{self.names[1]} image doubled"] += 1
            return
        jumped = abs(stamp_ns - self._newest_second) > STEP_NS
        self._newest_second = stamp_ns if jumped else max(self._newest_second, stamp_ns)
        self._seconds[stamp_ns] = item
        if len(self._seconds) > HOLD:
            self._drop(next(iter(self._seconds)))  # the one that came first: stamps may go back

    def ready(self, end: bool = False) -> list[Pair]:
        """Pairs that are decided; with `end` all that remain."""
        if end and self._odd is not None:
            odd, self._odd = self._odd, None
            self._accept(*odd)
        pairs: list[Pair] = []
        while self._waiting:
            stamp_ns, item, epoch = self._waiting[0]
            match = stamp_ns if stamp_ns in self._seconds else None
            if match is None:
                undecided = self._newest_second <= stamp_ns + self.slop_ns
                if undecided and not end and len(self._waiting) <= HOLD:
                    break
                near = min(self._seconds, key=lambda s: (abs(s - stamp_ns), s), default=None)
                if near is not None:
                    self.apart_ns.append(abs(near - stamp_ns))
                    if abs(near - stamp_ns) <= self.slop_ns:
                        match = near
            else:
                self.apart_ns.append(0)
            self._waiting.popleft()
            second = None if match is None else self._seconds.pop(match)
            pairs.append(Pair(stamp_ns, item, second, epoch))
            for old in [s for s in self._seconds if s < stamp_ns - self.slop_ns]:
                self._drop(old)
        if end:
            for old in list(self._seconds):
                self._drop(old)
        return pairs

    def _drop(self, stamp_ns: int) -> None:
        del self._seconds[stamp_ns]
        self.reasons[f"{self.names[1]} image without {self.names[0]}"] += 1
