# SPDX-License-Identifier: Apache-2.0
"""One school for all networks: it renders data and teaches, in turns, until it is stopped.

    python -m training.school teach                 # at nice 19, on one core; ctrl-C or kill ends it
    python -m training.school status                # who has learned what
    python -m training.school graduate spine_unet   # export, if it beats the shipped model
    python -m training.school save                  # checkpoints to models/*.pt, to be committed

See training/README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
import zlib
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import cv2
import torch

from training.course import Course, clock, generator
from training.curve import append, merge, plot, read, table
from training.pupil import Pupil, Stream, distance
from training.pupils import PUPILS
from training.weights import MODELS, half_precision, save_checkpoint

HERE = Path(__file__).parent
TURN_MINUTES = 5.0  # of work per turn, rendering and steps together
EXAM_MINUTES = 8.0  # of work between two validations of a network
WORSE = 1.10  # graduation: no error that counts may grow beyond this, however good the mean
SCHOOL = "In the school:"  # begins its part of a card's history
UNKNOWN = 1.0  # distance of a network that has not sat an exam yet


@dataclass
class School:
    """Where everything lies. `stopped` is set by a signal; the running step is finished first."""

    data: Path
    real: Path
    home: Path
    curve: Path
    models: Path = MODELS
    stopped: bool = False
    failed: set[tuple[str, str, int]] = field(default_factory=set)

    def folder(self, pupil: Pupil, split: str) -> Path:
        """Rendered data of a list."""
        return self.data / pupil.material.folder / split

    # Rendering ----------------------------------------------------------------------------------

    def _index(self, pupil: Pupil, split: str) -> int | None:
        """The next unit to render: the exam in order, training from where this machine begins."""
        material, folder = pupil.material, self.folder(pupil, split)
        many = material.training_units
        first = 0
        if split == "validation":
            many = material.validation_units
        else:
            machine = zlib.crc32(f"{platform.node()} {uuid.getnode()}".encode())
            first = machine % many
        there = material.made(folder)
        for k in range(many):
            index = (first + k) % many
            if index not in there and (material.folder, split, index) not in self.failed:
                return index
        return None

    def render(self, pupil: Pupil, split: str) -> int:
        """One more unit; the number of views made, 0 when the list is complete."""
        index = self._index(pupil, split)
        if index is None:
            return 0
        folder = self.folder(pupil, split)
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                return pupil.material.make(folder, split, index, self.real)
            except ValueError as error:
                print(f"{pupil.material.folder} {split} {index:05d}: skipped: {error}", flush=True)
                self.failed.add((pupil.material.folder, split, index))
                index = self._index(pupil, split)
                if index is None:
                    return 0

    def exam_paper(self, pupil: Pupil) -> None:
        """Render what is missing of the validation list."""
        while not self.stopped and self.render(pupil, "validation"):
            pass

    # Teaching -----------------------------------------------------------------------------------

    def turn(self, course: Course, stream: Stream, minutes: float) -> dict:
        """Data first, then steps; a line of the curve."""
        pupil = course.pupil
        begun, made = clock(), 0
        count = pupil.material.count
        train = self.folder(pupil, "train")
        train.mkdir(parents=True, exist_ok=True)

        def spent() -> float:
            return (clock() - begun) / 60.0

        while not self.stopped and (have := count(train)) < max(
            pupil.enough, course.local_samples / pupil.reuse
        ):
            # Below what is enough nothing is learnt; above it, steps are due in every turn.
            if have >= pupil.enough and spent() > 0.6 * minutes:
                break
            if spent() > minutes:
                break
            made += self.render(pupil, "train")
        rendering = spent()
        for _ in pupil.prepare(train) if pupil.prepare and count(train) else ():
            if self.stopped or spent() > minutes:
                break
        before = course.samples
        if count(train) >= pupil.enough:
            left = max(1.0, minutes - spent())
            course.learn(stream, left, stop=lambda: self.stopped)
        line = {
            "views": course.views_before + count(train),
            "views_made": made,
            "views_per_h": round(60.0 * made / rendering) if made else 0,
            "samples_made": course.samples - before,
            "samples_per_s": course.per_s,
            "loss": course.losses,
        }
        return self.line(course, "taught", **line)

    def line(self, course: Course, what: str, **more: object) -> dict:
        """One line of the curve, appended."""
        entry = {
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": f"{platform.machine()} {_cpu()}",
            "name": course.pupil.name,
            "what": what,
            "step": course.step,
            "samples": course.samples,
            "minutes": round(course.minutes, 2),
            **more,
        }
        append(self.curve, entry)
        print(json.dumps(entry), flush=True)
        return entry

    def examine(self, course: Course) -> dict[str, float]:
        """Validation errors of the averaged weights, on a part of the list; a line of the curve."""
        pupil = course.pupil
        report = pupil.judge(course.average, self.folder(pupil, "validation"), pupil.exam)
        errors = pupil.errors(report)
        far = distance(errors, pupil.targets)
        self.line(course, "exam", distance=round(far, 4), errors=errors)
        return errors

    def distances(self) -> dict[str, float]:
        """The last exam of each network, as the curve has it."""
        return {
            line["name"]: line["distance"]
            for line in read(self.curve)
            if line["what"] == "exam" and line["name"] in PUPILS
        }

    def teach(self, names: list[str], minutes: float = 0.0, turn_minutes: float = TURN_MINUTES):
        """Turns until stopped, or for `minutes` of work. Tickets are the distances from the
        targets, so that the furthest comes first and most often, and none is forgotten."""
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        torch.manual_seed(1)
        begun = clock()
        had = dict.fromkeys(names, 0.0)
        last_exam = dict.fromkeys(names, -1e9)
        streams: dict[str, Stream] = {}
        course: Course | None = None
        while not self.stopped and not (minutes and clock() - begun >= 60 * minutes):
            known = self.distances()
            tickets = {n: PUPILS[n].weight * known.get(n, UNKNOWN) + 0.01 for n in names}
            name = min(names, key=lambda n: (had[n] + turn_minutes) / tickets[n])
            pupil = PUPILS[name]
            self.exam_paper(pupil)
            if course is None or course.pupil is not pupil:
                course = Course(pupil, self.home, self.models)
            if name not in streams:
                train = self.folder(pupil, "train")
                streams[name] = pupil.stream(train, generator(pupil, course.samples))
            start = clock()
            left = min(turn_minutes, minutes - (start - begun) / 60 if minutes else turn_minutes)
            if not self.stopped:
                self.turn(course, streams[name], left)
            if not self.stopped and course.minutes - last_exam[name] >= EXAM_MINUTES:
                self.examine(course)
                last_exam[name] = course.minutes
            had[name] += (clock() - start) / 60.0
        if course is not None:
            course.save()

    # Graduation ---------------------------------------------------------------------------------

    def graduate(self, name: str, decay_minutes: float, refit: bool) -> bool:
        """Export to models/ if the whole validation list says that it is better; True if so."""
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        pupil = PUPILS[name]
        self.exam_paper(pupil)
        validation = self.folder(pupil, "validation")
        course = Course(pupil, self.home, self.models)
        if decay_minutes:
            stream = pupil.stream(self.folder(pupil, "train"), generator(pupil, course.samples))
            course.learn(stream, decay_minutes, decay=True, stop=lambda: self.stopped)
            if self.stopped:
                return False
            course.save("decayed.pt")
        elif (course.folder / "decayed.pt").exists():
            course.load(course.folder / "decayed.pt")
        shipped = self.models / f"{name}.onnx"
        old = {}
        if shipped.exists():
            old = pupil.errors(pupil.judge(shipped, validation, 0))
        elif pupil.peer is not None:
            old = pupil.errors(pupil.peer(validation))
            print("nothing is shipped yet: judged beside the peer without a network")
        with tempfile.TemporaryDirectory(dir=self.home) as folder:
            made = Path(folder)
            history = self._history(pupil, course)
            command = f"python -m training.school graduate {name} --decay {decay_minutes:g}"
            card = pupil.publish(course.state(), validation, made, command, history)
            new = pupil.errors(card["validation"])
            better, reasons = verdict(old, new, pupil.targets)
            if better and old and pupil.gate:
                reasons += pupil.gate(shipped, made / shipped.name)
                better = len(reasons) == 1
            print(compared(old, new, pupil.targets))
            for reason in reasons:
                print(reason)
            self.line(course, "graduated" if better else "refused", errors=new, shipped=old)
            if not better:
                print(f"{name}: not exported; let it learn on, or give --decay MINUTES")
                return False
            for file in made.iterdir():
                shutil.copy(file, self.models / file.name)
                print(f"changed: {self.models / file.name}")
        for words in pupil.refit if refit else ():
            argv = [sys.executable, "-m", *words.format(data=self.data).split()]
            print("refit:", " ".join(argv[1:]), flush=True)
            subprocess.run(argv, check=True, cwd=HERE.parent)
        return True

    def _history(self, pupil: Pupil, course: Course) -> str:
        """What the shipped card tells of the time before the school, and the school's part."""
        card = self.models / f"{pupil.name}.json"
        before = ""
        if card.exists():
            told = json.loads(card.read_text(encoding="utf-8"))["training"].get("history", "")
            before = told.split(SCHOOL)[0].rstrip() + " "
        return f"{before}{SCHOOL} {course.minutes:.0f} minutes of work, decay included.".strip()

    def save(self, names: list[str]) -> None:
        """The stable checkpoints as models/NAME.pt, which the next machine goes on from."""
        for name in names:
            own = self.home / name / "checkpoint.pt"
            if own.exists():
                state = torch.load(own, map_location="cpu", weights_only=True)
                save_checkpoint(self.models / f"{name}.pt", half_precision(state))
                print(f"{self.models / name}.pt: {state['step']} steps, {state['samples']} samples")


