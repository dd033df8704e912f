# SPDX-License-Identifier: Apache-2.0
"""`spinenav live`: the ROS 2 graph of launch/, with everything measured on disk.

The nodes, their parameters and topics, and that each is a process which is started again when it
ends, are those of the launch files. This process supervises and records. Rows are written as they
come, so nothing that was measured is lost when a node dies, the camera is unplugged or the user
stops the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from spine_nav_common.core.case import load_case
from spine_nav_common.core.cpu import CoresUsed
from spine_nav_common.core.graph import USE_CASE_SCENES
from spine_nav_common.core.outputs import write_summary
from spine_nav_common.core.progress import Progress
from spine_nav_common.core.run import versions
from spine_nav_common.core.storage import recording_sha256
from spine_nav_common.core.types import Case, NavigationResult
from spine_nav_common.parameters import ParameterError, digest, flatten
from spine_nav_common.ros.executor import new_executor
from spine_nav_common.ros.runtime import (
    RosMissing,
    prepare_environment,
    require_ros,
    stop_on_signal,
)
from spine_nav_common.ros.topics import COLOUR_INFO

from .live_options import COMPUTING, LiveOptions, configure
from .live_processes import Processes
from .live_session import RECORDER, with_recorder
from .replay import Outcome

if TYPE_CHECKING:
    from spine_nav_common.ros.implants import Implants

_SPIN_S = 0.05
_DRAIN_S, _DRAIN_MOST_S = 5.0, 60.0
_REASON_S = 2.0
_DOWN_S = 15.0


def run_live(
    options: LiveOptions,
    progress: Callable[[int, int | None, str], None] | None = None,
    make_nodes: Callable[[dict[str, dict[str, Any]], str], dict[str, Any]] | None = None,
) -> Outcome:
    """Run the graph until the recording ends, `seconds` are over, or SIGINT or SIGTERM.

    Args:
        options: see LiveOptions.
        progress: called as progress(frames done, None, note) at every result.
        make_nodes: node name to node, from dotted values per node and the namespace: these run in
            this process (for tests). None = a process for each of the real ones.

    Returns:
        The summary and why the run stopped half-way (a node died, the recording is cut off).

    Raises:
        InputError, ParameterError, ModelError: wrong input.
    """
    use_case, values = configure(options)
    reading = Progress("reading the case")
    case = load_case(options.case, reading) if options.case else None
    reading.close()
    try:
        require_ros()
    except RosMissing as error:
        raise ParameterError(f"{error}; replay works without ROS") from error
    if use_case in ("ros", "stereo") and options.remap is None and make_nodes is None:
        from .ros.discovery import with_cameras

        options = with_cameras(options, USE_CASE_SCENES[use_case])
        use_case, values = configure(options)
    values = with_recorder(options, use_case, values, case)
    return _Run(options, use_case, values, case, progress).run(make_nodes)


def default_nodes(values: dict[str, dict[str, Any]], namespace: str) -> dict[str, Any]:
    """The real nodes, by name, in order of start."""
    from rod_bending_ar.ros.overlay_node import OverlayNode
    from rod_bending_ar.ros.rod_guidance import RodGuidance
    from rod_bending_ar.ros.stereo_overlay_node import StereoOverlayNode
    from spine_nav_display.ros.display_node import DisplayNode
    from spine_nav_display.ros.foxglove_node import FoxgloveBridge
    from spine_nav_display.ros.openigtlink_node import OpenIgtLink
    from spine_nav_display.ros.session_recorder import SessionRecorder
    from spine_perception.ros.camera_source import CameraSource
    from spine_perception.ros.depth_aligner import DepthAligner
    from spine_planning.ros.safety_node import SafetyNode
    from spine_registration.ros.navigation import NavigationNode
    from stereo_screw_tracker.ros.stereo_tracker import StereoTrackerNode

    from .ros.case_server import CaseServer

    kinds = {
        RECORDER: SessionRecorder,
        "navigation": NavigationNode,
        "case_server": CaseServer,
        "overlay": OverlayNode,
        "stereo_tracker": StereoTrackerNode,
        "rod_guidance": RodGuidance,
        "stereo_overlay": StereoOverlayNode,
        "display": DisplayNode,
        "openigtlink": OpenIgtLink,
        "foxglove": FoxgloveBridge,
        "safety": SafetyNode,
        "camera_source": CameraSource,
        "depth_aligner": DepthAligner,
    }
    return {name: kinds[name](given, namespace) for name, given in values.items()}


@dataclass
class _Run:
    options: LiveOptions
    use_case: str
    values: dict[str, dict[str, Any]]
    case: Case | None
    progress: Callable[[int, int | None, str], None] | None
    stopped: str = ""
    signals: list[str] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    nodes: dict[str, Any] = field(default_factory=dict)
    load: CoresUsed | None = None  # from the first frame on
    cores: float | None = None
    processes: Processes | None = None

    def run(self, make_nodes: Callable[..., dict[str, Any]] | None) -> Outcome:
        prepare_environment()
        import rclpy
        from rclpy.signals import SignalHandlerOptions

        # Own handlers: rclpy's would end the context before the nodes could withdraw and report.
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self.executor = new_executor()
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

    def _build(self, make_nodes: Callable[..., dict[str, Any]] | None) -> None:
        from .ros.collector import Collector
        from .ros.implant_collector import ImplantCollector
        from .ros.supervisor import Supervisor

        namespace = self.options.namespace
        if make_nodes is None:
            self.processes = Processes(self.values, namespace, self.options.out)
            self.nodes = dict(self.processes.nodes)
        else:
            self.nodes = make_nodes(self.values, namespace)
        self.computing = {n: self.nodes[n] for n in COMPUTING if n in self.nodes}
        self.collectors: dict[str, Any] = {}
        if "navigation" in self.nodes and self.case is not None:
            info_topic = self.values["navigation"].get("info_topic", COLOUR_INFO)
            poses = Collector(
                self.options.out, namespace, info_topic, self._latency_ms, self.case.exposed_levels
            )
            poses.on_result = self._on_result
            self.collectors["navigation"] = poses
        if "stereo_tracker" in self.nodes:
            timings = self.collectors["navigation"].timings if self.collectors else None
            screws = ImplantCollector(self.options.out, namespace, timings)
            screws.on_result = self._on_implants
            self.collectors["stereo_tracker"] = screws
        self.supervisor = Supervisor({"nodes": tuple(self.nodes)}, namespace)
        # Else the first results would find nobody to note them.
        self.supervisor.bring_up.gate = self._all_listen
        self.all = [*self.collectors.values(), self.supervisor]
        if self.processes is None:
            self.all = [*self.nodes.values(), *self.all]
        else:
            self.processes.told = self.supervisor.get_logger().warn
            self.supervisor.on_beat = lambda beat: self.nodes[beat.name].note(beat)
        for node in self.all:
            self.executor.add_node(node)

    def _all_listen(self) -> bool:
        """Whether what the camera sends, and what comes of it, will be heard and noted."""
        recorder = self.nodes.get(RECORDER)
        heard = recorder is None or recorder.ready
        if not heard:  # a recorder that does not start never keeps the others from it
            heard = bool(self.supervisor.bring_up.without(self.supervisor.nodes[RECORDER]))
        return heard and all(n.listened_to for n in self.computing.values())

    def _latency_ms(self, stamp_ns: int) -> float | None:
        """Stamp to now. A replayed frame's stamp counts from when it was due at its own pace."""
        camera = self.nodes.get("camera_source")
        if camera is not None and not camera.source_is_live:
            due = camera.due(stamp_ns)
            return None if due is None else (time.monotonic() - due) * 1e3
        age_ms = (self.supervisor.get_clock().now().nanoseconds - stamp_ns) / 1e6
        return age_ms if 0.0 <= age_ms < 60e3 else None  # else the stamps are of another clock

    def _on_result(self, result: NavigationResult) -> None:
        if self.progress is not None:
            tracked = sum(e.status.value == "tracked" for e in result.levels)
            note = f"{tracked} of {len(result.levels)} levels tracked"
            self.progress(self.collectors["navigation"].counts["results"], None, note)

    def _on_implants(self, implants: Implants) -> None:
        if self.progress is not None and "navigation" not in self.nodes:
            note = implants.reason or f"{len(implants.screws)} heads, {len(implants.rods)} rods"
            self.progress(self.collectors["stereo_tracker"].counts["results"], None, note)

    def _loop(self) -> None:
        camera = self.nodes.get("camera_source")
        # A virtual source has its length; any other is cut by the clock.
        limited = self.options.seconds is not None and self.use_case != "virtual"
        end: float | None = None
        while not self.signals:
            try:
                self.executor.spin_once(timeout_sec=_SPIN_S)
            except Exception as error:  # noqa: BLE001 - a node died: what was measured is kept
                self.stopped = f"a node died: {error!r}"
                return
            if self.processes is not None and (problem := self.processes.look()):
                self.stopped = problem
                return
            if self.supervisor.failure:
                self._on_failure()
                return
            if self.load is None and (camera.epoch if camera else self.supervisor.reached):
                self.load = CoresUsed(self._pids())
            dead = [name for name, node in self.computing.items() if not node.alive]
            if dead:
                self.stopped = f"the {dead[0]} thread died"
                return
            if end is None and limited and self.supervisor.reached:
                end = time.monotonic() + self.options.seconds
            if end is not None and time.monotonic() > end:
                return
            if camera is not None and camera.finished:
                self._drain(camera)
                self._note_load()
                self.stopped = camera.failure or camera.cut_off
                return
        # Stopping a camera by hand is its normal end; a recording that has not ended is half-way.
        if self.use_case == "replay" or self.signals[0] == "SIGTERM":
            self.stopped = f"stopped by {self.signals[0]}"

    def _pids(self) -> list[int]:
        """Of the nodes; their guardians only wait."""
        beats = [node.beat for node in self.nodes.values()] if self.processes is not None else []
        return [beat.pid for beat in beats if beat is not None]

    def _note_load(self) -> None:
        if self.load is not None and self.cores is None:
            self.cores = round(self.load.cores(self._pids()), 3)

    def _on_failure(self) -> None:
        """Raises what the user gave wrong: case, recording, model or parameter."""
        end = time.monotonic() + _REASON_S  # a node in another process tells its reason next
        while self.processes is not None and time.monotonic() < end:
            if any(n.problem for n in self.nodes.values()):
                break
            self.executor.spin_once(timeout_sec=_SPIN_S)
        for node in self.nodes.values():
            if isinstance(node.error, ValueError):
                raise node.error
        problems = [n.problem for n in self.nodes.values() if n.problem]
        self.stopped = "; ".join([self.supervisor.failure, *problems])

    def _drain(self, camera: Any) -> None:
        """Wait until the results of the last frames have been computed, delivered and written."""
        started = quiet = time.monotonic()
        while time.monotonic() < min(quiet + _DRAIN_S, started + _DRAIN_MOST_S):
            if all(self._drained(name, camera) for name in self.computing):
                return
            if not all(node.idle for node in self.computing.values()):
                quiet = time.monotonic()  # a busy machine takes its time
            self.executor.spin_once(timeout_sec=_SPIN_S)

    def _drained(self, name: str, camera: Any) -> bool:
        node, collector = self.computing[name], self.collectors[name]
        came = node.received_ns >= camera.sent_ns.get(COMPUTING[name], -1)
        noted = collector.counts["results"] >= node.counts["processed"]
        return came and noted and node.idle

    def _take_down(self) -> None:
        from .ros.bring_up import FINALIZED

        if not self.nodes:
            return
        self._note_load()
        if not self.stopped.startswith("a node died"):
            self.supervisor.go(FINALIZED)
            deadline = time.monotonic() + _DOWN_S
            while not self.supervisor.reached and not self.supervisor.failure:
                if time.monotonic() > deadline:
                    break
                self.executor.spin_once(timeout_sec=_SPIN_S)
        for collector in self.collectors.values():
            collector.close()
        if self.processes is not None:
            self.processes.stop()
        self._summarise()
        # First: it takes its callbacks from the middleware, which needs what it is taken from.
        self.executor.shutdown()
        for node in reversed(self.all):
            node.destroy_node()

    def _drift_ppm(self) -> float | None:
        """By how much the RGB-D camera's clock runs faster than the stereo camera's, in 1e-6."""
        drifts = [self.computing[n].clock.drift_ppm for n in COMPUTING if n in self.computing]
        if len(drifts) < 2 or any(d is None for d in drifts):
            return None
        return round(drifts[0] - drifts[1], 1)

    def _summarise(self) -> None:
        recording = self.values.get("camera_source", {}).get("recording", "")
        configs = {n: v.config for n, v in self.nodes.items() if v.config and n != RECORDER}
        models = {
            "model" if name == "navigation" else "stereo_model": node.model_sha256
            for name, node in self.computing.items()
        }
        more: dict[str, Any] = {}
        if "navigation" in self.nodes:
            more |= self._navigation_summary()
        if "stereo_tracker" in self.nodes:
            more["stereo"] = self._stereo_summary()
        if RECORDER in self.nodes:
            more["session"] = self.nodes[RECORDER].facts_of_record
        self.summary = write_summary(
            self.options.out,
            poses="navigation" in self.nodes,
            versions=versions(),
            hashes={
                **models,
                "config": digest(*configs.values()),
                "case": self.case.sha256 if self.case else "",
                "recording": recording_sha256(recording) if self.use_case == "replay" else "",
            },
            drops=self._drops(),
            clocks={
                name: {
                    "domain": node.clock.domain,
                    "steps": node.clock.steps,
                    "drift_ppm": node.clock.drift_ppm,
                }
                for name, node in self.computing.items()
            },
            cameras_drift_ppm=self._drift_ppm(),
            source=self.options.source,
            provider=next(iter(self.computing.values())).provider,
            stopped=self.stopped,
            cpu_cores=self.cores,
            confirmed=[],
            notes=self._notes(),
            ended_by=[*self.signals, "the end of the source or of the time"][0],
            config={name: flatten(config) for name, config in configs.items()},
            **more,
        )

    def _notes(self) -> list[str]:
        notes = [*self.options.told, *(n for node in self.nodes.values() for n in node.notes)]
        stereo = self.nodes.get("stereo_tracker")
        if stereo is not None and stereo.unnamed:
            notes.append(stereo.unnamed)
        return list(dict.fromkeys(notes))

    def _drops(self) -> dict[str, object]:
        camera, navigation = self.nodes.get("camera_source"), self.nodes.get("navigation")
        drops: dict[str, object] = {"published_by_camera": camera.frames_sent if camera else None}
        if navigation is not None:
            counts = self.collectors["navigation"].counts
            drops |= {
                **navigation.counts,
                "without_result": counts["frames_without_result"],
                "seen_by_navigation": navigation.counts["received"],
            }
        if "stereo_tracker" in self.nodes:
            drops["stereo"] = dict(self.nodes["stereo_tracker"].counts)
        return drops

    def _navigation_summary(self) -> dict[str, Any]:
        collector = self.collectors["navigation"]
        return {
            "frames": collector.counts["colour_frames"],
            "results": collector.counts["results"],
            "withdrawals": collector.withdrawals,
            "identity": _identity(collector.last),
        }

    def _stereo_summary(self) -> dict[str, Any]:
        node, collector = self.nodes["stereo_tracker"], self.collectors["stereo_tracker"]
        last = collector.last
        return {
            "frames": node.counts["received"],
            "results": collector.counts["results"],
            "heads_at_end": len(last.screws) if last else 0,
            "rods_at_end": len(last.rods) if last else 0,
            "refused": dict(collector.refused),
            "withdrawals": collector.withdrawals,
            "guidance": collector.guidance,
        }


def _identity(last: NavigationResult | None) -> dict[str, Any]:
    """What the shape said of the patient in the last result."""
    if last is None:
        return {}
    return {"state": last.identity, "margin_nat": last.identity_margin_nat}
