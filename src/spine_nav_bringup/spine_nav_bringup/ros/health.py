# SPDX-License-Identifier: Apache-2.0
"""Many diagnostics to one traffic light with reasons."""

from __future__ import annotations

import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from spine_nav_common.ros.results import key_values

_SILENT_S = 3.0  # three missed reports at 1 Hz


class HealthBoard:
    """Keeps the newest status of every name and gives the worst of them."""

    def __init__(self) -> None:
        self._newest: dict[str, tuple[float, DiagnosticStatus]] = {}

    def note(self, message: DiagnosticArray) -> None:
        """A message of /diagnostics; statuses of other programs count too if named `…: health`."""
        for status in message.status:
            if status.name.endswith(": health"):
                self._newest[status.name] = (time.monotonic(), status)

    def summary(self, now_s: float, problem: str = "") -> DiagnosticStatus:
        """The worst level, with the reasons of all that are not OK.

        Args:
            now_s: monotonic seconds; a name that is silent for three reports is stale.
            problem: of the caller itself, an error if not empty.
        """
        reasons = [problem] if problem else []
        worst = DiagnosticStatus.ERROR if problem else DiagnosticStatus.OK
        values: dict[str, object] = {}
        for name, (heard_s, status) in sorted(self._newest.items()):
            level, message = status.level, status.message
            if now_s - heard_s > _SILENT_S:
                level, message = DiagnosticStatus.ERROR, f"silent for {now_s - heard_s:.0f} s"
            values[name] = message
            if level != DiagnosticStatus.OK:
                reasons.append(f"{name.split(':')[0].rsplit('/', 1)[-1]}: {message}")
                worst = max(worst, level)
        return DiagnosticStatus(
            level=worst,
            name="spinenav: health",
            message="; ".join(reasons) or "all well",
            values=key_values(values),
        )