def verdict(old: dict, new: dict, targets: dict[str, float]) -> tuple[bool, list[str]]:
    """Better if nearer to the targets in the mean and, above them, in nothing much worse."""
    if not old:
        return True, ["there was no shipped model"]
    was, now = distance(old, targets), distance(new, targets)
    reasons = [f"distance from the targets: {was:.3f} shipped, {now:.3f} now"]
    worse = [
        name
        for name, target in targets.items()
        if not new.get(name, float("inf")) <= max(target, WORSE * old.get(name, float("inf")))
    ]
    if worse:
        reasons.append(f"worse by more than {100 * (WORSE - 1):.0f} %: {', '.join(worse)}")
    return now < was and not worse, reasons


def compared(old: dict, new: dict, targets: dict[str, float]) -> str:
    """A table of what counts, and of the rest."""
    names = [*targets, *sorted(set(new) - set(targets))]
    rows = [f"{'error':26}{'target':>10}{'shipped':>10}{'now':>10}"]
    for n in names:
        goal = f"{targets[n]:10.3f}" if n in targets else " " * 10
        nan = float("nan")
        rows.append(f"{n:26}{goal}{old.get(n, nan):10.3f}{new.get(n, nan):10.3f}")
    return "\n".join(rows)


def _cpu() -> str:
    """Model name of the processor, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(li.split(":", 1)[1].strip() for li in lines if li.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def parser() -> argparse.ArgumentParser:
    """Command line of the school."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--data", type=Path, default=HERE / "data", help="rendered views")
    common.add_argument("--real", type=Path, default=Path("../shared/data"), help="real surfaces")
    common.add_argument("--home", type=Path, default=HERE / "runs" / "school", help="checkpoints")
    common.add_argument("--curve", type=Path, default=HERE / "school.jsonl")
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sub = p.add_subparsers(dest="command", required=True)
    teach = sub.add_parser("teach", parents=[common], help="render and train, in turns")
    teach.add_argument("--only", nargs="+", choices=sorted(PUPILS), metavar="NAME")
    teach.add_argument("--minutes", type=float, default=0.0, help="of work; 0: until stopped")
    teach.add_argument("--turn", type=float, default=TURN_MINUTES, help="minutes of work per turn")
    sub.add_parser("status", parents=[common], help="who has learned what")
    graduate = sub.add_parser("graduate", parents=[common], help="export what beats the shipped")
    graduate.add_argument("name", choices=sorted(PUPILS))
    graduate.add_argument(
        "--decay", type=float, default=0.0, help="minutes of work at a falling rate"
    )
    graduate.add_argument("--refit", action=argparse.BooleanOptionalAction, default=True)
    save = sub.add_parser("save", parents=[common], help="checkpoints to models/*.pt")
    save.add_argument("--only", nargs="+", choices=sorted(PUPILS), metavar="NAME")
    curve = sub.add_parser("plot", parents=[common], help="the curve as a picture")
    curve.add_argument("--out", type=Path, default=HERE.parent / "docs" / "img" / "school.png")
    return p


