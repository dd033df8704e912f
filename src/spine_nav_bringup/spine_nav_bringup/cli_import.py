# SPDX-License-Identifier: Apache-2.0
"""The command `import`: other people's data as recordings, cases and truth."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

INCOMPLETE = 1


def _import(args: argparse.Namespace) -> int:
    from spine_nav_common.core.progress import Progress

    from . import import_data

    progress, remap = Progress("import"), None
    if args.what == "spinedepth":
        done = import_data.import_spinedepth(
            args.source, args.out, serials=args.serials, frames=args.frames, progress=progress
        )
    elif args.what == "tum":
        done = import_data.import_tum(args.source, args.out, progress)
    elif args.what == "realsense":
        done = import_data.import_realsense(args.source, args.out, progress)
    else:
        done, remap = import_data.import_rosbag1(args.source, args.out)
    progress.close()
    for text in done.missing:
        print(f"left out: {text}", file=sys.stderr)
    if args.what == "spinedepth":
        print(f"wrote {len(done.written)} recordings with case and truth to {args.out}")
        to = args.out / "bench"
        print(f"judge them: spinenav bench --scenes {args.out} --only foreign --results {to}")
    else:
        names = f" --remap {remap}" if remap else ""
        print(f"use it: spinenav replay {done.written[0]}{names} --case CASE --out OUT")
    return INCOMPLETE if done.missing else 0


def _frames(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text}: give a number of frames")
    return int(text)


def _serials(text: str) -> tuple[str, ...]:
    serials = tuple(text.upper().replace("SN", "").split(","))
    if len(serials) != 2 or not all(s.isdigit() for s in serials):
        raise argparse.ArgumentTypeError(f"{text}: give two, as 10027879,10028650")
    return serials


def add_import_command(
    add: Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser],
) -> None:
    """Add the command; add: takes name, body and help."""
    parser = add("import", _import, "recordings that others made, in the formats used here")
    parser.add_argument(
        "what", choices=("spinedepth", "tum", "realsense", "rosbag1"),
        help="spinedepth: the dataset of Balgrist, videos exported by the ZED SDK; tum: colour and depth"
        " PNGs as the TUM RGB-D benchmark; realsense: a file of librealsense; rosbag1: of ROS 1"
        " (docs/import.md)",
    )  # fmt: skip
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a folder, or a file")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--frames",
        type=_frames,
        metavar="N",
        help="spinedepth: the first N of each video (default: all)",
    )
    parser.add_argument(
        "--serials", type=_serials, default=(), metavar="SN,SN",
        help="spinedepth: of the cameras of Video_0 and Video_1, where the SVO files do not tell",
    )  # fmt: skip
