# SPDX-License-Identifier: Apache-2.0
"""What others read without this software: poses as TUM and CSV, pictures and a film of a session.

Pictures are the recorded images with what was published of them, drawn by the live overlay's own
function with the plan that held then.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rod_bending_ar.core.text import Colour, draw_text, text_size
from rod_bending_ar.overlay import draw_overlay
from spine_nav_common.core.frames import rgbd_frame
from spine_nav_common.core.geometry import q_xyzw_from_rotation
from spine_nav_common.core.live_plan import read_state
from spine_nav_common.core.outputs import POSE_COLUMNS, POSES, pose_fields
from spine_nav_common.core.png import png_bytes
from spine_nav_common.core.rectify import RgbdRectifier
from spine_nav_common.core.tables import Table
from spine_nav_common.core.types import Case, Status

from .session_folder import SessionError
from .session_reading import PictureReader, Session

FILM, FPS = "session.mp4", 15.0
STANDS_S = 0.5
"""A picture of a film that is older than this is not shown any more, as on the page."""
_CODECS = ("vp09", "mp4v")  # the first plays in browsers too


@dataclass(frozen=True)
class Drawn:
    """A recorded image with its guidance. image (H, W, 3) uint8 RGB; at_s: since the session began, by
    the recorder's receipt of its result; tracked: levels."""

    stamp_ns: int
    at_s: float
    image: np.ndarray
    tracked: tuple[str, ...]


def write_tum(session: Session, out: Path) -> list[Path]:
    """One file per level with the poses that were shown as tracked, one a line: stamp in s, then
    T_camera_ct as translation in m and quaternion x y z w, as TUM's and evo's tools read it."""
    lines: dict[str, list[str]] = {}
    for stamp_ns, (_, result) in sorted(session.shown.items()):
        for e in result.levels:
            rows = lines.setdefault(e.level, [])
            if e.status is Status.TRACKED and e.T_camera_ct is not None:
                q = q_xyzw_from_rotation(e.T_camera_ct[:3, :3])
                values = " ".join(f"{v:.9f}" for v in (*e.T_camera_ct[:3, 3], *q))
                rows.append(f"{stamp_ns // 10**9}.{stamp_ns % 10**9:09d} {values}\n")
    files = []
    for level, rows in lines.items():
        files.append(out / f"{level}.tum")
        head = f"# {level}: T_camera_ct while tracked; timestamp tx ty tz qx qy qz qw (s, m)\n"
        files[-1].write_text(head + "".join(rows), encoding="ascii")
    return files


def write_csv(session: Session, out: Path) -> Path:
    """poses.csv (docs/contracts.md, section 4) of what was published, one row per level and frame."""
    with closing(Table(out / POSES, POSE_COLUMNS)) as table:
        for _, (_, result) in sorted(session.shown.items()):
            table.append([pose_fields(result.stamp_ns, e, None) for e in result.levels])
    return out / POSES


def drawn(
    session: Session, case: Case, only: Collection[int] | None = None, scale: int = 1
) -> Iterator[Drawn]:
    """The frames that the navigation worked on, in their order, as the overlay shows them.

    only: stamps; None = all. Frames whose pictures are not in the record are left out.

    Raises SessionError: another case, or no pictures at all.
    """
    recorded = (session.manifest.get("case") or {}).get("sha256")
    if case.sha256 != recorded:
        raise SessionError(session.folder, "case", "recorded with another case", "give its own")
    reader, rectify = PictureReader(session, only=only), RgbdRectifier()
    plans = [(log_ns, read_state(text).of(case)) for log_ns, text in session.plans]
    times = [log_ns for log_ns, _ in plans]
    start_ns = int(session.manifest["started_ns"])
    for noted in (n for life in session.lives for n in life):
        entry = noted.frame
        if entry is None or (only is not None and entry.stamp_ns not in only):
            continue
        pictures = reader.fetch(noted)
        if isinstance(pictures, str):
            continue
        frame = rgbd_frame(entry.stamp_ns, pictures.colour, pictures.depth, pictures.info, rectify)
        log_ns, result = session.shown.get(entry.stamp_ns, (noted.log_ns, None))
        now = bisect.bisect_right(times, log_ns) - 1
        planned = (plans[now][1] if now >= 0 else None) or case
        image = draw_overlay(
            frame.colour, frame.intrinsics, planned, result, frame.depth_m,
            stamp_ns=frame.stamp_ns, note="" if result else "nothing was published", scale=scale,
        )  # fmt: skip
        tracked = (
            tuple(e.level for e in result.levels if e.status is Status.TRACKED) if result else ()
        )
        yield Drawn(entry.stamp_ns, (log_ns - start_ns) * 1e-9, image, tracked)


def write_screenshots(
    session: Session, case: Case, out: Path, stamps: Collection[int]
) -> list[Path]:
    """A PNG of each of these frames, named by its stamp."""
    files = []
    for picture in drawn(session, case, set(stamps), scale=2):
        files.append(out / f"{picture.stamp_ns}.png")
        files[-1].write_bytes(png_bytes(_captioned(picture)))
    return files


def write_film(
    session: Session,
    case: Case,
    out: Path,
    fps: float = FPS,
    progress: Callable[[int], None] = lambda count: None,
) -> Path:
    """session.mp4 at the session's own pace. Where no picture came for STANDS_S the film says so.

    Raises SessionError: nothing to show, another case, or no codec.
    """
    path, film, count = out / FILM, None, 0
    last: Drawn | None = None
    first_s = 0.0
    try:
        for picture in drawn(session, case):
            if film is None or last is None:
                height, width = picture.image.shape[:2]
                film = _open_film(path, fps, (width, height))
                first_s = picture.at_s
            else:
                count = _hold(film, last, picture.at_s, first_s, fps, count)
                progress(count)
            last = picture
        if film is None or last is None:
            raise SessionError(session.folder, "", "no frame with pictures", "nothing to film")
        _hold(film, last, last.at_s + 1.0 / fps, first_s, fps, count)
    finally:
        if film is not None:
            film.release()
    return path


def _hold(film: Any, picture: Drawn, until_s: float, first_s: float, fps: float, count: int) -> int:
    """Show a picture until the next one comes, or until it is too old; how many were shown by now."""
    end = math.ceil((until_s - first_s) * fps - 1e-6)
    image = cv2.cvtColor(_captioned(picture), cv2.COLOR_RGB2BGR)
    covered = None
    while count < end:
        if first_s + count / fps - picture.at_s > STANDS_S:
            if covered is None:
                covered = np.full_like(image, 24)
                _write(covered, "NO PICTURE", (255, 255, 255))
            film.write(covered)
        else:
            film.write(image)
        count += 1
    return count


def _open_film(path: Path, fps: float, size: tuple[int, int]) -> Any:
    for codec in _CODECS:
        film = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), fps, size)  # type: ignore[attr-defined]
        if film.isOpened():
            return film
    raise SessionError(
        path, "", "cannot be written as a film", "is there room, and OpenCV's FFmpeg?"
    )


def _captioned(picture: Drawn) -> np.ndarray:
    image = picture.image.copy()
    _write(image, f"{picture.at_s:.2f} s  frame {picture.stamp_ns}", (255, 255, 255))
    return image


def _write(image: np.ndarray, text: str, colour: Colour) -> None:
    """Above the notice at the lower edge."""
    size = max(11, image.shape[0] // 40)
    y = round(0.94 * image.shape[0]) - size
    image[y : y + round(1.5 * size), : text_size(text, size)[0] + size] = 0
    draw_text(image, text, size // 2, y + 2, size, colour)