def step_aside() -> None:
    """Whatever else runs goes first: nice 19, for the session's scheduling group too, since Linux
    shares the cores between sessions before it looks at a process's nice value. Only where the
    session is the school's own, as `setsid` or a service makes it."""
    os.nice(19)
    if os.getsid(0) != os.getpid():
        return
    with contextlib.suppress(OSError):  # a kernel without autogroups needs no more
        Path("/proc/self/autogroup").write_text("19")


def main(words: list[str] | None = None) -> int:
    """0 when done; 1 if a network was not good enough to graduate."""
    args = parser().parse_args(words)
    args.home.mkdir(parents=True, exist_ok=True)
    school = School(args.data, args.real, args.home, args.curve)

    def stop(*_: object) -> None:
        school.stopped = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    names = getattr(args, "only", None) or [n for n, p in PUPILS.items() if p.weight > 0]
    if args.command == "teach":
        step_aside()
        school.teach(names, args.minutes, args.turn)
    elif args.command == "status":
        print(table(read(args.curve), {n: p.targets for n, p in PUPILS.items()}))
    elif args.command == "graduate":
        return 0 if school.graduate(args.name, args.decay, args.refit) else 1
    elif args.command == "save":
        school.save(names)
        merge(args.curve, HERE / "school.jsonl")
    elif args.command == "plot":
        plot(read(args.curve), {n: p.targets for n, p in PUPILS.items()}, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
