# SPDX-License-Identifier: Apache-2.0
"""Demo and bench from end to end on the shipped network, as short as they can be."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from spine_nav_bench import bench
from spine_nav_bringup import cli, demo

pytestmark = pytest.mark.slow


def test_the_demo_without_ros_says_so_and_ends_with_table_and_pictures(
    tmp_path, monkeypatch, capsys
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "rclpy" else find(name, *a)
    )
    code = demo.run_demo(tmp_path, seed=400007, seconds=1.0)
    text = capsys.readouterr().out
    assert "NO ROS 2 HERE" in text
    assert "TRE mm" in text
    report = json.loads((tmp_path / "evaluation.json").read_text())
    assert report["way"] == "replay without ROS"
    assert code == (1 if report["problems"] else 0)
    assert all(problem in text for problem in report["problems"])
    for name in ("error_over_time.png", "overlay.png", "overlay_strip.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    assert list((tmp_path / "foxglove").glob("*.mcap"))


def test_a_smoke_bench_compares_all_methods_and_records_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", "--smoke", "--only", "accuracy", "--json"]) == 0
    (line,) = capsys.readouterr().out.strip().splitlines()
    record = json.loads(line)
    assert list(record["scratch"]) and "SpineNav" in record["scratch"]
    assert len(record["scratch"]) == 4
    assert len({m["levels"] for m in record["scratch"].values()}) == 1  # the same frames for all
    assert {"commit", "dirty", "model_sha256", "seeds", "machine", "command"} <= set(record)
    assert not (tmp_path / "docs").exists()


def test_a_bench_with_a_folder_of_its_own_writes_nothing_outside(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "RODS", 1)
    for argument in ((), ("--results", "mine")):
        before = {p for p in tmp_path.rglob("*") if p.is_file()}
        Path("docs").mkdir(exist_ok=True)
        assert cli.main(["bench", "--only", "rod", *argument]) == 0
        after = {p for p in tmp_path.rglob("*") if p.is_file()}
        new = {p.relative_to(tmp_path) for p in after - before}
        folder = "mine" if argument else "docs"
        assert {p.parts[0] for p in new} == {folder}
        assert Path(folder, "results.md") in new
    assert bench.places(Path("mine")).cache == Path("mine/cache")
    assert bench.places(Path("mine")).images == Path("mine/img")
