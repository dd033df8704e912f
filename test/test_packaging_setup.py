# SPDX-License-Identifier: Apache-2.0
"""`make setup`: what it refuses, with which remedy, and that it does nothing twice."""

from __future__ import annotations

import importlib.util
import json
import os
import stat
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def bootstrap() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "scripts" / "bootstrap.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fake_python(path: Path, body: str) -> Path:
    """An executable that stands for a Python."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def fake_venv(bootstrap: ModuleType, tmp_path: Path, body: str) -> object:
    fake_python(tmp_path / "venv" / "bin" / "python", body)
    return bootstrap.Venv(tmp_path / "venv")


def setup_sh(**variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SPINENAV_NO_APT": "1", "VENV": "/nonexistent/venv", **variables}
    return subprocess.run(
        ["sh", str(ROOT / "scripts" / "setup.sh")],
        env=environment, text=True, capture_output=True, check=False,
    )  # fmt: skip


def test_a_python_that_is_too_old_or_too_new_is_refused(tmp_path: Path) -> None:
    python = fake_python(tmp_path / "python3.9", "exit 1")  # what the version check returns
    done = setup_sh(PYTHON=str(python))
    assert done.returncode == 2
    assert "is not a Python 3.10, 3.11 or 3.12" in done.stderr


def test_no_supported_python_at_all_names_the_remedy(tmp_path: Path) -> None:
    for tool in ("dirname", "uname", "id"):
        (tmp_path / tool).symlink_to(f"/usr/bin/{tool}")
    fake_python(tmp_path / "python3", '[ "$1" = --version ] && echo Python 3.13.0; exit 1')
    done = subprocess.run(
        ["/bin/sh", str(ROOT / "scripts" / "setup.sh")],
        env={"PATH": str(tmp_path), "VENV": "/nonexistent/venv"},
        text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "found Python 3.13.0" in done.stderr
    assert "make setup PYTHON=" in done.stderr


def test_another_machine_than_x86_64_is_sent_to_docker(tmp_path: Path) -> None:
    fake_python(tmp_path / "uname", '[ "$1" = -s ] && echo Linux || echo aarch64')
    done = setup_sh(PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 2
    assert "docker/README.md" in done.stderr


def test_an_environment_of_an_unsupported_python_is_refused(bootstrap, tmp_path, capsys) -> None:
    venv = fake_venv(bootstrap, tmp_path, "echo 3 13")
    with pytest.raises(SystemExit) as stop:
        bootstrap.install_lock(venv)
    assert stop.value.code == 2
    assert "rm -r" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "remedy"),
    [
        ("NewConnectionError: Name or service not known", "connect this machine to the network"),
        ("THESE PACKAGES DO NOT MATCH THE HASHES", "does not match its hash"),
        ("error: something else", "pip failed"),
    ],
)
def test_a_failure_of_pip_is_explained(bootstrap, tmp_path, capsys, output, remedy) -> None:
    venv = fake_venv(bootstrap, tmp_path, f"echo '{output}'; exit 1")
    with pytest.raises(SystemExit) as stop:
        venv.pip("install", "numpy")
    assert stop.value.code == 2
    assert remedy in capsys.readouterr().err


def test_a_finished_step_is_not_repeated_and_a_changed_lock_is(
    bootstrap, tmp_path, monkeypatch
) -> None:
    calls = tmp_path / "calls"
    venv = fake_venv(bootstrap, tmp_path, f'echo 3 11; case "$*" in *pip*) echo >>{calls};; esac')
    (tmp_path / "requirements").mkdir()
    lock = tmp_path / "requirements" / "lock-py311.txt"
    lock.write_text("numpy==2.4.6 \\\n    --hash=sha256:0\n")
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)

    def installs() -> int:
        bootstrap.install_lock(bootstrap.Venv(venv.path))
        return calls.read_text().count("\n")

    assert [installs(), installs()] == [1, 1]
    lock.write_text("numpy==2.4.7 \\\n    --hash=sha256:1\n")
    assert [installs(), installs()] == [2, 2]


def test_an_interrupted_setup_leaves_no_stamp(bootstrap, tmp_path, monkeypatch) -> None:
    venv = fake_venv(bootstrap, tmp_path, 'echo 3 11; case "$*" in *pip*) exit 1;; esac')
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "lock-py311.txt").write_text("numpy==2.4.6\n")
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    with pytest.raises(SystemExit):
        bootstrap.install_lock(venv)
    assert bootstrap.Venv(venv.path).stamps == {}


def test_a_damaged_stamp_file_means_setting_up_again(bootstrap, tmp_path) -> None:
    venv = fake_venv(bootstrap, tmp_path, "true")
    venv.mark("lock", "abc")
    assert bootstrap.Venv(venv.path).done("lock", "abc")
    venv.stamp_file.write_text(json.dumps({"lock": "abc"})[:5])
    assert not bootstrap.Venv(venv.path).done("lock", "abc")


def test_children_see_no_sourced_ros_and_no_other_environment(bootstrap, monkeypatch) -> None:
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    for name in ("PYTHONPATH", "LD_LIBRARY_PATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE"):
        monkeypatch.setenv(name, "/opt/ros")
    assert not {"PYTHONPATH", "LD_LIBRARY_PATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE"} & set(
        bootstrap.clean_environment()
    )


def test_an_unknown_extra_is_refused(bootstrap, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["bootstrap.py", "--extras", "gpuu"])
    with pytest.raises(SystemExit) as stop:
        bootstrap.main()
    assert stop.value.code == 2
    assert "train gpu" in capsys.readouterr().err
