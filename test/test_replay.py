# SPDX-License-Identifier: Apache-2.0
"""`replay` as others build on it: rows, determinism, what it may not read, what it keeps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import trimesh

from spine_nav_bringup import cli, replay
from spine_nav_common.core.case import write_case
from spine_nav_common.core.errors import InputError
from spine_nav_common.core.outputs import read_poses, read_timings
from spine_nav_common.core.recording_writer import RecordingWriter
from spine_nav_common.core.types import (
    Case,
    Intrinsics,
    LevelEstimate,
    Mesh,
    NavigationResult,
    RgbdFrame,
    ScrewPlan,
    Status,
)
from spine_nav_common.parameters import ParameterError

K = Intrinsics(32, 24, 30.0, 30.0, 15.5, 11.5)
BIG = Intrinsics(480, 360, 450.0, 450.0, 239.5, 179.5)
STAMPS = [1_000_000_000 + 66_000_000 * i for i in range(6)]


class FakeSegmenter:
    provider = "fake"
    model_sha256 = "f" * 64


class FakeNavigator:
    """Gives poses that depend on the pixels alone; the third frame is occluded."""

    asks = False

    def __init__(self, case, segmenter, config, camera=None):
        self.case, self.pending, self.count = case, "L3-L4? (thin lead)" if self.asks else None, 0

    def confirm(self, accept: bool) -> str:
        self.pending = None
        return "accepted"

    def process(self, frame: RgbdFrame) -> NavigationResult:
        self.count += 1
        T = np.eye(4)
        T[:3, 3] = (frame.colour.mean() * 1e-3, 0.0, float(np.nanmean(frame.depth_m)))
        status = Status.OCCLUDED if self.count == 3 else Status.TRACKED
        if self.pending is not None:
            status, T = Status.REJECTED, None
        bound = None if T is None else 1.25
        levels = tuple(
            LevelEstimate(level, status, T, predicted_tre_mm=bound, reason="thin lead")
            for level in self.case.exposed_levels
        )
        events = ("registered",) if self.count == 1 else ()
        return NavigationResult(frame.stamp_ns, levels, {"update": 1.0 + self.count}, events)


def frame(stamp_ns: int, k: Intrinsics = K) -> RgbdFrame:
    rng = np.random.default_rng(stamp_ns)
    colour = rng.integers(0, 255, (k.height, k.width, 3), dtype=np.uint8)
    depth = rng.uniform(0.45, 0.55, (k.height, k.width)).astype(np.float32)
    return RgbdFrame(stamp_ns, colour, depth, k)


@pytest.fixture
def operation(tmp_path, monkeypatch) -> Path:
    """A folder with case, recording and truth of a tiny scene; the core is replaced."""
    monkeypatch.setattr(replay, "Navigator", FakeNavigator)
    monkeypatch.setattr(replay, "load_segmenter", lambda *_: FakeSegmenter())
    shape = trimesh.creation.icosphere(subdivisions=3, radius=0.02)
    base = np.asarray(shape.vertices) * (1.0, 1.2, 0.8)
    faces = np.asarray(shape.faces, np.int32)
    meshes = {f"L{i}": Mesh(base - (0, 0, 0.035 * i), faces) for i in (2, 3, 4)}
    plan = tuple(
        ScrewPlan(f"L{i}", side, np.array([x, 0.02, -0.035 * i]), np.array([x, -0.015, -0.035 * i]))
        for i in (2, 3, 4)
        for side, x in (("left", 0.01), ("right", -0.01))
    )
    write_case(tmp_path / "case", Case("tiny", "LPS", meshes, ("L3", "L4"), plan, ""))
    with RecordingWriter(tmp_path / "recording") as writer:
        for stamp_ns in STAMPS:
            writer.write_rgbd(frame(stamp_ns))
    (tmp_path / "truth.json").write_text("{}")
    return tmp_path


def run(folder: Path, out: str, **options) -> replay.Outcome:
    return replay.replay(folder / "recording", folder / "case", folder / out, **options)


def test_one_row_per_exposed_level_and_frame_in_the_order_of_the_case(operation):
    outcome = run(operation, "out")
    rows = read_poses(operation / "out" / "poses.csv")
    assert [(r.stamp_ns, r.level) for r in rows] == [(s, v) for s in STAMPS for v in ("L3", "L4")]
    assert [r.status.value for r in rows].count("occluded") == 2
    assert all(r.latency_ms is None for r in rows)
    assert outcome.exit_code == 0


def test_a_second_run_gives_the_same_bytes_and_truth_is_not_read(operation):
    run(operation, "first")
    (operation / "truth.json").unlink()
    run(operation, "second")
    first, second = (operation / n / "poses.csv" for n in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


def test_replay_reads_no_truth_even_where_it_is_poisoned(operation, monkeypatch):
    from spine_nav_common.core import truth

    monkeypatch.setattr(truth, "load_truth", lambda path: pytest.fail("replay read the truth"))
    opened = []
    original = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, *a, **k: (opened.append(self.name), original(self, *a, **k))[1]
    )
    run(operation, "out")
    assert "truth.json" not in opened


def test_poses_depend_on_the_pixels(operation):
    """Guards the determinism test: equal bytes must not come from constant output."""
    run(operation, "out")
    rows = read_poses(operation / "out" / "poses.csv")
    assert len({float(r.T_camera_ct[0, 3]) for r in rows}) == len(STAMPS)


def test_summary_says_what_ran(operation):
    run(operation, "out")
    summary = json.loads((operation / "out" / "summary.json").read_text())
    assert summary["hashes"]["model"] == "f" * 64
    assert set(summary["hashes"]) == {"model", "config", "case", "recording"}
    assert all(len(h) == 64 for h in summary["hashes"].values())
    assert summary["status_counts"]["tracked"] == 10
    assert summary["status_counts_per_level"]["L4"]["occluded"] == 1
    assert summary["timings_ms"]["update"]["median"] == 4.5
    assert summary["drops"]["read"] == len(STAMPS)
    assert summary["events"] == [{"stamp_ns": STAMPS[0], "event": "registered"}]
    assert summary["stopped"] == ""
    assert "numpy" in summary["versions"]
    assert len(read_timings(operation / "out" / "timings.csv")["update"]) == len(STAMPS)


def test_the_recording_and_the_settings_change_the_hashes(operation):
    one = run(operation, "a").summary["hashes"]
    two = run(operation, "b", assignments=["navigation.navigator.level_margin=9"]).summary
    assert one["config"] != two["hashes"]["config"]
    assert one["recording"] == two["hashes"]["recording"]
    assert two["config"]["level_margin"] == 9.0


def test_a_truncated_recording_keeps_its_rows_and_exits_with_one(operation):
    shutil.rmtree(operation / "recording")
    with RecordingWriter(operation / "recording", compress=False) as writer:
        for stamp_ns in STAMPS:
            writer.write_rgbd(frame(stamp_ns, BIG))  # several chunks: a chunk is read whole
    (mcap,) = (operation / "recording").glob("*.mcap")
    whole = mcap.read_bytes()
    cut = operation / "cut.mcap"
    cut.write_bytes(whole[: int(len(whole) * 0.6)])
    outcome = replay.replay(cut, operation / "case", operation / "out")
    rows = read_poses(operation / "out" / "poses.csv")
    assert outcome.exit_code == 1
    assert 0 < len(rows) < 2 * len(STAMPS)
    assert json.loads((operation / "out" / "summary.json").read_text())["truncated"]
    assert "INCOMPLETE" in outcome.text()
    argv = ["replay", str(cut), "--case", str(operation / "case"), "--out", str(operation / "o2")]
    assert cli.main(argv) == 1


def test_a_fault_in_mid_run_keeps_the_rows_so_far(operation):
    def explode(frame, result):
        if frame.stamp_ns == STAMPS[3]:
            raise RuntimeError("screen unplugged")

    with pytest.raises(RuntimeError, match="unplugged"):
        run(operation, "out", watch=explode)
    assert len(read_poses(operation / "out" / "poses.csv")) == 8
    assert json.loads((operation / "out" / "summary.json").read_text())["stopped"]


def test_ctrl_c_keeps_the_rows_and_exits_with_one(operation, monkeypatch, capsys):
    original = FakeNavigator.process

    def interrupted(self, frame):
        if frame.stamp_ns == STAMPS[2]:
            raise KeyboardInterrupt
        return original(self, frame)

    monkeypatch.setattr(FakeNavigator, "process", interrupted)
    argv = ["replay", str(operation / "recording"), "--case", str(operation / "case")]
    assert cli.main([*argv, "--out", str(operation / "out")]) == 1
    assert "what was written stays" in capsys.readouterr().err
    assert len(read_poses(operation / "out" / "poses.csv")) == 4
    summary = json.loads((operation / "out" / "summary.json").read_text())
    assert summary["stopped"] == "stopped by the user"


def test_without_confirm_a_level_that_asks_stays_rejected(operation, monkeypatch):
    monkeypatch.setattr(FakeNavigator, "asks", True)
    outcome = run(operation, "out")
    assert outcome.summary["status_counts"]["rejected"] == 2 * len(STAMPS)
    assert outcome.summary["confirmed"] == []


def test_confirm_accepts_the_hypothesis_and_says_so(operation, monkeypatch):
    monkeypatch.setattr(FakeNavigator, "asks", True)
    outcome = run(operation, "out", confirm=True)
    assert outcome.summary["confirmed"] == [
        {"stamp_ns": STAMPS[0], "hypothesis": "L3-L4? (thin lead)"}
    ]
    assert outcome.summary["status_counts"]["rejected"] == 2
    assert outcome.summary["status_counts"]["tracked"] > 0
    assert "confirmed by --confirm" in outcome.text()


def test_remap_lets_other_names_in(operation, tmp_path):
    remap = tmp_path / "remap.yaml"
    remap.write_text("/camera/camera/color/image_raw: /not/there\n")
    with pytest.raises(InputError, match="/not/there"):
        run(operation, "out", remap=remap)
    assert not (operation / "out").exists()


def test_settings_come_from_a_ros_parameters_file(tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text(
        "/**/navigation:\n  ros__parameters:\n    case: ignored here\n"
        "    navigator: {level_margin: 5.0, hold_s: 2.0}\n"
    )
    config = replay.navigator_config(file, ["navigation.navigator.hold_s=1.5"])
    assert (config.level_margin, config.hold_s) == (5.0, 1.5)


@pytest.mark.parametrize(
    ("assignment", "text"),
    [
        ("navigation.navigator.level_margn=5", "did you mean 'level_margin'"),
        ("navigation.navigator.level_margin=-5", "at least"),
        ("navigation.publish_tf=true", "belongs to live"),
        ("level_margin", "give name=value"),
    ],
)
def test_wrong_settings_are_refused_with_the_remedy(assignment, text):
    with pytest.raises(ParameterError, match=text):
        replay.navigator_config(None, [assignment])


def _rename_a_screw(case: Path) -> None:
    file = case / "plan.mrk.json"
    file.write_text(file.read_text().replace("L3_left", "L3 Left"))


def test_what_was_mended_in_the_case_stands_in_the_summary_and_at_the_terminal(operation):
    assert run(operation, "quiet").summary["notes"] == []
    _rename_a_screw(operation / "case")
    outcome = run(operation, "out")
    told = json.loads((operation / "out" / "summary.json").read_text())["notes"]
    assert told == outcome.summary["notes"] and len(told) == 1
    assert "'L3 Left' as L3 left" in told[0]
    assert f"note: {told[0]}" in outcome.text()
