# SPDX-License-Identifier: Apache-2.0
"""`spinenav live`: the ROS 2 graph of launch/, in one process, with everything measured on disk.

The nodes, their parameters and their topics are those of the launch files. A SingleThreadedExecutor
runs them all; the navigation computes in its own thread. Rows are written as they come, so nothing
that was measured is lost when a node dies, the camera is unplugged or the user stops the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spine_nav_common.core.case import load_case
from spine_nav_common.core.outputs import write_summary
from spine_nav_common.core.recording import load_remap, open_recording, recording_sha256
from spine_nav_common.core.types import Case, NavigationResult
from spine_nav_common.parameters import ParameterError, digest, flatten, load_file, parse_assignment
from spine_nav_common.ros.runtime import (
    RosMissing,
    prepare_environment,
    require_ros,
    stop_on_signal,
)
from spine_nav_common.ros.topics import COLOUR, COLOUR_INFO, DEFAULT_NAMESPACE, DEPTH

from .core.graph import NODES, use_case_values
from .replay import Outcome, versions

SOURCES = "realsense, ros, replay:RECORDING or virtual"
_SPIN_S = 0.05
_DRAIN_S = 5.0
_DOWN_S = 15.0


@dataclass(frozen=True)
class LiveOptions:
    """What `spinenav live` was asked for. `assignments` are `node.name=value`."""

    case: Path
    source: str
    out: Path
    config: Path | None = None
    assignments: tuple[str, ...] = ()
    model: Path | None = None
    remap: Path | None = None
    namespace: str = DEFAULT_NAMESPACE
    use_sim_time: bool = False
    seconds: float | None = None
    seed: int = 0


def run_live(
    options: LiveOptions,
    progress: Callable[[int, int | None, str], None] | None = None,
    make_nodes: Callable[[dict[str, dict[str, Any]], str], dict[str, Any]] | None = None,
) -> Outcome:
    """Run the graph until the recording ends, `seconds` are over, or SIGINT or SIGTERM.

    Args:
        options: see LiveOptions.
        progress: called as progress(frames done, None, note) at every result.
        make_nodes: node name to node, from dotted values per node and the namespace (for tests).

    Returns:
        The summary and why the run stopped half-way (a node died, the recording is cut off).

    Raises:
        InputError, ParameterError, ModelError: wrong input.
    """
    use_case, values = _configure(options)
    case = load_case(options.case)
    try:
        require_ros()
    except RosMissing as error:
        raise ParameterError(f"{error}; replay works without ROS") from error
    return _Run(options, use_case, values, case, progress).run(make_nodes or default_nodes)


def _configure(options: LiveOptions) -> tuple[str, dict[str, dict[str, Any]]]:
    """Use case and checked values per node. Raises ParameterError, RecordingError."""
    kind, _, recording = options.source.partition(":")
    if kind == "stereo":
        raise ParameterError(
            f"--source stereo: screws and rods are not in this version; give {SOURCES}"
        )
    if kind not in ("realsense", "ros", "replay", "virtual") or bool(recording) != (
        kind == "replay"
    ):
        raise ParameterError(f"--source: '{options.source}' is no source; give {SOURCES}")
    own: dict[str, dict[str, Any]] = {
        "navigation": {"case": str(options.case)},
        "case_server": {"case": str(options.case)},
        "overlay": {"case": str(options.case)},
        "camera_source": {},
    }
    if options.model is not None:
        own["navigation"]["model"] = str(options.model)
    if kind == "virtual":
        own["camera_source"] |= {"case": str(options.case), "seed": options.seed}
        if options.seconds is not None:
            own["camera_source"]["seconds"] = float(options.seconds)
    if kind == "replay":
        own["camera_source"]["recording"] = recording
        names = load_remap(options.remap) if options.remap else None
        open_recording(recording, names).rgbd_frames()  # refused now rather than by a node
    if options.remap is not None:
        names = load_remap(options.remap)
        if kind == "replay":
            own["camera_source"]["remap"] = str(options.remap)
        else:
            given = {"colour_topic": COLOUR, "depth_topic": DEPTH, "info_topic": COLOUR_INFO}
            own["navigation"] |= {k: names[v] for k, v in given.items() if v in names}
    file = load_file(options.config, NODES) if options.config else {}
    assigned: dict[str, dict[str, Any]] = {}
    for text in options.assignments:
        name, value = parse_assignment(text)
        node, _, parameter = name.partition(".")
        if node not in NODES or not parameter:
            raise ParameterError(f"--set {text}: give NODE.NAME=VALUE, NODE of {', '.join(NODES)}")
        assigned.setdefault(node, {})[parameter] = value
    values = use_case_values(kind, file, own, assigned)
    if options.use_sim_time:
        for node in values.values():
            node["use_sim_time"] = True
    return kind, values


def default_nodes(values: dict[str, dict[str, Any]], namespace: str) -> dict[str, Any]:
    """The real nodes, by name, in order of start."""
    from spine_perception.ros.camera_source import CameraSource
    from spine_registration.ros.navigation import NavigationNode

    from .ros.case_server import CaseServer
    from .ros.overlay_node import OverlayNode

    kinds = {
        "navigation": NavigationNode,
        "case_server": CaseServer,
        "overlay": OverlayNode,
        "camera_source": CameraSource,
    }
    return {name: kinds[name](given, namespace) for name, given in values.items()}


@dataclass
class _Run:
    options: LiveOptions
    use_case: str
    values: dict[str, dict[str, Any]]
    case: Case
    progress: Callable[[int, int | None, str], None] | None
    stopped: str = ""
    signals: list[str] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    nodes: dict[str, Any] = field(default_factory=dict)

    def run(self, make_nodes: Callable[..., dict[str, Any]]) -> Outcome:
        prepare_environment()
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.signals import SignalHandlerOptions

        # Own handlers: rclpy's would end the context before the nodes could withdraw and report.
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self.executor = SingleThreadedExecutor()
        try:
            with stop_on_signal() as self.signals:
                try:
                    self._build(make_nodes)
                    self._loop()
                finally:
                    self._take_down()
        finally:
            rclpy.try_shutdown()
        return Outcome(self.summary, self.stopped)

    def _build(self, make_nodes: Callable[..., dict[str, Any]]) -> None:
        from .ros.collector import Collector
        from .ros.supervisor import Supervisor

        namespace = self.options.namespace
        self.nodes = make_nodes(self.values, namespace)
        info_topic = self.values["navigation"].get("info_topic", COLOUR_INFO)
        self.collector = Collector(
            self.options.out, namespace, info_topic, self._latency_ms, self.case.exposed_levels
        )
        self.collector.on_result = self._on_result
        if "camera_source" in self.nodes:  # else the first results would find nobody to note them
            self.nodes["camera_source"].gate = lambda: self.nodes["navigation"].listened_to
        self.supervisor = Supervisor({"nodes": tuple(self.nodes)}, namespace)
        self.all = [*self.nodes.values(), self.collector, self.supervisor]
        for node in self.all:
            self.executor.add_node(node)

    def _latency_ms(self, stamp_ns: int) -> float | None:
        """Stamp to now. A replayed frame's stamp counts from when it was due at its own pace."""
        camera = self.nodes.get("camera_source")
        if camera is not None and not camera.source_is_live:
            return (time.monotonic() - camera.due(stamp_ns)) * 1e3
        age_ms = (self.collector.get_clock().now().nanoseconds - stamp_ns) / 1e6
        return age_ms if 0.0 <= age_ms < 60e3 else None  # else the stamps are of another clock

    def _on_result(self, result: NavigationResult) -> None:
        if self.progress is not None:
            tracked = sum(e.status.value == "tracked" for e in result.levels)
            note = f"{tracked} of {len(result.levels)} levels tracked"
            self.progress(self.collector.counts["results"], None, note)

    def _loop(self) -> None:
        camera, navigation = self.nodes.get("camera_source"), self.nodes["navigation"]
        # A virtual source has its length; any other is cut by the clock.
        limited = self.options.seconds is not None and self.use_case != "virtual"
        end: float | None = None
        while not self.signals:
            try:
                self.executor.spin_once(timeout_sec=_SPIN_S)
            except Exception as error:  # noqa: BLE001 - a node died: what was measured is kept
                self.stopped = f"a node died: {error!r}"
                return
            if self.supervisor.failure:
                for node in self.nodes.values():
                    if isinstance(node.error, ValueError):
                        raise node.error  # wrong case, recording, model or parameter
                problems = [n.problem for n in self.nodes.values() if n.problem]
                self.stopped = "; ".join([self.supervisor.failure, *problems])
                return
            if not navigation.alive:
                self.stopped = "the navigation thread died"
                return
            if end is None and limited and self.supervisor.reached:
                end = time.monotonic() + self.options.seconds
            if end is not None and time.monotonic() > end:
                return
            if camera is not None and camera.finished:
                self._drain(camera, navigation)
                self.stopped = camera.failure or camera.cut_off
                return
        # Stopping a camera by hand is its normal end; a recording that has not ended is half-way.
        if self.use_case == "replay" or self.signals[0] == "SIGTERM":
            self.stopped = f"stopped by {self.signals[0]}"

    def _drain(self, camera: Any, navigation: Any) -> None:
        """Wait until the results of the last frames have been computed, delivered and written."""
        end = time.monotonic() + _DRAIN_S
        while time.monotonic() < end:
            came = navigation.received_ns >= camera.ages.stamp_ns
            noted = self.collector.counts["results"] >= navigation.counts["processed"]
            if came and noted and navigation.idle:
                return
            self.executor.spin_once(timeout_sec=_SPIN_S)

    def _take_down(self) -> None:
        from .ros.supervisor import FINALIZED

        if not self.nodes:
            return
        if not self.stopped.startswith("a node died"):
            self.supervisor.go(FINALIZED)
            deadline = time.monotonic() + _DOWN_S
            while not self.supervisor.reached and not self.supervisor.failure:
                if time.monotonic() > deadline:
                    break
                self.executor.spin_once(timeout_sec=_SPIN_S)
        self.collector.close()
        self._summarise()
        for node in reversed(self.all):
            node.destroy_node()
        self.executor.shutdown()

    def _summarise(self) -> None:
        navigation, camera = self.nodes["navigation"], self.nodes.get("camera_source")
        recording = self.values.get("camera_source", {}).get("recording", "")
        configs = {name: node.config for name, node in self.nodes.items() if node.config}
        self.summary = write_summary(
            self.options.out,
            versions=versions(),
            hashes={
                "model": navigation.model_sha256,
                "config": digest(*configs.values()),
                "case": self.case.sha256,
                "recording": recording_sha256(recording) if self.use_case == "replay" else "",
            },
            drops={
                **navigation.counts,
                "without_result": self.collector.counts["frames_without_result"],
                "published_by_camera": camera.ages.count if camera else None,
                "seen_by_navigation": navigation.counts["received"],
            },
            source=self.options.source,
            frames=self.collector.counts["colour_frames"],
            results=self.collector.counts["results"],
            withdrawals=self.collector.withdrawals,
            provider=navigation.provider,
            stopped=self.stopped,
            confirmed=[],
            notes=[],
            ended_by=[*self.signals, "the end of the source or of the time"][0],
            config={name: flatten(config) for name, config in configs.items()},
        )
