# SPDX-License-Identifier: Apache-2.0
"""Fill the virtual environment: locked wheels, tf2_msgs, this project. Standard library only.

Run by scripts/setup.sh. Every step is skipped when its stamp (a hash of what it was made from)
is already in the environment, so the second run takes a fraction of a second. Packages are only
ever added: an exact sync would delete half of the ROS wheels (they carry two distributions each).
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STAMP = "spinenav-setup.json"
EXTRAS = ("train", "gpu")
# Shared libraries that Open3D and pyrealsense2 load, by the Debian package that holds them: what is
# unpacked into the environment where nobody may install packages.
USER_SPACE_DEBS = {
    "libEGL.so.1": ("libegl1", "libglvnd0"),
    "libGL.so.1": ("libgl1", "libglvnd0", "libglx0"),
    "libX11.so.6": ("libx11-6", "libxcb1", "libxau6", "libxdmcp6", "libbsd0", "libmd0"),
    "libusb-1.0.so.0": ("libusb-1.0-0",),
}


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


def die(text: str) -> None:
    print(f"setup: error: {text}", file=sys.stderr)
    raise SystemExit(2)


def digest(*paths: Path) -> str:
    """sha256 over names (relative to the repository) and contents."""
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def clean_environment() -> dict[str, str]:
    """The environment for child Pythons: no sourced ROS, no guard of another ROS-wheel venv."""
    dropped = {"PYTHONPATH", "PYTHONHOME", "_ROS_WHEELS_BOOTSTRAP_COMPLETE", "VIRTUAL_ENV"}
    if os.environ.get("_ROS_WHEELS_BOOTSTRAP_COMPLETE") or os.environ.get("ROS_DISTRO"):
        dropped |= {"LD_LIBRARY_PATH", "AMENT_PREFIX_PATH"}
    return {k: v for k, v in os.environ.items() if k not in dropped}


class Venv:
    """One virtual environment and the stamps of what was put into it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.python = path / "bin" / "python"
        self.stamp_file = path / STAMP
        try:
            self.stamps: dict[str, str] = json.loads(self.stamp_file.read_text())
        except (OSError, ValueError):
            self.stamps = {}

    def create(self) -> None:
        if self.python.exists() and self.run("-c", "import pip").returncode == 0:
            return
        say(f"creating {self.path} with Python {sys.version.split()[0]}")
        done = subprocess.run(
            [sys.executable, "-m", "venv", "--clear", str(self.path)],
            check=False,
            env=clean_environment(),
        )
        if done.returncode:
            die(f"could not create {self.path}. Remedy: sudo apt-get install python3-venv")
        self.stamps = {}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.python), *arguments],
            check=False,
            env=clean_environment(),
            text=True,
            capture_output=True,
        )

    def version(self) -> tuple[int, int]:
        out = self.run("-c", "import sys; print(*sys.version_info[:2])").stdout.split()
        return int(out[0]), int(out[1])

    def imports(self, module: str) -> bool:
        return self.run("-c", f"import {module}").returncode == 0

    def done(self, step: str, stamp: str) -> bool:
        return self.stamps.get(step) == stamp

    def mark(self, step: str, stamp: str) -> None:
        self.stamps[step] = stamp
        self.stamp_file.write_text(json.dumps(self.stamps, indent=1) + "\n")

    def pip(self, *arguments: str, expected: int = 0) -> None:
        """pip with a one-line progress on a terminal; on failure its last lines and a remedy."""
        command = [str(self.python), "-m", "pip", "--disable-pip-version-check", *arguments]
        lines: list[str] = []
        seen = 0
        with subprocess.Popen(
            command, env=clean_environment(), text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as child:  # fmt: skip
            assert child.stdout is not None
            for line in child.stdout:
                lines.append(line.rstrip())
                seen += line.startswith(("Collecting", "Requirement already"))
                if expected and sys.stdout.isatty():
                    what = lines[-1].strip()[:60]
                    print(f"\r\033[Ksetup:   {seen}/{expected}  {what}", end="", flush=True)
        if expected and sys.stdout.isatty():
            print("\r\033[K", end="")
        if child.returncode:
            print("\n".join(lines[-15:]), file=sys.stderr)
            text = "\n".join(lines)
            if "HASHES" in text or "hash" in text.lower():
                die("a package does not match its hash in requirements/; do not go on with it.")
            signs = ("NewConnectionError", "Name or service not known", "Could not fetch URL",
                     "Temporary failure", "ConnectTimeout", "ReadTimeout", "Network is unreachable")  # fmt: skip
            if any(sign in text for sign in signs):
                die(
                    "no package index can be reached. Remedy: connect this machine to the network, or "
                    "point pip to a mirror (pip config set global.index-url URL), and run it again."
                )
            die(f"pip failed (see above): {' '.join(command)}")


def install_lock(venv: Venv) -> str:
    major, minor = venv.version()
    lock = ROOT / "requirements" / f"lock-py{major}{minor}.txt"
    if not lock.exists():
        die(
            f"{venv.path} holds Python {major}.{minor}; SpineNav needs 3.10, 3.11 or 3.12. "
            f"Remedy: rm -r {venv.path}; make setup PYTHON=/path/to/python3.12"
        )
    stamp = digest(lock)
    if not venv.done("lock", stamp):
        count = sum("==" in line for line in lock.read_text().splitlines())
        say(f"installing {count} locked packages from {lock.relative_to(ROOT)} (1.4 GB on disk)")
        started = time.monotonic()
        venv.pip("install", "--require-hashes", "-r", str(lock), expected=count)
        say(f"packages installed in {time.monotonic() - started:.0f} s")
        venv.mark("lock", stamp)
    return stamp


def user_space_libraries(venv: Venv) -> None:
    """Unpack shared libraries into .venv/lib where the system lacks them and we are not root.

    The bootstrapper of the ROS wheels puts .venv/lib on the library path of every process.
    """
    missing = [
        lib for lib in USER_SPACE_DEBS
        if venv.run("-c", f"import ctypes; ctypes.CDLL({lib!r})").returncode
    ]  # fmt: skip
    if not missing:
        return
    packages = sorted({deb for lib in missing for deb in USER_SPACE_DEBS[lib]})
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        say(f"{', '.join(missing)} missing and no apt-get here: Open3D and RealSense will not load")
        return
    say(f"{', '.join(missing)} missing and not root: unpacking into {venv.path}/lib")
    work = venv.path / "debs"
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    apt = ["apt-get", "-qq", "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User="]
    private = ["-o", f"Dir::State={work / 'state'}", "-o", f"Dir::Cache={work / 'cache'}",
               "-o", "Dir::State::status=/var/lib/dpkg/status"]  # fmt: skip

    def attempt(*command: str) -> bool:
        return not subprocess.run(command, check=False, cwd=work, capture_output=True).returncode

    got = attempt(*apt, "download", *packages) or (
        attempt(*apt, *private, "update") and attempt(*apt, *private, "download", *packages)
    )
    if got:
        for deb in work.glob("*.deb"):
            attempt("dpkg-deb", "-x", deb.name, "root")
        for library in glob.glob(str(work / "root/usr/lib/x86_64-linux-gnu/*.so.*")) + glob.glob(
            str(work / "root/lib/x86_64-linux-gnu/*.so.*")
        ):
            shutil.copy2(library, venv.path / "lib", follow_symlinks=False)
    else:
        say(f"could not fetch {' '.join(packages)}: Open3D and RealSense will not load")
    shutil.rmtree(work)


def build_tf2_msgs(venv: Venv) -> None:
    """/tf needs tf2_msgs, which PyPI lacks: built here once, with g++ and Python.h."""
    if venv.imports("tf2_msgs.msg"):
        return
    include = venv.run("-c", "import sysconfig; print(sysconfig.get_path('include'))").stdout
    if (
        not shutil.which(os.environ.get("CXX", "g++"))
        or not Path(include.strip(), "Python.h").exists()
    ):
        say("no C++ compiler or no Python.h: /tf stays off (sudo apt-get install g++ python3-dev)")
        return
    say("building tf2_msgs (about 15 s)")
    # A copy, since the build writes beside its sources and the tree may be read-only.
    work = venv.path / "tf2_msgs-build"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(ROOT / "scripts" / "tf2_msgs", work)
    venv.pip("install", "--no-deps", "--no-build-isolation", str(work))
    shutil.rmtree(work)
    if not venv.imports("tf2_msgs.msg"):
        die("tf2_msgs was built but does not import; please report this with the output above.")


def project_files() -> list[Path]:
    """What an editable install copies into the environment, so what makes it stale."""
    wanted = ["pyproject.toml", "hatch_build.py", "src/*/setup.cfg", "src/*/package.xml"]
    wanted += ["launch/**/*", "config/**/*", "models/**/*"]
    found = (p for pattern in wanted for p in ROOT.glob(pattern))
    return [p for p in found if p.is_file() and "__pycache__" not in p.parts]


def install_project(venv: Venv) -> None:
    stamp = digest(*project_files()) + str(ROOT)
    if venv.done("project", stamp):
        return
    say("installing SpineNav (editable) with its launch files and node executables")
    venv.pip("install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    venv.mark("project", stamp)


def install_extras(venv: Venv, extras: list[str]) -> None:
    for extra in extras:
        stamp = venv.stamps.get("lock", "")
        if venv.done(f"extra-{extra}", stamp):
            continue
        say(f"installing the extra '{extra}'")
        if extra == "gpu":
            # onnxruntime and onnxruntime-gpu are the same folder: the one must leave first.
            version = venv.run("-c", "import onnxruntime as o; print(o.__version__)").stdout.strip()
            venv.pip("uninstall", "-y", "onnxruntime")
            venv.pip("install", f"onnxruntime-gpu[cuda,cudnn]>=1.23,<={version}")
        else:
            venv.pip("install", "--no-build-isolation", "--editable", f"{ROOT}[{extra}]")
        venv.mark(f"extra-{extra}", stamp)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--extras", default="", help="words out of: " + " ".join(EXTRAS))
    arguments = parser.parse_args()
    extras = arguments.extras.replace(",", " ").split()
    if unknown := [e for e in extras if e not in EXTRAS]:
        die(f"unknown extra {unknown[0]!r}. Remedy: EXTRAS with words out of: {' '.join(EXTRAS)}")
    if os.environ.get("ROS_DISTRO"):
        say("a ROS installation is sourced in this shell; the environment is built apart from it")
    started = time.monotonic()
    venv = Venv(Path(os.path.abspath(arguments.venv)))
    venv.create()
    install_lock(venv)
    user_space_libraries(venv)
    build_tf2_msgs(venv)
    install_project(venv)
    install_extras(venv, extras)
    say(f"{arguments.venv} is ready ({time.monotonic() - started:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
