# SPDX-License-Identifier: Apache-2.0
"""`spinenav calibrate WHAT`: usage; the work is done elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path

_BOARD = "charuco:10x7:24:17:DICT_5X5_100 (squares, mm, mm), chessboard:9x6:25 (inner corners, mm), circles:…, acircles:…"


def _days(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 3650:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 3650 days")
    return value


def _depth(args: argparse.Namespace) -> int:
    from spine_nav_common.core.progress import Progress

    from .calibrate import calibrate_depth, told

    progress = Progress("calibrate")
    found = calibrate_depth(
        args.source, args.board, args.out, serial=args.serial, days=args.days, remap=args.remap,
        progress=progress,
    )  # fmt: skip
    progress.close()
    print(told(found))
    print(f"{args.out}: use it with --calibration {args.out}")
    return 0


def _lens(args: argparse.Namespace) -> int:
    from spine_nav_common.core.progress import Progress

    from .calibrate_lens import calibrate_lens, told_lens

    progress = Progress("calibrate")
    found = calibrate_lens(
        args.what, args.source, args.board, args.out, model=args.model,
        baseline_mm=getattr(args, "baseline", None), serial=args.serial, days=args.days,
        temperature_c=args.temperature, remap=args.remap, progress=progress,
    )  # fmt: skip
    progress.close()
    print(told_lens(found))
    print(f"{args.out}, picture {args.out.with_suffix('.png')}")
    return 0


def _pivot(args: argparse.Namespace) -> int:
    from .calibrate_poses import pivot

    print(pivot(args.source, args.out, unit=args.unit, serial=args.serial, days=args.days))
    print(args.out)
    return 0


def _handeye(args: argparse.Namespace) -> int:
    from spine_nav_common.core.handeye import PoseNoise

    from .calibrate_poses import handeye

    print(
        handeye(
            args.source, args.camera, args.out, unit=args.unit, offset_ms=args.offset,
            noise=PoseNoise(*args.noise), inverted=args.inverted, frames=tuple(args.frames),
            serial=args.serial, days=args.days,
        )
    )  # fmt: skip
    print(f"{args.out}: use it with --calibration {args.out}")
    return 0


def _time(args: argparse.Namespace) -> int:
    from .calibrate_poses import clocks

    print(
        clocks(
            args.source, args.second, args.out, most_s=args.most, serial=args.serial, days=args.days
        )
    )
    print(args.out)
    return 0


_POSES = "TUM or CSV file, folder of 4x4 matrices, or RECORDING:/topic"


def add_calibrate_commands(calibrate: argparse.ArgumentParser, epilog: str) -> None:
    """The kinds of calibration, each a command below `calibrate`."""
    kinds = calibrate.add_subparsers(metavar="WHAT", dest="what", required=True)

    def add(name: str, text: str, source: str, kind: type = Path) -> argparse.ArgumentParser:
        sub = kinds.add_parser(name, help=text, description=text, epilog=epilog)
        sub.add_argument("source", type=kind, metavar="SOURCE", help=source)
        sub.add_argument("--out", type=Path, required=True, metavar="FILE.yaml")
        sub.add_argument("--serial", default="", help="of the camera, to be told from another")
        sub.add_argument("--days", type=_days, default=180, help="that it is valid (default 180)")
        return sub

    def board(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--board", required=True, metavar="BOARD", help=_BOARD)
        sub.add_argument(
            "--remap", type=Path, metavar="FILE",
            help="YAML: the topic that is looked for, a colon, the topic in the recording",
        )  # fmt: skip

    depth = add("depth", "the bias of an RGB-D camera, on a flat board", "a recording of the board")
    board(depth)
    depth.set_defaults(run=_depth)
    for name, text in (
        ("intrinsics", "the lens of one camera, by images of a flat board"),
        ("stereo", "both lenses of a pair and how they stand, by pairs of images of a flat board"),
    ):
        lens = add(name, text, "a folder of images, a quoted pattern ('DIR/left*'), or a recording")
        board(lens)
        lens.add_argument(
            "--model", default="", choices=("plumb_bob", "rational", "fisheye"),
            help="of the lens (default: the one that errs least on views that took no part)",
        )  # fmt: skip
        lens.add_argument("--temperature", type=float, metavar="C", help="of the camera")
        lens.set_defaults(run=_lens)
        if name == "stereo":
            lens.add_argument(
                "--baseline", type=float, metavar="MM",
                help="as the data sheet has it: tells a board whose squares are of another size",
            )  # fmt: skip
    pivot = add("pivot", "the tip of a pointer that was swung about it", f"poses: {_POSES}", str)
    pivot.set_defaults(run=_pivot)
    hand = add("handeye", "where a camera sits on a tracked body", f"of the body: {_POSES}", str)
    hand.add_argument("camera", metavar="CAMERA", help="poses of the target before the camera")
    hand.add_argument(
        "--offset", type=float, default=0.0, metavar="MS", help="added to the camera's stamps"
    )
    hand.add_argument(
        "--noise", type=float, nargs=2, default=(0.2, 0.1), metavar=("MM", "DEG"),
        help="1 sigma of either stream's poses (default: 0.2 0.1)",
    )  # fmt: skip
    hand.add_argument(
        "--inverted", default="", choices=("body", "camera", "both"),
        help="streams that hold the transform the other way round",
    )  # fmt: skip
    hand.add_argument(
        "--frames", nargs=2, default=("tracked_body", "camera"), metavar=("BODY", "CAMERA"),
        help="names of the two frames in the file",
    )  # fmt: skip
    hand.set_defaults(run=_handeye)
    for sub in (pivot, hand):
        sub.add_argument(
            "--unit", default="m", choices=("m", "mm"), help="of lengths in text files (default: m)"
        )
    time = add("time", "the time between the clocks of two pose streams", f"first: {_POSES}", str)
    time.add_argument("second", metavar="SECOND", help="poses of the same body's motion")
    time.add_argument("--most", type=float, default=1.0, metavar="S", help="that they may differ")
    time.set_defaults(run=_time)
