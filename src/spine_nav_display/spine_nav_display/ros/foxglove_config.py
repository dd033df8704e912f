# SPDX-License-Identifier: Apache-2.0
"""Parameters of the Foxglove bridge."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass

from spine_nav_common.parameters import ParameterError, param
from spine_nav_display.core.binding import DEFAULT_HOST, FOXGLOVE_PORT, is_loopback, try_port

MISSING = "foxglove-sdk is not installed: pip install 'foxglove-sdk>=0.30', or run make setup"


@dataclass(frozen=True)
class FoxgloveConfig:
    """Parameters of the foxglove node."""

    case: str = param("", "folder of the case, whose exposed levels' poses are served")
    host: str = param(
        DEFAULT_HOST, "address to serve at; any but this machine's own needs allow_network"
    )
    port: int = param(
        FOXGLOVE_PORT, "port of all but pictures; 0 = any that is free", low=0, high=65535
    )
    picture_port: int = param(
        FOXGLOVE_PORT + 1, "port of all with pictures; 0 = any that is free", low=0, high=65535
    )
    allow_network: bool = param(
        False, "serve others than this machine: there is no authentication and no encryption"
    )
    backlog: int = param(
        64, "messages that wait for a client; then the oldest goes", low=8, high=4096
    )


def check_foxglove(values: Mapping[str, object]) -> None:
    """The bridge's parameters before its node is started. Raises ParameterError."""
    if importlib.util.find_spec("foxglove") is None:
        raise ParameterError(f"--foxglove: {MISSING}")
    host = str(values.get("host", DEFAULT_HOST))
    if not is_loopback(host) and not values.get("allow_network", False):
        raise ParameterError(
            f"foxglove.host is {host}: whoever reaches the port sees this patient's anatomy; on a"
            " network of your own set foxglove.allow_network=true, or leave the host at 127.0.0.1"
        )
    for name, default in (("port", FOXGLOVE_PORT), ("picture_port", FOXGLOVE_PORT + 1)):
        port = int(str(values.get(name, default)))
        try:
            try_port(host, port)
        except (OSError, OverflowError) as error:
            raise ParameterError(
                f"foxglove.{name}: {host}:{port} cannot be served ({error}); give another port"
                " (--foxglove-port N)"
            ) from error
