# SPDX-License-Identifier: Apache-2.0
"""How old an image is, whatever clock its stamp was taken from.

A stamp of this machine's clock tells the age itself. A stamp of another clock (a recording, a
camera that counts from its start) tells by how much the age has grown since the stream was at its
best, unless its source has announced how that clock runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from .clock_drift import ClockDrift

SYSTEM, SIMULATED, RECORDING, SENSOR, UNKNOWN = (
    "system", "simulated", "recording", "sensor", "unknown",
)  # fmt: skip
SAME_NS, SET_NS = 60_000_000_000, 1_000_000_000
"""Stamps farther from this machine's clock are of another one; the second, after a clock was set."""
EPOCH_NS = 1_000_000_000_000_000_000
"""Clocks that show a smaller number (before 2001) count from a start, not from 1970."""
STEP_NS = 500_000_000
"""A clock that is off by more at one stroke was set."""
GUIDANCE_MS = 300.0
"""Guidance of an older image is shown nowhere. At 15 Hz a picture is replaced at an age of 67 ms plus
its way (p99 115 ms, the browser included), so that one that is lost on the way raises no alarm."""
DRIFT = 2e-4
"""Two clocks may run apart by so much without one of them being late."""


@dataclass(frozen=True)
class Announced:
    """What a source says of its clock: at `system_ns` it reads `stamp_ns`, and runs at `rate`."""

    system_ns: int
    stamp_ns: int
    rate: float


class StreamClock:
    """Watches the stamps of one stream.

    Args:
        simulated: `now_ns` is the clock that the stamps are of, whatever it shows.

    Attributes:
        steps: how often the clock was set. step: the last time, in words, "" = never.
    """

    def __init__(self, simulated: bool = False) -> None:
        self._simulated = simulated
        self.announced: Announced | None = None
        self.forget()
        self.steps, self.step = 0, ""

    def forget(self) -> None:
        """Begin anew: the stream was off."""
        self._drift = ClockDrift()
        self._least_ns: float | None = None  # of arrival minus stamp
        self._last: tuple[int, float] | None = None  # stamp, monotonic seconds

    def note(self, stamp_ns: int, now_ns: int, monotonic_s: float) -> str:
        """An image has arrived. Returns what happened to its clock in words, or ""."""
        offset = float(now_ns - stamp_ns)
        told = ""
        if self._last is not None:
            stamp, then = self._last
            elapsed = (monotonic_s - then) * 1e9
            ahead = stamp_ns - stamp - elapsed
            # A late image arrives late and never goes back; images that catch up win what was lost.
            caught_up = self._least_ns is not None and offset >= self._least_ns - STEP_NS
            if stamp_ns < stamp or (ahead > STEP_NS and not caught_up and self._rate == 1.0):
                told = f"the camera's clock was set {'back' if ahead < 0 else 'on'} by"
                told += f" {abs(ahead) * 1e-9:.1f} s"
                self.steps, self.step, self._least_ns = self.steps + 1, told, None
                self._drift.forget()
            elif self._least_ns is not None:
                self._least_ns += DRIFT * elapsed
        self._last = stamp_ns, monotonic_s
        self._drift.note(stamp_ns, monotonic_s)
        self._least_ns = offset if self._least_ns is None else min(self._least_ns, offset)
        return told

    @property
    def drift_ppm(self) -> float | None:
        """By how much the stamps' clock is fast against this machine's, in 1e-6; None before 20 s, and
        where the source plays a recording or time is simulated."""
        played = self._simulated or self.announced is not None
        return None if played else self._drift.ppm

    @property
    def _rate(self) -> float:
        return 1.0 if self.announced is None else self.announced.rate

    @property
    def domain(self) -> str:
        """Whose clock the stamps are of: system, simulated, recording, sensor, unknown."""
        if self._simulated:
            return SIMULATED
        if self.announced is not None:
            return RECORDING
        if self._least_ns is None or self._last is None:
            return UNKNOWN
        # A clock that was seen to be set, and disagrees since, is not this machine's.
        if abs(self._least_ns) <= (SET_NS if self.steps else SAME_NS):
            return SYSTEM
        return RECORDING if self._last[0] >= EPOCH_NS and not self.steps else SENSOR

    def age_ms(self, stamp_ns: int, now_ns: int) -> float:
        """Age of an image in ms of its own clock; of an unannounced other clock, the age beyond
        that of the freshest image so far. inf before the first image, and in simulated time that
        nobody publishes."""
        if self._simulated:
            return (now_ns - stamp_ns) * 1e-6 if now_ns > 0 else float("inf")
        if self.announced is not None:
            a = self.announced
            return (a.stamp_ns + (now_ns - a.system_ns) * a.rate - stamp_ns) * 1e-6
        if self._least_ns is None:
            return float("inf")
        grown = now_ns - stamp_ns - self._least_ns
        # A camera whose clock is a little ahead would hide its age: then the growth tells it.
        direct = now_ns - stamp_ns if self.domain == SYSTEM else grown
        return float(max(grown, direct)) * 1e-6
