# SPDX-License-Identifier: Apache-2.0
"""The nodes of `spinenav live` as processes of their own, as the launch files start them.

A node that dies is started again by its guardian, and a guardian that ends by this process, with
back-off. What `live` wants to know of a node comes with
its heartbeats: `RemoteNode` answers in place of the node.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from spine_nav_common.core.restart import WRONG_INPUT, Backoff
from spine_nav_common.guardian import PARENT_PID
from spine_nav_common.parameters import ParameterError, build
from spine_nav_common.ros.heartbeat import Beat

# Node: its executable, and the class of its parameters.
_NODES = {
    "session_recorder": (
        "spine_nav_display.executables:session_recorder",
        "spine_nav_display.ros.session_topics:SessionRecorderConfig",
    ),
    "navigation": (
        "spine_registration.executables:navigation",
        "spine_registration.ros.navigation_core:NavigationConfig",
    ),
    "case_server": (
        "spine_nav_bringup.executables:case_server",
        "spine_nav_bringup.ros.case_server:CaseServerConfig",
    ),
    "overlay": (
        "rod_bending_ar.executables:overlay",
        "rod_bending_ar.ros.overlay_node:OverlayConfig",
    ),
    "stereo_tracker": (
        "stereo_screw_tracker.executables:stereo_tracker",
        "stereo_screw_tracker.ros.stereo_config:StereoTrackerConfig",
    ),
    "rod_guidance": (
        "rod_bending_ar.executables:rod_guidance",
        "rod_bending_ar.ros.guidance_config:RodGuidanceConfig",
    ),
    "stereo_overlay": (
        "rod_bending_ar.executables:stereo_overlay",
        "rod_bending_ar.ros.stereo_overlay_node:StereoOverlayConfig",
    ),
    "display": (
        "spine_nav_display.executables:display",
        "spine_nav_display.ros.display_config:DisplayConfig",
    ),
    "openigtlink": (
        "spine_nav_display.executables:openigtlink",
        "spine_nav_display.ros.openigtlink_config:OpenIgtLinkConfig",
    ),
    "safety": (
        "spine_planning.executables:safety",
        "spine_planning.ros.safety_config:SafetyConfig",
    ),
    "foxglove": (
        "spine_nav_display.executables:foxglove",
        "spine_nav_display.ros.foxglove_config:FoxgloveConfig",
    ),
    "depth_aligner": (
        "spine_perception.executables:depth_aligner",
        "spine_perception.ros.depth_aligner:DepthAlignerConfig",
    ),
    "camera_source": (
        "spine_perception.executables:camera_source",
        "spine_perception.ros.camera_config:CameraSourceConfig",
    ),
}
_ROS_OWN = ("use_sim_time",)
_SIGNALS = ((signal.SIGTERM, 10.0), (signal.SIGKILL, 4.0))
_NEVER_HEARD = 3  # so many ends of a process that was never heard of: it cannot run here


class RemoteNode:
    """A node in another process, as its newest heartbeat describes it."""

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        self.name = name
        module, _, kind = _NODES[name][1].partition(":")
        own = {k: v for k, v in values.items() if k not in _ROS_OWN}
        self.config = build(getattr(import_module(module), kind), own, f"node {name}")
        self.beat: Beat | None = None
        self.problem = ""
        self.lives = 1
        self._before: Counter[str] = Counter()  # counts of the processes before this one
        self._frames_before = 0

    def note(self, beat: Beat) -> None:
        """A heartbeat of this node."""
        if self.beat is not None and beat.born != self.beat.born:
            self._before += self._own_counts()
            self._frames_before += int(self.fact("frames", 0))
            self.lives += 1
        if not beat.facts and self.beat is not None:
            return  # it says goodbye
        self.beat, self.problem = beat, beat.problem

    def fact(self, name: str, default: Any = None) -> Any:
        """Something that the node told of itself."""
        return self.beat.facts.get(name, default) if self.beat is not None else default

    def _own_counts(self) -> Counter[str]:
        return Counter(self.fact("counts", {}))

    @property
    def error(self) -> Exception | None:
        """What was wrong with what the user gave."""
        if self.beat is None or not self.beat.input_error:
            return None
        return ParameterError(self.beat.problem.removeprefix("cannot configure: "))

    @property
    def counts(self) -> Counter[str]:
        return self._before + self._own_counts()

    @property
    def alive(self) -> bool:
        return True  # a process whose worker died ends, and is started again

    @property
    def idle(self) -> bool:
        return bool(self.fact("idle", False))

    @property
    def received_ns(self) -> int:
        return int(self.fact("received_ns", -1))

    @property
    def listened_to(self) -> bool:
        return self.beat is not None and self.beat.ready

    @property
    def ready(self) -> bool:
        """What the node says of itself, see SpineNode.ready."""
        return self.beat is not None and self.beat.ready

    @property
    def facts_of_record(self) -> dict[str, Any]:
        """Of a session's recorder."""
        return {**self.fact("record", {}), "problem": self.fact("record_problem", "")}

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self.fact("notes", ()))

    @property
    def clock(self) -> SimpleNamespace:
        """Domain, steps and drift of its images' clock."""
        return SimpleNamespace(**self.fact("clock", {"domain": "", "steps": 0, "drift_ppm": None}))

    @property
    def unnamed(self) -> str:
        return self.fact("unnamed", "")

    @property
    def provider(self) -> str:
        return self.fact("provider", "")

    @property
    def model_sha256(self) -> str:
        return self.fact("model_sha256", "")

    # Of a camera.

    @property
    def finished(self) -> bool:
        return bool(self.fact("finished", False))

    @property
    def failure(self) -> str:
        return self.fact("failure", "")

    @property
    def cut_off(self) -> str:
        return self.fact("cut_off", "")

    @property
    def sent_ns(self) -> dict[str, int]:
        return self.fact("sent_ns", {})

    @property
    def frames_sent(self) -> int:
        return self._frames_before + int(self.fact("frames", 0))

    @property
    def source_is_live(self) -> bool:
        return bool(self.fact("live", True))

    @property
    def epoch(self) -> list[float] | None:
        return self.fact("epoch")

    def due(self, stamp_ns: int) -> float | None:
        """Monotonic time in s at which a frame of the recording was due; None = not told yet."""
        epoch = self.fact("epoch")
        if epoch is None:
            return None
        return epoch[0] + (stamp_ns - epoch[1]) * 1e-9 / self.config.rate

    def destroy_node(self) -> None:
        """Nothing of it lives here."""


