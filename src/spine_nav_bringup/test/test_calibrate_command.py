# SPDX-License-Identifier: Apache-2.0
"""`spinenav calibrate depth` on the recording of a board that `spinenav simulate` writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from spine_nav_bringup import cli
from spine_nav_bringup.calibrate import BOARD
from spine_nav_common.core.depth_calibration import load_depth_calibration


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("board") / "out"
    assert cli.main(["simulate", "--scene", "board", "--seed", "3", "--out", str(out)]) == 0
    return out


def test_a_simulated_board_is_calibrated_by_the_printed_words(written, tmp_path):
    out = tmp_path / "depth.yaml"
    argv = ["calibrate", "depth", str(written / "recording"), "--board", BOARD, "--out", str(out)]
    assert cli.main(argv) == 0
    left = load_depth_calibration(out).told["held_out_rms_mm_at_0_5_m"]
    assert left["bias"] < 0.5 * left["scale alone"]


def test_a_board_is_not_written_over_another(written, capsys):
    assert cli.main(["simulate", "--scene", "board", "--out", str(written)]) == 2
    assert "already there" in capsys.readouterr().err
