# SPDX-License-Identifier: Apache-2.0
"""`spinenav calibrate intrinsics` and `stereo`: images of a board to a file and a picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from spine_nav_common.core.camera_calibration import CameraCalibration, write_camera_calibration
from spine_nav_common.core.errors import InputError
from spine_nav_common.core.progress import Progress
from spine_nav_common.core.types import Rejected
from spine_perception.core.boards import BoardFinder, BoardView, board_spec
from spine_perception.core.calibrate_camera import CameraFound, calibrate_camera
from spine_perception.core.calibrate_stereo import NamedPair, StereoFound, calibrate_stereo
from spine_perception.core.coverage import Stream, Trouble, covered, missing
from spine_perception.core.lens import NamedView

from .board_images import BoardImage, board_images
from .calibrate_picture import draw_residuals


@dataclass
class _Seen:
    """What was seen so far; size: (width, height)."""

    finder: BoardFinder
    views: list[tuple[NamedView, ...]] = field(default_factory=list)
    dropped: list[Trouble] = field(default_factory=list)
    stream: Stream = field(default_factory=Stream)
    size: tuple[int, int] = (0, 0)

    def add(self, image: BoardImage) -> None:
        """Look for the board; a stream gives a view only where the board rests and is elsewhere."""
        self.size = image.eyes[0].shape[1], image.eyes[0].shape[0]
        eyes = image.eyes
        found = self.finder.find_pair(*eyes) if len(eyes) == 2 else (self.finder.find(*eyes),)
        for name, one in zip(("left eye: ", "right eye: ") if len(eyes) == 2 else ("",), found):
            if isinstance(one, Rejected):
                self.dropped.append(Trouble(image.name, name + one.reason))
                return
        boards = [one for one in found if isinstance(one, BoardView)]
        if image.moving and not self.stream.takes(boards[0], self.size[0]):
            return
        self.views.append(tuple(NamedView(image.name, b) for b in boards))

    def told(self) -> str:
        """For the line of progress."""
        if not self.views:
            return "no view of the board yet"
        seen = covered((v[0].board.corners_px + 0.5) / self.size for v in self.views)
        return f"{len(self.views)} views of the board, show it at the {missing(seen)}"


def calibrate_lens(
    what: str,
    source: Path,
    board: str,
    out: Path,
    *,
    model: str = "",
    baseline_mm: float | None = None,
    serial: str = "",
    days: int = 180,
    temperature_c: float | None = None,
    remap: Path | None = None,
    progress: Progress | None = None,
) -> CameraCalibration:
    """Calibrate one camera (what: `intrinsics`) or a pair (`stereo`), and write file and picture.

    Raises InputError: images or views do not suffice, with what to show. ParameterError: the board is
    not described.
    """
    spec = board_spec(board)
    seen = _Seen(BoardFinder(spec))
    for number, image in enumerate(
        board_images(source, stereo=what == "stereo", remap=remap), start=1
    ):
        seen.add(image)
        if progress is not None:
            progress(number, None, seen.told())
    more: dict[str, Any] = {
        "today": datetime.now(timezone.utc).date(), "model": model, "serial": serial, "days": days,
        "temperature_c": temperature_c,
    }  # fmt: skip
    found: CameraFound | StereoFound | Rejected
    if what == "stereo":
        pairs = [NamedPair(v[0].name, *v) for v in seen.views]
        found = calibrate_stereo(
            pairs, seen.dropped, seen.size, str(spec), baseline_mm=baseline_mm, **more
        )
    else:
        found = calibrate_camera(
            [v[0] for v in seen.views], seen.dropped, seen.size, str(spec), **more
        )
    if isinstance(found, Rejected):
        raise InputError(source, "board", found.reason, "and calibrate again")
    written = write_camera_calibration(out, found.calibration)
    draw_residuals(out.with_suffix(".png"), found)
    return written


def told_lens(c: CameraCalibration) -> str:
    """A few lines for a reader at the terminal."""
    t = c.told
    px, mm = t["held_out_px"], t["held_out_mm"]
    k = c.cameras[0]
    count = t.get("pairs", t.get("views"))
    lines = [
        (
            f"{count} {'pairs' if c.kind == 'stereo' else 'views'} of {k.width}x{k.height}, lens {t['model']}:"
            f" fx {k.K[0, 0]:.2f}, fy {k.K[1, 1]:.2f}, cx {k.K[0, 2]:.2f}, cy {k.K[1, 2]:.2f}"
        ),
        (
            f"corners of views that took no part: {px['rms']} px off (RMS; median {px['median']}, 95 %"
            f" {px['p95']})"
        ),
    ]
    if c.kind == "stereo":
        lines.append(
            f"baseline {t['baseline_mm']} mm, sigma {t['baseline_sigma_mm']}; rows apart by"
            f" {t['held_out_rows_px']['rms']} px; triangulated corners {mm['rms']} mm off the board"
        )
    else:
        lines.append(f"on the board {mm['rms']} mm; sigma of fx {t['sigma_px']['fx']} px")
    eye = t["left"] if c.kind == "stereo" else t
    lines.append(
        f"the board was shown in {100 * eye['covered']:.0f} % of the image, least at the"
        f" {eye['shown least at']}; valid until {c.expires}"
    )
    return "\n".join(lines + [f"left out: {why}" for why in t["left out"]])
