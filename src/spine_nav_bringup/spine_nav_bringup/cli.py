# SPDX-License-Identifier: Apache-2.0
"""The `spinenav` command line: usage, exit codes and one-line errors; the work is done elsewhere.

Exit codes: 0 done, 1 the run failed or stopped half-way, 2 the input or the usage is wrong.
Heavy modules are imported by the command that needs them, so that `--help` is instant.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from spine_nav_common.core.runtime import fix_threads

from .cli_calibrate import add_calibrate_commands
from .cli_import import add_import_command
from .cli_planning import add_planning_commands
from .cli_session import add_session_commands
from .cli_viewers import add_viewer_options, viewer_values

DONE, FAILED, WRONG_INPUT = 0, 1, 2
DESCRIPTION = (
    "Marker-less navigation for pedicle-screw surgery. Research software, not a medical device."
)
EXIT_CODES = "exit codes: 0 done, 1 the run failed or stopped half-way, 2 wrong input or usage"


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative; seeds start at 0")
    return value


def _demo(args: argparse.Namespace) -> int:
    from .demo import run_demo

    return run_demo(args.out, seed=args.seed, seconds=args.seconds)


def _simulate(args: argparse.Namespace) -> int:
    from spine_nav_common.core.progress import Progress
    from spine_nav_sim.core.operation import simulate
    from spine_nav_sim.core.rig import simulate_rig

    progress = Progress("simulate")
    if args.scene == "board":
        from .calibrate import BOARD, simulated_board

        simulated_board(args.out, args.seed, progress)
        progress.close()
        print(f"wrote {args.out}/recording, for `spinenav calibrate depth` with --board {BOARD}")
        return DONE
    given = {"anatomy": args.anatomy, "seed": args.seed, "seconds": args.seconds}
    if args.scene == "rig":
        simulate_rig(args.out, **given, progress=progress)
    else:
        simulate(args.out, **given, scenes=tuple(args.scene.split(",")), progress=progress)
    progress.close()
    print(f"wrote {args.out}/case, {args.out}/recording, {args.out}/truth.json")
    return DONE


def _replay(args: argparse.Namespace) -> int:
    from spine_nav_common.core.errors import InputError
    from spine_nav_common.core.progress import Progress

    from .replay import replay
    from .replay_two import replay_two

    progress = Progress("replay")
    if args.second is None and (args.between or args.second_calibration):
        raise InputError(
            "replay", "--second", "it is missing", "name the second camera's recording"
        )
    if args.second is not None:
        outcome = replay_two(
            args.recording,
            args.second,
            args.case,
            args.out,
            between=args.between,
            calibration=args.calibration,
            second_calibration=args.second_calibration,
            confirm=args.confirm,
            remap=args.remap,
            config=args.config,
            assignments=args.set,
            model=args.model,
            backend=args.backend,
            progress=progress,
        )
        progress.close()
        print(outcome.text())
        return outcome.exit_code
    outcome = replay(
        args.recording,
        args.case,
        args.out,
        confirm=args.confirm,
        calibration=args.calibration,
        remap=args.remap,
        config=args.config,
        assignments=args.set,
        model=args.model,
        models=args.models,
        backend=args.backend,
        progress=progress,
    )
    progress.close()
    print(outcome.text())
    return outcome.exit_code


def _live(args: argparse.Namespace) -> int:
    from spine_nav_common.core.progress import Progress

    from .live import run_live
    from .live_options import LiveOptions

    progress = Progress("live")
    options = LiveOptions(
        case=args.case,
        source=args.source,
        out=args.out,
        config=args.config,
        assignments=tuple(args.set),
        model=args.model,
        models=args.models,
        backend=args.backend,
        remap=args.remap,
        calibration=tuple(args.calibration),
        namespace=args.namespace,
        use_sim_time=args.use_sim_time,
        seconds=args.seconds,
        seed=args.seed,
        **viewer_values(args),
        session=args.session,
        depth_aligner=args.align_depth,
    )
    outcome = run_live(options, progress)
    progress.close()
    print(outcome.text())
    return outcome.exit_code


def _evaluate(args: argparse.Namespace) -> int:
    import json

    from spine_nav_common.core.case import load_case
    from spine_nav_common.core.metrics import evaluate, format_report
    from spine_nav_common.core.tables import write_json
    from spine_nav_common.core.truth import load_truth

    report = evaluate(args.out, load_truth(args.truth), load_case(args.case))
    table = format_report(report)
    write_json(args.out / "evaluation.json", report.to_dict())
    (args.out / "evaluation.txt").write_text(table + "\n", encoding="utf-8")
    print(json.dumps(report.to_dict(), indent=2) if args.json else table)
    return DONE


def _bench(args: argparse.Namespace) -> int:
    from spine_nav_bench.bench import run_bench
    from spine_nav_bench.commands import Commands

    from .replay import Outcome, replay
    from .screws import find_screws

    def live(
        case: Path,
        source: str,
        out: Path,
        assignments: tuple[str, ...] = (),
        port: int | None = None,
        session: Path | None = None,
    ) -> Outcome:
        from .live import run_live  # needs ROS 2, which most parts do without
        from .live_options import LiveOptions

        more = {"display": port is not None, "port": port, "session": session}
        return run_live(LiveOptions(case, source, out, assignments=assignments, **more))

    return run_bench(args, Commands(replay, find_screws, live))


def _doctor(args: argparse.Namespace) -> int:
    if args.latency:
        from spine_nav_common.core.progress import Progress

        from .doctor_latency import run_latency

        progress = Progress("doctor")
        code = run_latency(args.backend, progress)
        progress.close()
        return code
    from .doctor import run_doctor

    return run_doctor()


def _rod_plan(args: argparse.Namespace) -> int:
    from .rod import run_rod_plan

    return run_rod_plan(args)


def _screws(args: argparse.Namespace) -> int:
    from spine_nav_common.core.progress import Progress

    from .screws import find_screws

    progress = Progress("screws")
    outcome = find_screws(
        args.recording,
        args.out,
        case=args.case,
        cranial=args.cranial,
        remap=args.remap,
        calibration=args.calibration,
        config=args.config,
        assignments=args.set,
        models=args.models,
        backend=args.backend,
        progress=progress,
    )
    progress.close()
    print(outcome.text())
    return outcome.exit_code


def _recording_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="ROS 2 parameters file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NODE.NAME=VALUE",
        help="one parameter, stronger than --config; repeat for more",
    )  # fmt: skip
    parser.add_argument(
        "--remap",
        type=Path,
        metavar="FILE|DRIVER",
        help="YAML: the topic that is looked for, a colon, the topic in the recording; or a known"
        " driver: zed, or zed:/prefix",
    )
    parser.add_argument(
        "--models", type=Path, metavar="DIR", help="folder of the stereo networks, not the shipped"
    )
    _backend_option(parser)


def _backend_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend", metavar="NAME",
        help="what computes the networks: auto, openvino-bf16, openvino-int8, openvino-fp32, "
        "onnxruntime-gpu or onnxruntime-fp32",
    )  # fmt: skip


def _model_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, metavar="ONNX", help="network instead of the shipped")


def _calibration_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--calibration", type=Path, action="append", default=[], metavar="FILE",
        help="YAML of `spinenav calibrate`, or with the transform between RGB-D and stereo camera;"
        " repeat for more",
    )  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; no command's module is imported here."""
    parser = argparse.ArgumentParser("spinenav", description=DESCRIPTION, epilog=EXIT_CODES)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(
        name: str, run: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, epilog=EXIT_CODES)
        sub.set_defaults(run=run, command=name)
        return sub

    demo = add("demo", _demo, "a virtual operation through the real ROS 2 nodes, with pictures")
    demo.add_argument("--out", type=Path, default=Path("out/demo"))
    demo.add_argument("--seed", type=_seed, default=400007, help="of anatomy and scene")
    demo.add_argument("--seconds", type=_positive, default=10.0)

    simulate = add("simulate", _simulate, "write a virtual operation: case, recording and truth")
    simulate.add_argument("--out", type=Path, required=True, metavar="DIR")
    simulate.add_argument(
        "--anatomy", type=Path, metavar="MESH_DIR", help="folder of real vertebra meshes"
    )
    simulate.add_argument("--seed", type=_seed, default=0, metavar="N")
    simulate.add_argument("--seconds", type=_positive, default=10.0, metavar="S")
    simulate.add_argument(
        "--scene",
        default="rgbd",
        metavar="rgbd,stereo|rig|board",
        help="cameras, one after the other; rig: both at once, from the opened spine over the screws"
        " to the rods; board: thirty views of a calibration board alone (default: rgbd)",
    )

    replay = add("replay", _replay, "every frame of a recording, without ROS, deterministic")
    replay.add_argument("recording", type=Path, metavar="RECORDING")
    replay.add_argument("--case", type=Path, required=True)
    replay.add_argument("--out", type=Path, required=True)
    replay.add_argument(
        "--confirm", action="store_true", help="accept the best level hypothesis (stands for you)"
    )
    replay.add_argument(
        "--second", type=Path, metavar="RECORDING",
        help="of another RGB-D camera over the same operation, by one clock: both give one estimate, in"
        " the first one's frame",
    )  # fmt: skip
    replay.add_argument(
        "--between", type=Path, metavar="FILE",
        help="how the two cameras stand, of `spinenav calibrate handeye` (default: by the spine)",
    )  # fmt: skip
    replay.add_argument(
        "--second-calibration", type=Path, action="append", default=[], metavar="FILE",
        help="as --calibration, of the second camera",
    )  # fmt: skip
    _recording_options(replay)
    _model_option(replay)
    _calibration_option(replay)

    live = add("live", _live, "the ROS 2 graph; the newest frame wins")
    live.add_argument("--case", type=Path, help="of the patient; only a stereo pair goes without")
    live.add_argument(
        "--source",
        required=True,
        metavar="realsense[:SERIAL]|pair:WHERE|stereo|ros|replay:RECORDING|virtual",
    )
    live.add_argument("--out", type=Path, required=True)
    _recording_options(live)
    _model_option(live)
    _calibration_option(live)
    live.add_argument("--namespace", default="/spine", help="of all nodes (default: /spine)")
    live.add_argument("--use-sim-time", action="store_true", help="follow /clock (ros2 bag play)")
    live.add_argument("--seconds", type=_positive, metavar="S", help="end after this time")
    live.add_argument(
        "--align-depth", action="store_true",
        help="source ros: depth comes on depth/image_rect_raw, of a camera of its own",
    )  # fmt: skip
    live.add_argument("--session", type=Path, metavar="DIR", help="record the session there")
    live.add_argument("--seed", type=_seed, default=0, metavar="N", help="of a virtual source")
    add_viewer_options(live)

    calibrate = commands.add_parser("calibrate", help="what a camera or a tool does, measured")
    calibrate.set_defaults(command="calibrate")
    add_calibrate_commands(calibrate, EXIT_CODES)

    add_import_command(add)
    add_session_commands(add, EXIT_CODES)
    add_planning_commands(add)

    evaluate = add("evaluate", _evaluate, "measure a run against the truth")
    evaluate.add_argument("out", type=Path, metavar="OUT")
    evaluate.add_argument("--truth", type=Path, required=True, metavar="truth.json")
    evaluate.add_argument("--case", type=Path, required=True)
    evaluate.add_argument("--json", action="store_true", help="print JSON instead of the table")

    screws = add("screws", _screws, "screw heads, axes and rods from a stereo recording")
    screws.add_argument("recording", type=Path, metavar="RECORDING")
    screws.add_argument("--out", type=Path, required=True)
    screws.add_argument("--case", type=Path, help="names the levels where they fit the heads")
    screws.add_argument(
        "--cranial", choices=("left", "right", "up", "down"),
        help="where the patient's head lies in the image",
    )  # fmt: skip
    screws.add_argument(
        "--calibration", type=Path, metavar="FILE",
        help="of `spinenav calibrate stereo`, in the place of camera_info",
    )  # fmt: skip
    _recording_options(screws)

    rod = add("rod", _rod_plan, "bending plans for rods")
    rod_commands = rod.add_subparsers(metavar="plan", required=True)
    plan = rod_commands.add_parser("plan", help="bending plan from screws.csv", epilog=EXIT_CODES)
    plan.set_defaults(run=_rod_plan, command="rod plan")
    plan.add_argument("--screws", type=Path, required=True)
    plan.add_argument("--side", metavar="left|right")
    plan.add_argument("--stamp", default="last", metavar="NS|last")
    plan.add_argument("--out", type=Path, required=True)
    plan.add_argument(
        "--cranial", metavar="left|right|up|down", help="where the patient's head lies in the image"
    )
    plan.add_argument(
        "--case",
        type=Path,
        metavar="CASE",
        help="its planned screws that are missing are asked for",
    )
    plan.add_argument(
        "--without", action="append", default=[], metavar="LEVEL",
        help="no screw there on purpose; `any`: plan for the heads as they are; repeat for more",
    )  # fmt: skip
    plan.add_argument("--material", default="Ti6Al4V", metavar="Ti6Al4V|CoCr|316L")
    plan.add_argument("--diameter", type=_positive, default=5.5, metavar="MM")
    plan.add_argument("--length", type=_positive, metavar="MM", help="of the rod at hand")
    plan.add_argument("--die", type=_positive, default=30.0, metavar="MM", help="radius of the die")
    plan.add_argument("--lordosis", type=float, metavar="DEG", help="wanted between the rod's ends")

    bench = add("bench", _bench, "speed and accuracy beside peer methods on the same data")
    bench.add_argument("--json", action="store_true", help="print the JSON lines, not the table")
    bench.add_argument(
        "--anatomy", type=Path, action="append", default=[], metavar="DIR",
        help="folder of real vertebra meshes, judged as well; repeat for more",
    )  # fmt: skip
    bench.add_argument(
        "--scenes", type=Path, metavar="DIR", help="recordings made elsewhere: a table of their own"
    )
    bench.add_argument(
        "--implants", type=Path, action="append", default=[], metavar="DIR",
        help="folder of real screw meshes, judged as well; repeat for more",
    )  # fmt: skip
    bench.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="real stereo calibration images, and real CTs with masks (segmentation)",
    )
    bench.add_argument("--smoke", action="store_true", help="one short scene, nothing is recorded")
    bench.add_argument(
        "--only", metavar="PART",
        help="accuracy, foreign, timing, precision, identity, gaps, alive, stereo, stereo_foreign, stereo_faults, stereo_timing, live_stereo, rod, calibration, bridges, display, overlay, cameras, depth_calibration, planning, segmentation or replanning",
    )  # fmt: skip
    bench.add_argument(
        "--results", type=Path, metavar="DIR",
        help="write lines, tables, pictures and scenes here and nowhere else (default: docs/, out/)",
    )  # fmt: skip

    bench.add_argument(
        "--minutes", type=_positive, metavar="M",
        help="display: for so many minutes memory is watched (default 20; 8 h of pictures take some three hours)",
    )  # fmt: skip

    doctor = add("doctor", _doctor, "what this machine has, and what to do about what is missing")
    doctor.add_argument(
        "--latency", action="store_true", help="measure each stage against its budget (a minute)"
    )
    _backend_option(doctor)
    return parser


def _refusal(error: ValueError) -> bool:
    """Whether an error says that input or settings are wrong; others are faults of the program."""
    from spine_nav_common.core.errors import InputError
    from spine_nav_common.parameters import ParameterError

    # Imported only after a failure: it loads ONNX Runtime.
    from spine_perception.core.inference import ModelError

    return isinstance(error, (InputError, ParameterError, ModelError))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = build_parser().parse_args(argv)
    fix_threads(openmp=2 if args.command == "bench" else 1)
    try:
        return args.run(args)
    except ValueError as error:
        if not _refusal(error):
            raise
        print(f"spinenav {args.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return WRONG_INPUT
    except (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError) as error:
        if error.filename is None:
            raise
        text = f"{error.filename}: {error.strerror}; name a file or folder that can be used"
        print(f"spinenav {args.command}: {text}", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print(f"spinenav {args.command}: stopped; what was written stays", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
