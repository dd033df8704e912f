# SPDX-License-Identifier: Apache-2.0
"""The fixed transforms of a /tf_static message."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from spine_nav_common.core.static_frames import StaticTransform, static_transform


def static_edges(
    message: Any, on_bad: Callable[[str], None] = lambda text: None
) -> Iterator[StaticTransform]:
    """Those that are rigid transforms; on_bad hears of others, which may be another robot's."""
    for item in message.transforms:
        t, q = item.transform.translation, item.transform.rotation
        parent, child = item.header.frame_id, item.child_frame_id
        try:
            yield static_transform(
                parent, child, (t.x, t.y, t.z), (q.x, q.y, q.z, q.w), "/tf_static"
            )
        except ValueError as error:
            on_bad(f"/tf_static: {child}: {error}")
