# SPDX-License-Identifier: Apache-2.0
"""`spinenav rod plan` from file to file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rod_support import screw_rows

from spine_nav_bringup.cli import main
from spine_nav_common.core.implant_outputs import ScrewWriter


@pytest.fixture
def screws(tmp_path: Path) -> Path:
    with ScrewWriter(tmp_path) as writer:
        writer.write(screw_rows(stamp_ns=100))
        writer.write(screw_rows(stamp_ns=200))
    return tmp_path / "screws.csv"


def run(screws: Path, *more: str) -> int:
    return main(["rod", "plan", "--screws", str(screws), "--out", str(screws.parent / "o"), *more])


def test_both_sides_are_written_twice_alike(screws: Path) -> None:
    files = [screws.parent / "o" / f"bend_plan_{side}.json" for side in ("left", "right")]
    assert run(screws) == 0
    first = [f.read_bytes() for f in files]
    assert run(screws) == 0
    assert [f.read_bytes() for f in files] == first
    assert [json.loads(b)["side"] for b in first] == ["left", "right"]


def test_options_reach_the_plan(screws: Path) -> None:
    assert run(screws, "--side", "right", "--stamp", "100", "--material", "CoCr",
               "--diameter", "6", "--length", "180") == 0  # fmt: skip
    assert [f.name for f in (screws.parent / "o").iterdir()] == ["bend_plan_right.json"]
    rod = json.loads((screws.parent / "o" / "bend_plan_right.json").read_text())["rod"]
    assert rod == {"diameter_mm": 6.0, "length_mm": 180.0, "material": "CoCr"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--side", "lef"], "give left or right"),
        (["--stamp", "7"], "100 to 200"),
        (["--cranial", "down"], "contradict"),
        (["--length", "90"], "take a rod of"),
        (["--material", "gold"], "Ti6Al4V"),
        (["--die", "12"], "use a die of"),
        (["--lordosis", "nan"], "finite"),
    ],
    ids=lambda v: v[0] if isinstance(v, list) else "",
)
def test_wrong_options_end_with_2_one_line_and_no_file(
    screws: Path, capsys: pytest.CaptureFixture[str], options: list[str], text: str
) -> None:
    assert run(screws, *options) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1
    assert not (screws.parent / "o").exists()


def test_nan_in_the_file_is_refused_with_its_line(
    screws: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = screws.read_text().splitlines()
    fields = lines[3].split(",")
    fields[2] = "nan"
    lines[3] = ",".join(fields)
    screws.write_text("\n".join(lines) + "\n")
    assert run(screws) == 2
    assert "line 4" in capsys.readouterr().err


def test_one_bad_side_writes_nothing(screws: Path) -> None:
    rows = [r for r in screw_rows(stamp_ns=300) if r.side == "left" or r.level == "L4"]
    with ScrewWriter(screws.parent) as writer:
        writer.write(rows)
    assert run(screws) == 2
    assert not (screws.parent / "o").exists()


def test_the_command_names_its_own_options(
    screws: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for levels, option in ((False, "--cranial"), (True, "--side")):
        rows = screw_rows(levels=levels, labelled=levels, stamp_ns=300)
        if levels:
            rows = [r for r in rows if r.side == "left" or r.level == "L4"]
        with ScrewWriter(screws.parent) as writer:
            writer.write(rows)
        assert run(screws) == 2
        error = capsys.readouterr().err
        assert option in error and error.count("\n") == 1
