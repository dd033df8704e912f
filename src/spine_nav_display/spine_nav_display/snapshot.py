# SPDX-License-Identifier: Apache-2.0
"""A snapshot: the newest picture of each camera and what was known at that time."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from .pictures import Packed


def write_snapshot(
    folder: Path | None, pictures: Mapping[str, Packed], states: Mapping[str, str]
) -> tuple[bool, str]:
    """Write `<time>_<camera>.jpg` and `<time>.json`; whether it was done, and words."""
    if folder is None:
        return False, "no folder for snapshots was given"
    if not pictures:
        return False, "there is no picture yet"
    name = (
        time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + f"_{time.time_ns() // 1_000_000 % 1000:03d}"
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for camera, picture in pictures.items():
            (folder / f"{name}_{camera}.jpg").write_bytes(picture.jpeg)
        known = {kind: json.loads(text) for kind, text in states.items()}
        text = json.dumps(known, indent=1, allow_nan=False)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        return False, f"the snapshot cannot be written: {error}"
    return True, f"snapshot {name} written"
