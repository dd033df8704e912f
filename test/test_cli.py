# SPDX-License-Identifier: Apache-2.0
"""The command line as a user meets it: help, exit codes, one-line errors."""

from __future__ import annotations

import subprocess
import sys

import pytest

from spine_nav_bringup import cli

COMMANDS = {
    "demo": (),
    "simulate": ("--out", "--anatomy", "--seed", "--seconds", "--scene"),
    "replay": ("--case", "--out", "--confirm", "--remap", "--config"),
    "live": ("--case", "--source", "--out"),
    "evaluate": ("--truth", "--case", "--json"),
    "screws": ("--out", "--case", "--cranial", "--remap", "--set", "--models"),
    "rod plan": ("--screws", "--side", "--stamp", "--out"),
    "plan": ("--out", "--labels", "--levels", "--implants", "--series"),
    "segment": ("--out",),
    "grade": ("--case", "--screws", "--ct"),
    "measures": (),
    "bench": ("--json", "--anatomy", "--scenes"),
    "doctor": (),
}


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "spine_nav_bringup.cli", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*command.split(), "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for option in COMMANDS[command]:
        assert option in text


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from spine_nav_bringup import cli; cli.build_parser().format_help();"
        "heavy = {'numpy', 'cv2', 'open3d', 'onnxruntime', 'rclpy', 'matplotlib', 'scipy'};"
        "sys.exit(repr(sorted(heavy & set(sys.modules))) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["fly"],
        ["replay"],
        ["replay", "rec", "--case", "c"],
        ["simulate", "--out", "x", "--seconds", "-1"],
        ["simulate", "--out", "x", "--seconds", "nan"],
        ["simulate", "--out", "x", "--seed", "-3"],
        ["rod"],
        ["screws", "rec", "--out", "o", "--cranial", "north"],
    ],
)
def test_wrong_usage_exits_with_two(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    assert stop.value.code == 2
    assert "spinenav" in capsys.readouterr().err


def test_a_missing_case_is_one_line_with_a_remedy(tmp_path):
    done = run("replay", str(tmp_path / "none"), "--case", str(tmp_path), "--out", str(tmp_path))
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert "case.yaml" in done.stderr
    assert "Traceback" not in done.stderr
