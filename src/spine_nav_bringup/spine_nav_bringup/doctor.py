# SPDX-License-Identifier: Apache-2.0
"""What this machine has, and what to do about what is missing: `spinenav doctor`.

Every check returns findings and never raises: a doctor that dies on the first illness helps nobody.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from importlib import metadata
from pathlib import Path
from types import ModuleType

SETUP = "make setup"
# Without these no command but `doctor` works.
NUMERICAL = ("numpy", "scipy", "numba", "cv2", "yaml", "trimesh", "onnxruntime", "open3d", "small_gicp",
             "rosbags", "matplotlib", "PIL")  # fmt: skip
# One participant maps a 32 MB segment (fastdds_shm32M.xml); `live` with a viewer and a recorder
# has three, and Docker gives 64 MB unless told otherwise.
SHM_NEEDED_MB = 128
UDP_NEEDED = 4 * 2**20  # receiveBufferSize of fastdds_shm32M.xml
DISK_NEEDED_GB = 2.0
HEALTH_S = 2.0  # a graph that runs tells its health once a second

Importer = Callable[[str], ModuleType]


class State(str, Enum):
    """How a finding bears on the main job."""

    OK = "ok"
    OPTIONAL = "--"  # absent; something works less or not at all, the main job does
    MISSING = "MISSING"  # the main job does not work


@dataclass(frozen=True)
class Finding:
    """One thing looked at; remedy is empty only where nothing is to be done."""

    topic: str
    state: State
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Report:
    """All findings; exit_code is 0 when the main job works here, 1 when it does not."""

    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        return int(any(f.state is State.MISSING for f in self.findings))

    def text(self) -> str:
        width = max(len(f.topic) for f in self.findings)
        lines = []
        for f in self.findings:
            lines.append(f"{f.state.value:>7}  {f.topic:<{width}}  {f.found}")
            if f.remedy:
                lines.append(f"{'':>7}  {'':<{width}}  -> {f.remedy}")
        missing = sum(f.state is State.MISSING for f in self.findings)
        lines.append(
            f"{missing} missing: the main job does not work here yet"
            if missing
            else "the main job works here; '--' marks what is absent and not needed for it"
        )
        return "\n".join(lines)


def check_python(version: tuple[int, int] = sys.version_info[:2]) -> Finding:
    """version: (major, minor)."""
    found = f"{version[0]}.{version[1]} in {sys.prefix}"
    if (3, 10) <= version <= (3, 12):
        return Finding("Python", State.OK, found)
    remedy = f"SpineNav needs 3.10 to 3.12: {SETUP} PYTHON=/path/to/python3.12"
    return Finding("Python", State.MISSING, found, remedy)


def _version(name: str, module: ModuleType) -> str:
    with suppress(metadata.PackageNotFoundError):
        return str(getattr(module, "__version__", None) or metadata.version(name))
    return ""


def check_numerical(importer: Importer = importlib.import_module) -> Finding:
    """The wheels of the numerical core, by really importing them (a missing libGL shows here)."""
    versions, errors = [], []
    for name in NUMERICAL:
        try:
            module = importer(name)
        except Exception as error:  # noqa: BLE001  # a broken wheel raises anything
            errors.append(f"{name} ({error})")
        else:
            versions.append(f"{name} {_version(name, module)}".rstrip())
    if errors:
        remedy = f"{SETUP}; libEGL or libGL: sudo apt-get install libegl1 libgl1 libusb-1.0-0"
        return Finding("numerical wheels", State.MISSING, "; ".join(errors), remedy)
    return Finding("numerical wheels", State.OK, ", ".join(versions))


def check_ros(importer: Importer = importlib.import_module) -> list[Finding]:
    """rclpy, tf2_msgs, the DDS profile and the launch packages."""
    from spine_nav_common.ros.runtime import PROFILE, prepare_environment

    set_here = "FASTRTPS_DEFAULT_PROFILES_FILE" in os.environ
    prepare_environment()
    findings = []
    try:
        rclpy = importer("rclpy")
        where = Path(rclpy.__file__ or "").parent
        distro = os.environ.get("ROS_DISTRO", "Jazzy wheels from PyPI")
        findings.append(Finding("ROS 2", State.OK, f"rclpy in {where} ({distro})"))
    except Exception as error:  # noqa: BLE001
        remedy = f"{SETUP}, or source /opt/ros/jazzy/setup.sh; replay, evaluate and bench need none"
        return [Finding("ROS 2", State.MISSING, f"no rclpy: {error}", remedy)]
    try:
        importer("tf2_msgs.msg")
        findings.append(Finding("/tf", State.OK, "tf2_msgs"))
    except Exception:  # noqa: BLE001
        remedy = f"sudo apt-get install g++ python3-dev, then {SETUP}; all other topics work"
        findings.append(Finding("/tf", State.OPTIONAL, "off: no tf2_msgs", remedy))
    profile = Path(os.environ.get("FASTRTPS_DEFAULT_PROFILES_FILE", PROFILE))
    if not profile.is_file():
        remedy = f"unset FASTRTPS_DEFAULT_PROFILES_FILE, or point it to {PROFILE}"
        findings.append(Finding("DDS profile", State.MISSING, f"{profile} is no file", remedy))
    else:
        findings.append(Finding("DDS profile", State.OK, str(profile)))
        if not set_here:
            found = "one that is started from this shell sends images that do not all arrive"
            remedy = f"export FASTRTPS_DEFAULT_PROFILES_FILE={profile} before it starts"
            findings.append(Finding("camera drivers", State.OPTIONAL, found, remedy))
    try:
        importer("launch")
        findings.append(Finding("ros2 launch", State.OK, "launch"))
    except Exception:  # noqa: BLE001
        remedy = "use 'spinenav live', the same graph; launch comes with a full ROS 2 installation"
        findings.append(Finding("ros2 launch", State.OPTIONAL, "no launch package", remedy))
    return findings


def check_graph(namespace: str = "/spine", seconds: float = HEALTH_S) -> Finding:
    """What the health of a graph that runs now says, lost images included."""
    from spine_nav_common.ros.runtime import RosMissing, require_ros

    topic = "running graph"
    try:
        require_ros()
        from .ros.health import newest_health

        status = newest_health(namespace, seconds)
    except (RosMissing, ImportError, RuntimeError) as error:
        return Finding(topic, State.OPTIONAL, f"cannot be asked: {error}", SETUP)
    if status is None:
        return Finding(topic, State.OPTIONAL, f"none is heard in {namespace}")
    well = status.level == b"\x00"
    return Finding(topic, State.OK if well else State.OPTIONAL, status.message)


def check_bridges(importer: Importer = importlib.import_module) -> Finding:
    """What the bridges to other programs need; the rest runs without. OpenIGTLink needs nothing."""
    try:
        module = importer("foxglove")
    except Exception as error:  # noqa: BLE001
        remedy = "pip install 'foxglove-sdk>=0.30' for live --foxglove; all else works without"
        return Finding("bridges", State.OPTIONAL, f"no Foxglove: {error}", remedy)
    found = f"OpenIGTLink, Foxglove {_version('foxglove-sdk', module)}".rstrip()
    return Finding("bridges", State.OK, found)


def check_shared_memory(path: Path = Path("/dev/shm")) -> Finding:
    """Room for the shared-memory segments of Fast DDS."""
    try:
        size_mb = shutil.disk_usage(path).total / 2**20
    except OSError as error:
        remedy = "mount a tmpfs on /dev/shm (in a chroot: mount --bind /dev/shm)"
        return Finding("/dev/shm", State.OPTIONAL, f"{error.strerror}: images go by UDP", remedy)
    found = f"{size_mb:.0f} MB"
    if not os.access(path, os.W_OK):
        remedy = f"chmod 1777 {path}"
        return Finding("/dev/shm", State.OPTIONAL, f"{found}, not writable", remedy)
    if size_mb < SHM_NEEDED_MB:
        remedy = f"docker run --ipc=host, or --shm-size={2 * SHM_NEEDED_MB}m (see docker/README.md)"
        return Finding("/dev/shm", State.OPTIONAL, f"{found}: images may be lost", remedy)
    return Finding("/dev/shm", State.OK, found)


def check_udp_buffer(path: Path = Path("/proc/sys/net/core/rmem_max")) -> Finding:
    """How much a UDP socket of Fast DDS may hold: discovery of a restarted node overflows less."""
    try:
        size = int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return Finding("UDP buffer", State.OPTIONAL, "not known here", "")
    found = f"{size / 2**20:.1f} MB"
    if size < UDP_NEEDED:
        remedy = f"sysctl -w net.core.rmem_max={UDP_NEEDED}"
        found += ": a node that dies is back one to three seconds later"
        return Finding("UDP buffer", State.OPTIONAL, found, remedy)
    return Finding("UDP buffer", State.OK, found)


def check_gpu(
    providers: Iterable[str],
    root: Path = Path("/"),
    which: Callable[[str], str | None] = shutil.which,
) -> Finding:
    """providers: what this ONNX Runtime was built with; root: where /proc and /etc stand."""
    jetson = (root / "etc/nv_tegra_release").exists()
    gpu = jetson or (root / "proc/driver/nvidia/version").exists() or which("nvidia-smi")
    usable = [p for p in providers if p in ("TensorrtExecutionProvider", "CUDAExecutionProvider")]
    if not gpu:
        return Finding("GPU", State.OPTIONAL, "none; the CPU runs everything", "")
    if usable:
        return Finding("GPU", State.OK, f"NVIDIA, ONNX Runtime with {', '.join(usable)}")
    remedy = "on a Jetson see docker/README.md" if jetson else f"{SETUP} EXTRAS=gpu"
    return Finding("GPU", State.OPTIONAL, "NVIDIA, but this ONNX Runtime is CPU only", remedy)


def check_model() -> list[Finding]:
    """The network: file, card, hash, and what computes it here, in which precision and why."""
    try:
        import onnxruntime

        from spine_nav_common.core.cpu import cpu_flags
        from spine_perception.core.backends import choose
        from spine_perception.core.inference import ModelError, OnnxNetwork, find_model
    except Exception as error:  # noqa: BLE001
        return [Finding("model", State.MISSING, f"cannot be checked: {error}", SETUP)]
    providers = onnxruntime.get_available_providers()
    findings = [check_gpu(providers)]
    try:
        path = find_model()
        network = OnnxNetwork(path)
    except ModelError as error:
        found, _, remedy = str(error).rpartition("; ")
        findings.append(Finding("model", State.MISSING, found, remedy))
    else:
        found = f"{path}, sha256 {network.model_sha256[:12]}… as in its card"
        findings.append(Finding("model", State.OK, found))
        reason = choose(cpu_flags(), providers).reason
        findings.append(Finding("network runs on", State.OK, f"{network.provider}: {reason}"))
    return findings


def check_stereo_models() -> list[Finding]:
    """The three networks of the screw tracker: files, cards, hashes."""
    try:
        from spine_perception.core.inference import ModelError
        from stereo_screw_tracker.core.load import load_networks
    except Exception as error:  # noqa: BLE001
        return [Finding("stereo models", State.MISSING, f"cannot be checked: {error}", SETUP)]
    try:
        networks = load_networks()
    except ModelError as error:
        found, _, remedy = str(error).rpartition("; ")
        return [Finding("stereo models", State.MISSING, found, remedy)]
    hashes = ", ".join(f"{name} {sha256[:12]}…" for name, sha256 in networks.hashes.items())
    return [Finding("stereo models", State.OK, f"{hashes} as in their cards")]


def check_cameras(importer: Importer = importlib.import_module) -> Finding:
    """RealSense cameras that librealsense sees now."""
    try:
        realsense = importer("pyrealsense2")
        devices = list(realsense.context().query_devices())
        names = [
            f"{d.get_info(realsense.camera_info.name)} {d.get_info(realsense.camera_info.serial_number)}"
            for d in devices
        ]
    except Exception as error:  # noqa: BLE001
        remedy = (
            f"sudo apt-get install libusb-1.0-0, then {SETUP}; recordings and 'virtual' need none"
        )
        return Finding("RealSense", State.OPTIONAL, f"off: {error}", remedy)
    if not names:
        remedy = "plug it into USB 3; seen by root only: install librealsense's udev rules"
        return Finding("RealSense", State.OPTIONAL, "no camera connected", remedy)
    return Finding("RealSense", State.OK, ", ".join(names))


def check_disk(path: Path | None = None) -> Finding:
    """Room for outputs and recordings where the command was called."""
    path = path or Path.cwd()
    free_gb = shutil.disk_usage(path).free / 1e9
    found = f"{free_gb:.1f} GB free in {path}"
    if free_gb < DISK_NEEDED_GB:
        remedy = f"free {DISK_NEEDED_GB:.0f} GB, or write elsewhere with --out"
        return Finding("disk", State.MISSING, found, remedy)
    return Finding("disk", State.OK, found)


def examine() -> Report:
    """Look at everything; takes a few seconds, mostly for importing the wheels."""
    findings = [check_python(), check_numerical(), *check_ros()]
    findings += [
        check_shared_memory(),
        check_udp_buffer(),
        *check_model(),
        *check_stereo_models(),
        check_cameras(),
        check_bridges(),
        check_disk(),
    ]
    findings.append(check_graph())
    cores = len(os.sched_getaffinity(0))
    findings.append(Finding("CPU", State.OK, f"{cores} core(s)"))
    return Report(tuple(findings))


def run_doctor() -> int:
    """Print the report; 0 when the main job works here, else 1."""
    report = examine()
    print(report.text())
    return report.exit_code
