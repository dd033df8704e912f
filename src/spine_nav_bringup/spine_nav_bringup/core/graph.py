# SPDX-License-Identifier: Apache-2.0
"""The nodes of the graph and what sets each use case apart; without ROS, for CLI and YAML alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# In order of start: who consumes is there before who produces.
NODES = ("navigation", "case_server", "overlay", "camera_source")

USE_CASES: dict[str, dict[str, dict[str, Any]]] = {
    "virtual": {
        "navigation": {"max_stamp_age_ms": 1000.0},
        "camera_source": {"source": "virtual"},
    },
    "replay": {
        "camera_source": {"source": "replay"},
    },
    "realsense": {
        "navigation": {"max_stamp_age_ms": 500.0},
        "camera_source": {"source": "realsense"},
    },
    # Somebody else publishes the camera's topics: there is no camera_source node.
    "ros": {"navigation": {}},
}


def use_case_values(
    use_case: str, *layers: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Dotted values per node: the use case's own, then each layer over the ones before."""
    nodes = NODES if use_case != "ros" else NODES[:-1]
    values: dict[str, dict[str, Any]] = {node: {} for node in nodes}
    for layer in (USE_CASES[use_case], *layers):
        for node, given in layer.items():
            if node in values:
                values[node].update(given)
    return values
