# SPDX-License-Identifier: Apache-2.0
"""Parameters of the OpenIGTLink bridge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from spine_nav_common.parameters import ParameterError, param
from spine_nav_display.core.binding import DEFAULT_HOST, IGTL_PORT, try_port
from spine_nav_display.igtl_server import check_address, taken_port


@dataclass(frozen=True)
class OpenIgtLinkConfig:
    """Parameters of the openigtlink node."""

    case: str = param("", "folder of the case")
    host: str = param(
        DEFAULT_HOST, "address to serve at; any but this machine's own needs allow_network"
    )
    port: int = param(
        IGTL_PORT, "port of poses, models, plan and words; 0 = any that is free", low=0, high=65535
    )  # fmt: skip
    allow_network: bool = param(
        False, "serve others than this machine: OpenIGTLink has no authentication and no encryption"
    )
    image_hz: float = param(
        2.0, "pictures of the overlay, on a port of their own; 0 = none", "Hz", 0.0, 15.0
    )
    image_port: int = param(
        IGTL_PORT + 1, "port of the pictures; 0 = any that is free", low=0, high=65535
    )
    silence_ms: float = param(
        700.0, "without a result for this long, no level counts as tracked", "ms", 50.0, 10000.0
    )
    edit_ms: float = param(
        400.0, "an edit of the plan counts when its points have not moved for this long", "ms",
        0.0, 10000.0,
    )  # fmt: skip
    faces: int = param(2500, "triangles sent per vertebra", low=100, high=100000)


def check_openigtlink(values: Mapping[str, object]) -> None:
    """The bridge's parameters before its node is started. Raises ParameterError."""
    host = str(values.get("host", DEFAULT_HOST))
    check_address(host, bool(values.get("allow_network", False)))
    ports = {"port": values.get("port", IGTL_PORT)}
    if values.get("image_hz", 1.0):
        ports["image_port"] = values.get("image_port", IGTL_PORT + 1)
    for name, port in ports.items():
        try:
            try_port(host, int(str(port)))
        except (OSError, OverflowError) as error:
            raise ParameterError(taken_port(name, host, int(str(port)), error)) from error
