# SPDX-License-Identifier: Apache-2.0
"""The options of `spinenav live` for those who look at it: page and bridges."""

from __future__ import annotations

import argparse
from typing import Any

from spine_nav_display.core.binding import DEFAULT_PORT, FOXGLOVE_PORT, IGTL_PORT


def _port(text: str) -> int:
    port = int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port; give 0 to 65535")
    return port


def add_viewer_options(live: argparse.ArgumentParser) -> None:
    """Who looks, and where they are served."""
    live.add_argument("--display", action="store_true", help="serve the surgeon's page")
    live.add_argument(
        "--port", type=_port, metavar="N", help=f"of the page (default: {DEFAULT_PORT}; 0: any)"
    )
    live.add_argument(
        "--openigtlink", action="store_true",
        help="serve poses, models and plan to 3D Slicer, and take edits of the plan from it",
    )  # fmt: skip
    live.add_argument(
        "--igtl-port", type=_port, metavar="N",
        help=f"of OpenIGTLink (default: {IGTL_PORT}, pictures one above; 0: any)",
    )  # fmt: skip
    live.add_argument(
        "--foxglove", action="store_true", help="serve the graph's topics to Foxglove"
    )
    live.add_argument(
        "--foxglove-port", type=_port, metavar="N",
        help=f"of Foxglove (default: {FOXGLOVE_PORT}, with pictures one above; 0: any)",
    )  # fmt: skip
    live.add_argument(
        "--safety", action="store_true",
        help="watch the planned screws by the poses' covariance: planning/safety, service replan",
    )  # fmt: skip


def viewer_values(args: argparse.Namespace) -> dict[str, Any]:
    """For LiveOptions."""
    names = ("display", "port", "openigtlink", "igtl_port", "foxglove", "foxglove_port", "safety")
    return {name: getattr(args, name) for name in names}
