# SPDX-License-Identifier: Apache-2.0
"""Parameters of the supervisor."""

from __future__ import annotations

from dataclasses import dataclass

from spine_nav_common.parameters import param


@dataclass(frozen=True)
class SupervisorConfig:
    """Parameters of the supervisor."""

    nodes: tuple[str, ...] = param(
        ("navigation", "case_server", "overlay", "camera_source"), "nodes in order of start"
    )
    optional: tuple[str, ...] = param(
        (
            "case_server",
            "overlay",
            "stereo_tracker",
            "rod_guidance",
            "stereo_overlay",
            "display",
            "openigtlink",
            "foxglove",
            "safety",
            "session_recorder",
        ),
        "nodes that the operation goes on without; a tracker that is alone is never one of them",
    )
    autostart: bool = param(True, "bring the nodes up at once")
    exit_on_failure: bool = param(False, "end with exit code 1 when a required node has failed")
    late_ms: float = param(
        700.0, "a node without heartbeat for this long hangs: what it shows is withdrawn", "ms",
        400.0, 10000.0,
    )  # fmt: skip
    hang_s: float = param(
        2.5, "a node that hangs for this long, waiting for a core not counted, is ended, to be started again;"
        " 0 = never", "s",
        0.0, 600.0,
    )  # fmt: skip
    timeout_s: float = param(
        120.0,
        "when nothing moves for this long on the way up, a node has failed",
        "s",
        1.0,
        3600.0,
    )

    def is_required(self, name: str) -> bool:
        """Whether the operation needs a node."""
        alone = name == "stereo_tracker" and "navigation" not in self.nodes
        return alone or name not in self.optional