class Processes:
    """Starts the nodes' processes, starts them again when they end, and ends them in the end."""

    def __init__(self, values: Mapping[str, Mapping[str, Any]], namespace: str, out: Path) -> None:
        self.nodes = {name: RemoteNode(name, given) for name, given in values.items()}
        self._file = out / "parameters.yaml"
        self._namespace = namespace
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._backoff = {name: Backoff() for name in values}
        self._due = dict.fromkeys(values, 0.0)
        self._ends = dict.fromkeys(values, 0)
        self.told: Callable[[str], None] = lambda text: None
        self._file.parent.mkdir(parents=True, exist_ok=True)
        sections = {f"/**/{n}": {"ros__parameters": _plain(v)} for n, v in values.items() if v}
        self._file.write_text(yaml.safe_dump(sections, sort_keys=False), encoding="utf-8")

    def pid(self, name: str) -> int | None:
        """Process id of a node's guardian that runs."""
        child = self._running.get(name)
        return child.pid if child is not None and child.poll() is None else None

    def look(self) -> str:
        """Start what is due; why the run cannot go on, or "". Raises ParameterError."""
        for name, due in self._due.items():
            child = self._running.get(name)
            if child is not None and child.poll() is not None:
                del self._running[name]
                if child.returncode == WRONG_INPUT:
                    raise ParameterError(f"{name} was given something wrong: see its last line")
                self._ends[name] += 1
                if self._ends[name] >= _NEVER_HEARD and self.nodes[name].beat is None:
                    return f"{name} cannot start ({_how(child.returncode)}): see its last lines"
                wait_s = self._backoff[name].next_s()
                due = self._due[name] = time.monotonic() + wait_s
                self.told(f"{name} ended ({_how(child.returncode)}); started again in {wait_s:g} s")
            if name not in self._running and time.monotonic() >= due:
                self._running[name] = self._start(name)
        return ""

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        module, _, function = _NODES[name][0].partition(":")
        code = f"import sys; from {module} import {function}; sys.exit({function}())"
        command = [sys.executable, "-c", code, "--ros-args"]
        command += ["-r", f"__ns:={self._namespace}", "--params-file", str(self._file)]
        environment = {**os.environ, PARENT_PID: str(os.getpid())}
        # A session of its own: ctrl-C is for `live`, which takes the nodes down in order.
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True
        )

    def stop(self) -> None:
        """End all, gently first; a process that is held or hangs is killed."""
        for number, patience_s in _SIGNALS:
            left = [child for child in self._running.values() if child.poll() is None]
            for child in left:
                child.send_signal(number)
            end = time.monotonic() + patience_s
            while any(child.poll() is None for child in left) and time.monotonic() < end:
                time.sleep(0.02)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
