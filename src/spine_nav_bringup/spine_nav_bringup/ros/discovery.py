# SPDX-License-Identifier: Apache-2.0
"""Which cameras publish on a graph, by their topics' names: known drivers are found without a remap."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from spine_nav_common.core.known_cameras import complete, recognise
from spine_nav_common.core.roles import ROLES
from spine_nav_common.core.types import Rejected
from spine_nav_common.parameters import ParameterError
from spine_nav_common.ros.runtime import prepare_environment

from ..live_options import LiveOptions

_LOOK_S = 0.2
_SETTLE_S = 1.0  # another camera may be found a moment later, and then it is asked


@dataclass(frozen=True)
class Found:
    """names: canonical topic to the driver's. align: depth is of a camera of its own. told: what was
    chosen, in words."""

    names: dict[str, str] = field(default_factory=dict)
    align: bool = False
    told: tuple[str, ...] = ()


def judge(topics: Collection[str], scenes: Collection[str]) -> Found | Rejected | None:
    """What the published topics mean for the wanted scenes; None: no camera that is known."""
    if any(complete(scene, topics) for scene in scenes):
        names, told = dict.fromkeys(topics), ()
        found: dict[str, str] = {}
    else:
        cameras = recognise(topics, scenes)
        if isinstance(cameras, Rejected):
            return cameras
        if not cameras:
            return None
        found = {k: v for camera in cameras for k, v in camera.remap.items()}
        names, told = dict.fromkeys(found), tuple(camera.told() for camera in cameras)
    own = any(n in names for n in ROLES["own depth"])
    align = own and not any(n in names for n in ROLES["depth"]) and "rgbd" in scenes
    return Found(found, align, told)


def find_cameras(
    scenes: Collection[str], wait_s: float = 4.0, clock: Callable[[], float] = time.monotonic
) -> Found | Rejected:
    """Look for cameras on the graph; where none is found within `wait_s` the canonical names stand."""
    prepare_environment()
    import rclpy
    from rclpy.context import Context
    from rclpy.signals import SignalHandlerOptions

    context = Context()
    rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("spinenav_cameras", context=context)
    try:
        end, since = clock() + wait_s, None
        last: Found | Rejected | None = None
        while clock() < end:
            topics = [t for t, _ in node.get_topic_names_and_types() if node.count_publishers(t)]
            now = judge(topics, scenes)
            if now != last:
                last, since = now, clock()
            elif last is not None and since is not None and clock() - since >= _SETTLE_S:
                break
            time.sleep(_LOOK_S)
        return last or Found()
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


def with_cameras(options: LiveOptions, scenes: tuple[str, ...]) -> LiveOptions:
    """What is published by a known driver is heard under its names, and told. Raises ParameterError: two
    cameras could be meant."""
    found = find_cameras(scenes)
    if isinstance(found, Rejected):
        raise ParameterError(f"--source {options.source}: {found.reason}")
    told = found.told
    if found.align and not options.depth_aligner:
        told += ("depth is of a camera of its own: the node depth_aligner brings it to colour",)
    for words in told:
        print(words, file=sys.stderr)
    aligner = options.depth_aligner or found.align
    return replace(options, names=found.names, depth_aligner=aligner, told=told)
