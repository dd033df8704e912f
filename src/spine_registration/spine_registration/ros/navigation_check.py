# SPDX-License-Identifier: Apache-2.0
"""The surgeon's landmark check in the graph: words in, landmarks/status out (core/check.py)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PointStamped
from sensor_msgs.msg import CameraInfo

from spine_nav_common.core.images import decode_camera_info
from spine_nav_common.core.types import Case, NavigationResult, Rejected, RgbdFrame
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import header, stamp_to_ns
from spine_nav_common.ros.results import key_values

from ..core import check as core

_KEPT = 45  # frames: a finger is slower than the camera
_POINTER_NS = 100_000_000  # a pointer's touch belongs to the frame that is nearest, if this near
_LEVELS = {
    "open": DiagnosticStatus.OK,
    "passed": DiagnosticStatus.OK,
    "failed": DiagnosticStatus.ERROR,
    "ended": DiagnosticStatus.WARN,
}


@dataclass(frozen=True)
class _Seen:
    frame: RgbdFrame
    result: NavigationResult
    info: CameraInfo


@dataclass(frozen=True)
class _Told:
    """What is published of a level: `state` one of _LEVELS."""

    state: str
    text: str
    check: core.Check
    verdict: core.Verdict | None = None


class LandmarkChecks:
    """One check at a time. Every method but `note` is called on the executor's thread.

    A check is of one registration: where the pose was begun anew since, whatever for, nothing that
    was touched counts any more, and nothing that passed stays passed.

    Args:
        advertise: SpineNode.advertise of the node.
        case: what is checked.
        click95_mm, pointer95_mm: see Touch.own95_mm.
        withhold: takes levels from view, with the reasons.
        renewed: lets the executor call `renew`.
    """

    def __init__(
        self,
        advertise: Callable[..., Any],
        case: Case,
        click95_mm: float,
        pointer95_mm: float,
        withhold: Callable[[dict[str, str]], None],
        renewed: Callable[[], None],
    ) -> None:
        self._publisher = advertise(DiagnosticArray, topics.CHECK, qos.LATCHED)
        self._case, self._withhold, self._renewed = case, withhold, renewed
        self._registration = 0
        self._click95_mm, self._pointer95_mm = click95_mm, pointer95_mm
        self._told: dict[str, _Told] = {}
        self._open: core.Check | None = None
        self._seen: deque[_Seen] = deque(maxlen=_KEPT)

    def note(
        self, frame: RgbdFrame, result: NavigationResult, info: CameraInfo, registration: int
    ) -> None:
        """A frame was solved; kept only while somebody checks. In the worker's thread.

        registration: how often the pose was begun from scratch. info: of the image as it came.
        """
        if registration != self._registration:
            self._registration = registration
            self._seen.clear()
            self._renewed()
        if self._open is not None:
            self._seen.append(_Seen(frame, result, info))

    def renew(self) -> None:
        """The pose was begun anew. What failed stays so: it is not shown until `register`."""
        for level, told in self._told.items():
            if told.state == "passed":
                text = "registered anew since it was checked; check again"
                self._told[level] = _Told("ended", text, replace(told.check, touches={}))
        if self._open is not None and self._open.touches:
            self._end("registered anew; begin again")
        self.publish()

    def forget(self) -> None:
        """A new registration: what was checked was another pose."""
        self._told, self._open = {}, None
        self._seen.clear()
        self.publish()

    def command(self, text: str) -> str | Rejected:
        """See NavigationConfig.landmark_check. What was done, in words."""
        verb, *rest = text.split()
        level = rest[0] if rest else ""
        if verb == "begin" and len(rest) == 1:
            return self._begin(level)
        if self._open is None or self._open.level != level:
            return Rejected(f"no check of {level or 'a level'} is open; begin one")
        try:
            if verb == "undo" and len(rest) == 1:
                return self._go_on(core.undo(self._open), "taken back")
            if verb == "end" and len(rest) == 1:
                return self._end("ended by the surgeon")
            if verb == "skip" and len(rest) == 2:
                return self._asked(int(rest[1])) or self._go_on(core.skip(self._open), "skipped")
            if verb == "touch" and len(rest) == 5:
                number, stamp_ns, u, v = int(rest[1]), int(rest[2]), float(rest[3]), float(rest[4])
                return self._asked(number) or self._click(stamp_ns, u, v)
        except ValueError:
            pass
        return Rejected(f"'{text[:80]}' is no word of a landmark check")

    def pointer(self, message: PointStamped) -> str | Rejected:
        """A tracked pointer touched the landmark that is asked for."""
        if self._open is None:
            return Rejected("no landmark check is open")
        stamp_ns = stamp_to_ns(message.header.stamp)
        near = min(self._seen, key=lambda s: abs(s.result.stamp_ns - stamp_ns), default=None)
        if near is None or abs(near.result.stamp_ns - stamp_ns) > _POINTER_NS:
            return Rejected("no frame was solved at the time of the pointer's touch")
        if message.header.frame_id != near.frame.frame_id:
            return Rejected(
                f"the pointer's tip is given in '{message.header.frame_id}'; give it in"
                f" '{near.frame.frame_id}', where the camera sees the bone"
            )
        p = message.point
        return self._touched(np.array((p.x, p.y, p.z)), self._pointer95_mm, near.result)

    def _begin(self, level: str) -> str | Rejected:
        found = core.begin(self._case, level)
        if isinstance(found, Rejected):
            return found
        if self._open is not None and self._open.level != level:
            self._end(f"given up for {level}")
        self._seen.clear()
        return self._go_on(found, "begun")

    def _asked(self, number: int) -> Rejected | None:
        """Whoever touches must mean the landmark that is asked for now."""
        at = None if self._open is None else self._open.next
        if at is None or number != at + 1:
            return Rejected("another landmark is asked for by now; look again")
        return None

    def _click(self, stamp_ns: int, u: float, v: float) -> str | Rejected:
        seen = next((s for s in self._seen if s.result.stamp_ns == stamp_ns), None)
        if seen is None:
            return Rejected(
                "the navigation has no poses of the picture that was clicked; click again"
            )
        u, v = decode_camera_info(seen.info).without_distortion(u, v)
        point = core.clicked(seen.frame.depth_m, seen.frame.intrinsics, u, v)
        if isinstance(point, Rejected):
            return point
        return self._touched(point, self._click95_mm, seen.result)

    def _touched(
        self, point_m: np.ndarray, own95_mm: float, result: NavigationResult
    ) -> str | Rejected:
        if self._open is None:
            return Rejected("no landmark check is open")
        if not np.isfinite(point_m).all():
            return Rejected("the point that was touched is not finite")
        return self._go_on(core.touch(self._open, point_m, own95_mm, result), "touched")

    def _go_on(self, check: core.Check | Rejected, done: str) -> str | Rejected:
        if isinstance(check, Rejected):
            return check
        self._open = check
        if check.next is None:
            return self._judge(check)
        asked = check.landmarks[check.next].name
        self._told[check.level] = _Told("open", f"touch the {asked}", check)
        self.publish()
        return f"{check.level}: {done}; now the {asked}"

    def _judge(self, check: core.Check) -> str | Rejected:
        verdict = core.judge(check, self._case)
        if isinstance(verdict, Rejected):
            return self._end(verdict.reason)
        self._open = None
        self._seen.clear()
        if reasons := core.withheld(verdict, self._case):
            self._withhold(reasons)
        state = "passed" if verdict.passed else "failed"
        self._told[check.level] = _Told(state, verdict.text, check, verdict)
        self.publish()
        return f"{check.level} {verdict.text}"

    def _end(self, why: str) -> str:
        if self._open is not None:
            self._told[self._open.level] = _Told("ended", why, self._open)
        self._open = None
        self._seen.clear()
        self.publish()
        return why

    def publish(self) -> None:
        """Tell every check; at the start too, that nobody takes the word of a process before."""
        stamp_ns = max(
            (t.stamp_ns for k in self._told.values() for t in k.check.touches.values()), default=0
        )
        status = [_status(level, told) for level, told in self._told.items()]
        self._publisher.publish(DiagnosticArray(header=header(stamp_ns, ""), status=status))


def _status(level: str, told: _Told) -> DiagnosticStatus:
    """`landmark N` names, `mark N` is `touched`, `skipped` or empty; of a verdict `residual_mm N`,
    `mean_mm`, `limit_mm`, `resembles`."""
    check, verdict = told.check, told.verdict
    at = check.next if told.state == "open" else None
    values = {"level": level, "state": told.state, "next": "" if at is None else str(at + 1)}
    for n, landmark in enumerate(check.landmarks, 1):
        name = landmark.name
        values[f"landmark {n}"] = name
        values[f"mark {n}"] = "touched" if name in check.touches else ""
        if name in check.skipped:
            values[f"mark {n}"] = "skipped"
        if verdict is not None and name in verdict.residual_mm:
            values[f"residual_mm {n}"] = f"{verdict.residual_mm[name]:.3f}"
    if verdict is not None:
        values |= {
            "mean_mm": f"{verdict.mean_mm:.3f}",
            "limit_mm": f"{verdict.limit_mm:.3f}",
            "resembles": verdict.resembles,
        }
    return DiagnosticStatus(
        level=_LEVELS[told.state], name=f"landmark check of {level}", message=told.text,
        values=key_values(values),
    )  # fmt: skip
