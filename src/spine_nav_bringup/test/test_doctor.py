# SPDX-License-Identifier: Apache-2.0
"""The doctor names what is missing and the remedy, and survives every illness."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from spine_nav_bringup import doctor
from spine_nav_bringup.doctor import Finding, Report, State
from spine_nav_bringup.doctor_latency import latency_text
from spine_nav_common.core.budgets import StageTimes
from spine_nav_common.ros.runtime import PROFILE


def without(*absent: str) -> doctor.Importer:
    def importer(name: str) -> ModuleType:
        if name in absent:
            raise ImportError(f"No module named {name!r}")
        return importlib.import_module(name)

    return importer


@pytest.mark.parametrize("version", [(3, 9), (3, 13), (2, 7)])
def test_an_unsupported_python_is_missing_with_a_remedy(version):
    finding = doctor.check_python(version)
    assert finding.state is State.MISSING
    assert "PYTHON=" in finding.remedy


@pytest.mark.parametrize("version", [(3, 10), (3, 11), (3, 12)])
def test_a_supported_python_is_ok(version):
    assert doctor.check_python(version).state is State.OK


def test_a_wheel_that_does_not_load_is_named_with_its_error():
    def importer(name: str) -> ModuleType:
        if name == "open3d":
            raise ImportError("libEGL.so.1: cannot open shared object file")
        return ModuleType(name)

    finding = doctor.check_numerical(importer)
    assert finding.state is State.MISSING
    assert "open3d (libEGL.so.1" in finding.found
    assert "numpy" not in finding.found
    assert "libegl1" in finding.remedy


def test_a_missing_bridge_is_named_and_no_illness():
    finding = doctor.check_bridges(without("foxglove"))
    assert finding.state is State.OPTIONAL and "foxglove-sdk" in finding.remedy
    assert doctor.check_bridges(lambda name: ModuleType(name)).state is State.OK


def test_without_rclpy_ros_is_missing_and_the_rest_is_not_asked():
    findings = doctor.check_ros(without("rclpy"))
    assert [f.state for f in findings] == [State.MISSING]
    assert "make setup" in findings[0].remedy


def test_without_tf2_msgs_only_tf_is_off(monkeypatch):
    pytest.importorskip("rclpy")
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE", raising=False)
    findings = {f.topic: f for f in doctor.check_ros(without("tf2_msgs.msg"))}
    assert findings["/tf"].state is State.OPTIONAL
    assert "g++" in findings["/tf"].remedy
    assert findings["ROS 2"].state is State.OK
    assert Report(tuple(findings.values())).exit_code == 0


def test_a_shell_whose_camera_drivers_would_lose_images_is_told(monkeypatch):
    pytest.importorskip("rclpy")
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE", raising=False)
    findings = {f.topic: f for f in doctor.check_ros()}
    remedy = findings["camera drivers"].remedy
    assert findings["DDS profile"].found in remedy and remedy.startswith("export FASTRTPS_")
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", findings["DDS profile"].found)
    assert "camera drivers" not in {f.topic for f in doctor.check_ros()}


def test_a_dds_profile_that_is_no_file_is_found(monkeypatch, tmp_path):
    pytest.importorskip("rclpy")
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", str(tmp_path / "gone.xml"))
    findings = {f.topic: f for f in doctor.check_ros()}
    assert findings["DDS profile"].state is State.MISSING


def test_docker_s_default_shared_memory_is_too_small(monkeypatch, tmp_path):
    monkeypatch.setattr(
        doctor.shutil, "disk_usage", lambda path: SimpleNamespace(total=64 * 2**20, free=64 * 2**20)
    )
    finding = doctor.check_shared_memory(tmp_path)
    assert finding.state is State.OPTIONAL
    assert "--shm-size" in finding.remedy


def test_no_shared_memory_at_all_is_survived(tmp_path):
    finding = doctor.check_shared_memory(tmp_path / "none")
    assert finding.state is State.OPTIONAL
    assert finding.remedy


@pytest.mark.parametrize(
    ("text", "state", "words"),
    [
        ("212992\n", State.OPTIONAL, "0.2 MB: a node that dies is back"),
        ("4194304\n", State.OK, "4.0 MB"),
        ("?", State.OPTIONAL, "not known"),
    ],
)
def test_a_small_udp_buffer_is_told(tmp_path, text, state, words):
    (tmp_path / "rmem_max").write_text(text)
    finding = doctor.check_udp_buffer(tmp_path / "rmem_max")
    assert finding.state is state and words in finding.found
    assert ("sysctl" in finding.remedy) == text.startswith("2")
    assert str(doctor.UDP_NEEDED) in PROFILE.read_text(), "what the profile asks for"


def test_a_gpu_that_onnx_runtime_cannot_use_is_told(tmp_path):
    driver = tmp_path / "proc/driver/nvidia"
    driver.mkdir(parents=True)
    (driver / "version").touch()
    cpu, cuda = "CPUExecutionProvider", "CUDAExecutionProvider"
    assert "EXTRAS=gpu" in doctor.check_gpu([cpu], tmp_path, lambda name: None).remedy
    assert doctor.check_gpu([cuda, cpu], tmp_path, lambda name: None).state is State.OK
    assert doctor.check_gpu([cpu], tmp_path / "none", lambda name: None).remedy == ""


def test_a_model_that_is_not_its_card_s_is_missing(monkeypatch, tmp_path):
    inference = importlib.import_module("spine_perception.core.inference")
    model = tmp_path / inference.MODEL_NAME
    model.write_bytes(b"damaged")
    card = {
        "sha256": "0" * 64,
        "input": {
            "size": inference.GRID_SIZE,
            "channels": list(inference.CHANNELS),
            "centre_scale_m": inference.CENTRE_SCALE_M,
        },
    }
    model.with_suffix(".json").write_text(json.dumps(card))
    monkeypatch.setenv(inference.MODEL_VARIABLE, str(model))
    finding = doctor.check_model()[-1]
    assert finding.state is State.MISSING
    assert "sha256" in finding.found


def test_no_model_file_is_missing_and_told(monkeypatch, tmp_path):
    inference = importlib.import_module("spine_perception.core.inference")
    monkeypatch.setenv(inference.MODEL_VARIABLE, str(tmp_path / "none.onnx"))
    finding = doctor.check_model()[-1]
    assert finding.state is State.MISSING
    assert "none.onnx" in finding.found


def test_cameras_are_listed_and_their_absence_is_no_fault():
    info = SimpleNamespace(name=0, serial_number=1)
    camera = SimpleNamespace(get_info=lambda field: ("D435", "0123")[field])

    def importer(cameras: list[object]) -> doctor.Importer:
        context = SimpleNamespace(query_devices=lambda: cameras)
        module = SimpleNamespace(camera_info=info, context=lambda: context)
        return lambda name: module  # type: ignore[return-value]

    assert doctor.check_cameras(importer([camera])) == Finding("RealSense", State.OK, "D435 0123")
    assert doctor.check_cameras(importer([])).state is State.OPTIONAL
    assert doctor.check_cameras(without("pyrealsense2")).state is State.OPTIONAL


def test_the_latency_table_marks_what_is_over_its_budget():
    times = StageTimes()
    times.note({"update": 40.0, "network": 1.0, "decode": 0.5})
    lines = latency_text(times, "OpenVINO bf16").splitlines()
    marked = [line.split()[0] for line in lines if line.endswith("OVER")]
    assert marked == ["update"]
    assert any("OpenVINO bf16" in line for line in lines)


def test_a_full_disk_is_missing(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=1e9))
    assert doctor.check_disk(tmp_path).state is State.MISSING


def test_only_what_the_main_job_needs_decides_the_exit_code():
    ok, optional = Finding("a", State.OK, "x"), Finding("b", State.OPTIONAL, "y", "do z")
    missing = Finding("c", State.MISSING, "y", "do z")
    assert Report((ok, optional)).exit_code == 0
    assert Report((ok, missing)).exit_code == 1
    assert "-> do z" in Report((optional,)).text()
    assert "1 missing" in Report((missing, ok)).text()


def test_the_whole_examination_ends_with_a_report(capsys):
    assert doctor.run_doctor() in (0, 1)
    text = capsys.readouterr().out
    for topic in ("Python", "numerical wheels", "ROS 2", "/dev/shm", "model", "RealSense", "disk"):
        assert topic in text
