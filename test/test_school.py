# SPDX-License-Identifier: Apache-2.0
"""The school with a pupil of one weight: turns, pauses, kills, and who may graduate."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "training" / "school.py").is_file():
    pytest.skip("training/ is not part of this installation", allow_module_level=True)
torch = pytest.importorskip("torch", reason="training needs the `train` extra (torch)")
pytest.importorskip("onnx", reason="export needs the `train` extra (onnx)")
sys.path.insert(0, str(ROOT))

from training import course, curve, school, weights
from training.deck import Deck
from training.pupil import Material, Pupil, distance

TRUTH = 3.0


class Numbers:
    """A stream of x and TRUTH * x."""

    def __init__(self, folder: Path, rng: np.random.Generator) -> None:
        self._folder, self._rng = folder, rng

    def __len__(self) -> int:
        return len(list(self._folder.glob("*.txt")))

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.from_numpy(self._rng.normal(size=(4, 1, 1, 1)).astype(np.float32))
        return x, TRUTH * x

    def tell(self, batch: torch.Tensor, outputs: torch.Tensor) -> None:
        pass


def _make(folder: Path, split: str, index: int, real: Path) -> int:
    if index % 5 == 3:
        raise ValueError("this anatomy cannot be made")
    (folder / f"{index}.txt").write_text(split)
    return 1


def _judge(network: torch.nn.Module | Path, folder: Path, limit: int) -> dict:
    assert list(folder.glob("*.txt"))
    if isinstance(network, Path):
        return json.loads(network.read_text())
    return {"miss": abs(float(network.state_dict()["weight"].flatten()[0]) - TRUTH)}


def _publish(state: dict, validation: Path, models: Path, command: str, history: str) -> dict:
    report = {"miss": abs(float(state["ema"]["weight"].flatten()[0]) - TRUTH)}
    (models / "one.onnx").write_text(json.dumps(report))
    (models / "one.json").write_text(json.dumps({"training": {"history": history}}))
    return {"validation": report}


def _pupil(name: str, **more: object) -> Pupil:
    material = Material(
        "numbers",
        _make,
        lambda folder: {int(p.stem) for p in folder.glob("*.txt")},
        lambda folder: len(list(folder.glob("*.txt"))),
        validation_units=4,
        training_units=50,
    )
    return Pupil(
        name=name,
        material=material,
        net=lambda: torch.nn.Conv2d(1, 1, 1, bias=False),
        stream=Numbers,
        losses=lambda y, wanted: {"miss": (y.float() - wanted).abs().mean()},
        judge=_judge,
        errors=lambda report: report,
        targets={"miss": 0.01},
        publish=_publish,
        rate=0.2,
        average=0.9,
        enough=2,
        reuse=1000.0,
        **more,
    )  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch) -> school.School:
    """A school of its own, whose clock ticks 0.5 s at every look."""
    ticks = iter(range(10**9))

    def clock() -> float:
        return 0.5 * next(ticks)

    for module in (course, school):
        monkeypatch.setattr(module, "clock", clock)
    monkeypatch.setattr(course, "fastest_mode", lambda *_: (False, True))
    monkeypatch.setattr(school, "PUPILS", {"one": _pupil("one"), "two": _pupil("two")})
    home, models = tmp_path / "home", tmp_path / "models"
    home.mkdir()
    models.mkdir()
    return school.School(tmp_path / "data", tmp_path, home, tmp_path / "school.jsonl", models)


def test_it_renders_teaches_and_examines_in_turns(place):
    place.teach(["one", "two"], minutes=24.0, turn_minutes=2.0)
    lines = curve.read(place.curve)
    assert {line["name"] for line in lines if line["what"] == "taught"} == {"one", "two"}
    exams = [line for line in lines if line["what"] == "exam" and line["name"] == "one"]
    assert exams[-1]["errors"]["miss"] < 0.5
    # Every unit of the exam but the one that cannot be made; enough for training, once.
    assert place.render(school.PUPILS["one"], "validation") == 0
    assert len(list((place.data / "numbers" / "validation").iterdir())) == 3
    assert len(list((place.data / "numbers" / "train").iterdir())) >= 2
    assert "one: " in curve.table(lines, {"one": {"miss": 0.01}})


def test_the_furthest_from_its_target_is_taught_first_and_most(place):
    place.distances = lambda: {"one": 0.5, "two": 2.0}
    place.teach(["one", "two"], minutes=24.0, turn_minutes=2.0)
    taught = [line["name"] for line in curve.read(place.curve) if line["what"] == "taught"]
    assert taught[0] == "two"
    assert taught.count("two") > 2 * taught.count("one") > 0


def test_it_resumes_where_it_was_stopped(place):
    place.teach(["one"], minutes=3.0, turn_minutes=1.0)
    before = course.Course(school.PUPILS["one"], place.home, place.models)
    assert before.step > 0
    again = school.School(place.data, place.real, place.home, place.curve, place.models)
    again.teach(["one"], minutes=3.0, turn_minutes=1.0)
    after = course.Course(school.PUPILS["one"], place.home, place.models)
    assert after.step > before.step and after.minutes > before.minutes
    assert after.warm == after.step  # the optimiser went on: no second warm-up


def test_a_signal_ends_the_lesson_at_the_next_step_and_saves_it(place):
    pupil = school.PUPILS["one"]
    for _ in range(2):
        place.render(pupil, "train")
    taught = course.Course(pupil, place.home, place.models)
    stream = Numbers(place.folder(pupil, "train"), np.random.default_rng(0))

    def stop() -> bool:
        place.stopped = taught.step >= 5
        return place.stopped

    taught.learn(stream, 1000.0, stop=stop)
    assert course.Course(pupil, place.home, place.models).step == 5


def test_a_kill_while_saving_leaves_the_last_checkpoint(place, monkeypatch):
    taught = course.Course(school.PUPILS["one"], place.home, place.models)
    taught.step = 7
    taught.save()

    def killed(state: dict, path: Path) -> None:
        Path(path).write_bytes(b"half a fi")
        raise KeyboardInterrupt

    monkeypatch.setattr(weights.torch, "save", killed)
    taught.step = 8
    with pytest.raises(KeyboardInterrupt):
        taught.save()
    assert course.Course(school.PUPILS["one"], place.home, place.models).step == 7


def test_time_in_which_the_process_is_stopped_is_no_time():
    code = (
        "import os, signal, time; from training.course import clock\n"
        "work, wall = clock(), time.monotonic()\n"
        "os.kill(os.getpid(), signal.SIGSTOP)\n"
        "print(clock() - work, time.monotonic() - wall, flush=True)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    _, status = os.waitpid(child.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    time.sleep(0.3)  # how long it is stopped, not how long anything takes
    child.send_signal(signal.SIGCONT)
    work, wall = map(float, child.communicate()[0].split())
    assert wall >= 0.3 and work < 0.1


def test_the_checkpoint_that_is_committed_begins_the_course_of_the_next_machine(place, tmp_path):
    place.teach(["one"], minutes=3.0, turn_minutes=1.0)
    place.save(["one", "two"])  # the second one has never been taught
    assert sorted(f.name for f in place.models.iterdir()) == ["one.pt"]
    mine = course.Course(school.PUPILS["one"], place.home, place.models)
    other = course.Course(school.PUPILS["one"], tmp_path / "elsewhere", place.models)
    assert (other.step, other.samples, other.views_before) == (mine.step, mine.samples, mine.views)
    assert other.warm == 0 and other.local_samples == 0  # its views and its optimiser are new
    target = tmp_path / "committed.jsonl"
    for _ in range(2):
        curve.merge(place.curve, target)
    assert curve.read(target) == curve.read(place.curve) != []


def test_graduation_exports_what_is_better_and_nothing_else(place):
    place.teach(["one"], minutes=20.0, turn_minutes=2.0)
    shipped = place.models / "one.onnx"
    assert place.graduate("one", 0.0, refit=False)  # there was none
    assert curve.read(place.curve)[-1]["what"] == "graduated"
    shipped.write_text('{"miss": 0.0}')
    assert not place.graduate("one", 0.0, refit=False)
    assert shipped.read_text() == '{"miss": 0.0}'
    assert curve.read(place.curve)[-1]["what"] == "refused"
    shipped.write_text('{"miss": 9.0}')
    card = {"training": {"history": "From scratch. In the school: 2 minutes."}}
    (place.models / "one.json").write_text(json.dumps(card))
    assert place.graduate("one", 1.0, refit=False)
    assert json.loads(shipped.read_text())["miss"] < 1.0
    told = json.loads((place.models / "one.json").read_text())["training"]["history"]
    assert told.startswith("From scratch. In the school: ") and told.count("school") == 1
    # The decay was a copy: the stable phase stands where it stood.
    stable = course.Course(school.PUPILS["one"], place.home, place.models)
    decayed = torch.load(place.home / "one" / "decayed.pt", weights_only=True)
    assert decayed["step"] > stable.step


def test_what_speaks_against_a_better_network_keeps_it_out(place, monkeypatch):
    guarded = _pupil("one", gate=lambda old, new: ["poses are worse"] * (new != old))
    monkeypatch.setattr(school, "PUPILS", {"one": guarded})
    place.teach(["one"], minutes=6.0, turn_minutes=2.0)
    shipped = place.models / "one.onnx"
    shipped.write_text('{"miss": 9.0}')
    assert not place.graduate("one", 0.0, refit=False)
    assert shipped.read_text() == '{"miss": 9.0}'


def test_a_first_network_has_to_beat_its_peer_and_its_gate(place, monkeypatch):
    for peer, objections, ships in ((0.0, [], False), (9.0, ["no"], False), (9.0, [], True)):
        known = _pupil("one", peer=lambda folder, miss=peer: {"miss": miss},
                       gate=lambda old, new, said=tuple(objections): list(said))  # fmt: skip
        monkeypatch.setattr(school, "PUPILS", {"one": known})
        place.teach(["one"], minutes=6.0, turn_minutes=2.0)
        assert place.graduate("one", 0.0, refit=False) is ships
        assert (place.models / "one.onnx").exists() is ships


def test_a_better_mean_does_not_excuse_an_error_that_grew():
    targets = {"missed": 0.02, "false": 0.02}
    old = {"missed": 0.20, "false": 0.04}
    assert school.verdict(old, {"missed": 0.10, "false": 0.04}, targets)[0]
    better, reasons = school.verdict(old, {"missed": 0.02, "false": 0.08}, targets)
    assert not better and "false" in reasons[-1]
    assert not school.verdict(old, {"missed": float("nan"), "false": 0.02}, targets)[0]
    assert not school.verdict(old, old, targets)[0]
    assert distance({}, targets) > distance(old, targets) > 0.0
    assert distance({"missed": 0.01, "false": 0.02}, targets) == 0.0


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path):
    file = tmp_path / "school.jsonl"
    curve.append(file, {"name": "one", "what": "taught"})
    with file.open("a") as out:
        out.write('{"name": "tw')
    assert curve.read(file) == [{"name": "one", "what": "taught"}]
    assert "nothing has been taught" in curve.table(curve.read(tmp_path / "none"), {})


def test_the_real_register_is_complete(tmp_path):
    from training.pupils import PUPILS

    for name, pupil in PUPILS.items():
        assert pupil.name == name and pupil.targets and pupil.material.validation_units > 0
        card = ROOT / "models" / f"{name}.json"
        if card.exists():
            # Every target is an error that the shipped model's card lets one compute.
            known = pupil.errors(json.loads(card.read_text())["validation"])
            assert pupil.targets.keys() <= known.keys(), name
        fresh = course.Course(pupil, tmp_path, ROOT / "models")
        assert fresh.step > 0 or not card.exists()


def test_the_curve_becomes_a_picture(tmp_path):
    exam = {"what": "exam", "name": "one", "errors": {"miss": 0.5}, "samples": 10}
    done = exam | {"what": "graduated", "samples": 20, "shipped": {"miss": 0.6}}
    curve.plot([exam, done], {"one": {"miss": 0.1}}, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_every_view_comes_once_and_the_hard_ones_oftener():
    deck = Deck(np.random.default_rng(0))
    with pytest.raises(IndexError):
        deck.draw()
    deck.deal(range(100))
    assert sorted(deck.draw() for _ in range(100)) == list(range(100))
    for _ in range(3):
        deck.tell(range(100), [float(n >= 95) for n in range(100)])
    drawn = [deck.draw() for _ in range(2000)]
    hard = np.mean(np.array(drawn) >= 95)
    assert 0.1 < hard < 0.3
    assert set(drawn) == set(range(100))
    deck.deal([*range(95), 200])  # the hard ones are gone; the new one is next
    assert 200 in [deck.draw() for _ in range(6)]
    assert max(d for d in (deck.draw() for _ in range(500)) if d != 200) < 95
