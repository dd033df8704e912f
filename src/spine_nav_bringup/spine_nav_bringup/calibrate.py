# SPDX-License-Identifier: Apache-2.0
"""`spinenav calibrate`: what a camera does, measured on a board, as one file with what is left."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from spine_nav_common.core.depth_calibration import DepthCalibration, write_depth_calibration
from spine_nav_common.core.errors import InputError
from spine_nav_common.core.progress import Progress
from spine_nav_common.core.recorded_messages import load_remap
from spine_nav_common.core.recording import open_recording
from spine_nav_common.core.types import Rejected
from spine_nav_sim.core.board import BoardScene, simulate_board
from spine_perception.core.boards import BoardFinder, board_spec
from spine_perception.core.calibrate_depth import calibrate
from spine_perception.core.coverage import Trouble, covered, missing
from spine_perception.core.depth_views import DepthView, look

BOARD = "charuco:10x7:24:17:DICT_5X5_100"
"""The board of `spinenav simulate --scene board`."""


def simulated_board(out_dir: Path, seed: int, progress: Progress | None = None) -> None:
    """Write out_dir/recording: thirty views of BOARD before a D415 of its own bias. Raises InputError."""
    spec = board_spec(BOARD)
    size = (spec.columns, spec.rows)
    simulate_board(out_dir, BoardScene(spec.board, spec.square_m, size, seed=seed), progress)


def calibrate_depth(
    recording: Path,
    board: str,
    out: Path,
    *,
    serial: str = "",
    days: int = 180,
    remap: Path | None = None,
    progress: Progress | None = None,
) -> DepthCalibration:
    """Measure the bias of a depth camera by a recording of a flat board, and write it.

    Raises InputError: the recording or its views do not suffice, with what to show. ParameterError: the
    board is not described.
    """
    spec = board_spec(board)
    finder = BoardFinder(spec)
    views: list[DepthView] = []
    dropped: list[Trouble] = []
    intrinsics = None
    source = open_recording(recording, load_remap(remap) if remap else None)
    for number, frame in enumerate(source.rgbd_frames(), start=1):
        intrinsics = frame.intrinsics
        seen = look(frame, finder)
        if isinstance(seen, Rejected):
            dropped.append(Trouble(frame.stamp_ns, seen.reason))
        else:
            views.append(seen)
        if progress is not None:
            show = f"{len(views)} views of the board"
            if views:
                show += f", show it at the {missing(covered(v.uv for v in views))}"
            progress(number, None, show)
    if intrinsics is None:
        raise InputError(recording, "frames", "there are none", "record the board: docs/cameras.md")
    found = calibrate(
        views, dropped, intrinsics, str(spec), serial=serial,
        today=datetime.now(timezone.utc).date(), days=days,
    )  # fmt: skip
    if isinstance(found, Rejected):
        raise InputError(recording, "board", found.reason, "and record it again")
    return write_depth_calibration(out, found)


def told(calibration: DepthCalibration) -> str:
    """A few lines for a reader at the terminal."""
    t = calibration.told
    left = t["held_out_rms_mm_at_0_5_m"]
    lines = [
        (
            f"{t['views']} views of the board from {t['distance_m'][0]} to {t['distance_m'][1]} m,"
            f" corners {t['corners_rms_px']} px off; depth in {100 * t['valid']:.0f} % of its pixels"
        ),
        (
            f"bias at 0.5 m: {left['scale alone']} mm beside one scale before,"
            f" {t['left_mm_at_0_5_m']} mm left anywhere in the image (1 sigma); views that took no part"
            f" say {left['bias']} mm (RMS, with noise that stays in its place), {left['expected']} expected"
        ),
        f"valid until {calibration.expires}",
    ]
    lines += [f"left out: view {why}" for why in t["left out"]]
    return "\n".join(lines)
