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


def add_calibrate_commands(calibrate: argparse.ArgumentParser, epilog: str) -> None:
    """The kinds of calibration, each a command below `calibrate`."""
    kinds = calibrate.add_subparsers(metavar="WHAT", dest="what", required=True)

    def add(name: str, text: str, source: str) -> argparse.ArgumentParser:
        sub = kinds.add_parser(name, help=text, description=text, epilog=epilog)
        sub.add_argument("source", type=Path, metavar="SOURCE", help=source)
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
