# SPDX-License-Identifier: Apache-2.0
"""The display's node: hears what the graph publishes, tells the pages, carries their wishes to it.

It computes nothing: pictures come encoded from the overlay and go on as they are. The pages live on
the server's thread (`server.py`); everything of ROS stays on the executor's.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseArray, PoseWithCovarianceStamped
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, TimeReference
from std_msgs.msg import String

from rod_bending_ar.core.extras import Moments, tracked
from rod_bending_ar.core.placing import ANEW
from rod_bending_ar.core.screw_check import ScrewCheck, ScrewChecks
from spine_nav_common.core.case import load_case
from spine_nav_common.core.clock import SYSTEM, StreamClock
from spine_nav_common.core.images import ImageError, decode_camera_info
from spine_nav_common.core.implant_outputs import ScrewRow
from spine_nav_common.core.static_frames import StaticFrames, load_calibration
from spine_nav_common.core.types import (
    Case,
    NavigationResult,
    Rejected,
    ScrewPlan,
    Status,
)
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import announced, stamp_to_ns
from spine_nav_common.ros.executor import call_soon
from spine_nav_common.ros.heartbeat import beat_from_message, new_birth
from spine_nav_common.ros.implants import Implants, implants_from_messages
from spine_nav_common.ros.joined import Joined
from spine_nav_common.ros.lifecycle import OK, WARN, SpineNode, StampAge
from spine_nav_common.ros.live_plan import plan_state
from spine_nav_common.ros.results import result_from_messages, status_fields
from spine_nav_common.ros.runtime import run_node, tf_message_type
from spine_nav_common.ros.static_edges import static_edges
from spine_nav_display.core.binding import exposure
from spine_nav_display.core.checks import check_message
from spine_nav_display.core.messages import (
    Moment,
    bending_message,
    health_message,
    implants_message,
    levels_message,
    withdrawn_message,
)
from spine_nav_display.core.questions import Question, Taken
from spine_nav_display.core.scene import case_message, plan_lines, screw_line
from spine_nav_display.server import DisplayServer, Limits

from .core_requests import CoreRequests, hypothesis_question, rod_question
from .display_config import DisplayConfig
from .tool_watch import ToolWatch

PICTURES = {
    "rgbd": topics.OVERLAY_COMPRESSED,
    "stereo": topics.SCREW_OVERLAY_COMPRESSED,
    "bulls_eye": topics.BULLS_EYE_COMPRESSED,
}
"""Name of a picture on the page and the topic that has it, encoded."""
_TICK_S, _LOOK_S = 0.1, 0.25
_GONE_S = 2.0  # nobody has looked for this long: the overlay need not draw
_ROD_S = 1.5  # what the rod guidance asks is not asked any more after this long without it
_AHEAD_MS = 1000.0  # a picture this far in the future is not of the camera's clock
_OPTICAL = "camera_color_optical_frame"


class DisplayNode(SpineNode):
    """See docs/display.md. Publishes display/events: what the pages showed and what they asked."""

    config_type = DisplayConfig
    yields = True

    def __init__(
        self, values: Mapping[str, Any] | None = None, namespace: str | None = None
    ) -> None:
        super().__init__("display", values, namespace)
        self.server: DisplayServer | None = None

    def configure(self) -> None:
        c = self.config
        where = exposure(c.host, c.port, c.token_file, c.tls_certificate, c.tls_key)
        files = filter(None, c.calibration.split(","))
        fixed = [t for file in files for t in load_calibration(file.strip())]
        self._frames = StaticFrames(fixed)
        self._tool = ToolWatch(fixed, c.tool_topic, c.tool_age_ms, c.tool_bound_mm)
        self._case: Case | None = load_case(c.case) if c.case else None
        self._checks: ScrewChecks | None = None
        self._events = self.advertise(String, topics.DISPLAY_EVENTS, qos.RESULT)
        snapshots = Path(c.snapshots) if c.snapshots else None
        limits = Limits(c.max_picture_age_ms, c.max_stereo_age_ms, c.silence_ms, snapshots)
        self.server = DisplayServer(where, self._act, limits, self._note)
        if self._case is not None:
            self.server.case(case_message(self._case, c.faces))
        self._birth, self._navigation_birth = new_birth(), ""
        self.server.start()
        self._begin()
        self.get_logger().info(f"the page: {self.server.url}")

    def activate(self) -> None:
        simulated = bool(self.get_parameter("use_sim_time").value)
        self._clocks = {name: StreamClock(simulated) for name in (*PICTURES, "levels", "implants")}
        self._results = StampAge()
        self._looked: dict[str, float] = {}
        self._looking: dict[str, Any] = {}
        levels = Joined(
            result_from_messages,
            self._on_result,
            lambda why, _: self._withdraw(f"a result cannot be read: {why}"),
        )
        screws = Joined(implants_from_messages, self._on_implants, self._on_unreadable_screws)
        self._newest: NavigationResult | None = None
        self._moments = Moments()
        self._levels_frame, self._camera_told = _OPTICAL, ""
        self._silent = False
        self._requests = CoreRequests(self, self._tell_paused)
        self._plan_asked: tuple[str, str, ScrewPlan] | None = None
        self._asked: Question | None = None  # which vertebra is which, or of the plan
        self._rod_asked, self._rod_at = None, float("-inf")
        self.listen(DiagnosticArray, topics.STATUS, levels.status, qos.POSE)
        self.listen(PoseArray, topics.VERTEBRA_POSES, levels.poses, qos.POSE)
        self._hear(String, topics.PLAN_STATE, self._on_plan, qos.LATCHED)
        self.listen(DiagnosticArray, topics.SCREW_STATUS, screws.status, qos.POSE)
        self.listen(PoseArray, topics.SCREW_POSES, screws.poses, qos.POSE)
        self._hear(DiagnosticArray, topics.BENDING_STATUS, self._on_bending, qos.STATE)
        if self.config.tool_topic:
            self._tool.clear()
            self.listen(
                PoseWithCovarianceStamped, self.config.tool_topic, self._tool.hear, qos.SENSOR_IN
            )
        self._hear(DiagnosticArray, topics.CHECK, self._on_check, qos.LATCHED)
        self._hear(DiagnosticArray, topics.HEALTH, self._on_health, qos.LATCHED)
        self.listen(DiagnosticStatus, topics.HEARTBEAT, self._on_beat, qos.RESULT)
        self._hear(TimeReference, topics.CAMERA_CLOCK, self._on_camera_clock, qos.LATCHED)
        self.listen(CameraInfo, self.config.info_topic, self._on_info, qos.SENSOR_IN)
        if (tf := tf_message_type()) is not None:
            self.listen(tf, "/tf_static", self._on_tf_static, qos.TF_STATIC)
        self.every(_TICK_S, self._on_tick)
        self.every(_LOOK_S, self._on_look)

    def deactivate(self) -> None:
        for name in PICTURES:
            self._look_away(name)
        self._requests.close()
        self._withdraw("the display is not active")

    def cleanup(self) -> None:
        if self.server is not None:
            self.server.stop()
        self.server = None

    def _hear(self, kind: type, topic: str, callback: Callable, profile: QoSProfile) -> None:
        """`listen`, passing over what is not of our form: whoever may publish must not end the page."""

        def heard(message: Any) -> None:
            try:
                callback(message)
            except (ArithmeticError, LookupError, TypeError, ValueError) as error:
                told = f"a message on {topic} cannot be read: {error!r}"
                self.get_logger().warn(told, throttle_duration_sec=10.0)

        self.listen(kind, topic, heard, profile)

    # Time.

    def _on_tick(self) -> None:
        self.server.tick()
        if self._rod_asked is not None and time.monotonic() - self._rod_at > _ROD_S:
            self._rod_asked = None
            self._ask()
        silent_ms = self._results.silent_ms()
        if self._results.count and not self._silent and silent_ms > self.config.silence_ms:
            self._silent = True
            self._withdraw(f"the navigation is silent for {silent_ms:.0f} ms")

    def _moment(self, stream: str, stamp_ns: int) -> Moment:
        clock, now_s = self._clocks[stream], time.monotonic()
        clock.note(stamp_ns, self.now_ns(), now_s)
        age_ms = clock.age_ms(stamp_ns, self.now_ns())
        # Who wipes a picture for a dead node has no camera's clock: its stamp is not of this one.
        known = -_AHEAD_MS < age_ms < float("inf")
        sure = clock.announced is not None or clock.domain == SYSTEM
        return Moment(stamp_ns, now_s * 1e3, age_ms if known else None, known and sure)

    def _on_camera_clock(self, message: TimeReference) -> None:
        said = announced(message)
        if isinstance(said, Rejected):
            self.get_logger().warn(said.reason, throttle_duration_sec=10.0)
            return
        for clock in self._clocks.values():
            clock.announced = said

    # Pictures: each asked for only while a page shows it, since its overlay draws for that.

    def _on_look(self) -> None:
        now_s = time.monotonic()
        for name, topic in PICTURES.items():
            if self.server.wants(name):
                self._looked[name] = now_s
                if name not in self._looking:
                    heard = partial(self._on_picture, name)
                    self._looking[name] = self.create_subscription(
                        CompressedImage, topic, heard, qos.SENSOR_IN
                    )
            elif now_s - self._looked.get(name, float("-inf")) > _GONE_S:
                self._look_away(name)

    def _look_away(self, name: str) -> None:
        if (subscription := self._looking.pop(name, None)) is not None:
            self.destroy_subscription(subscription)
            self.server.forget(name)

    def _on_picture(self, name: str, message: CompressedImage) -> None:
        moment = self._moment(name, stamp_to_ns(message.header.stamp))
        self.server.picture(name, bytes(message.data), moment)

    def _on_info(self, message: CameraInfo) -> None:
        try:
            camera = decode_camera_info(message).raw_intrinsics()
        except (ImageError, ValueError):
            return  # the overlay tells
        values = {"name": "rgbd", "width": camera.width, "height": camera.height}
        values |= {"fx": camera.fx, "fy": camera.fy, "cx": camera.cx, "cy": camera.cy}
        if (told := json.dumps(values)) != self._camera_told:
            self._camera_told = told
            self.server.publish("camera", values)

    # Vertebrae.

    def _on_result(self, result: NavigationResult, status: DiagnosticArray) -> None:
        moment = self._moment("levels", result.stamp_ns)
        self._results.note(result.stamp_ns)
        self._silent, self._newest = False, result
        self._moments.note(result)
        self._levels_frame = status.header.frame_id or _OPTICAL
        self._asked = hypothesis_question(status, result.stamp_ns) or self._plan_question(result)
        self._ask()
        margins = {}
        if (checks := self._checks_of_now()) is not None and checks.ready:
            margins = checks.margins(tracked(result), ANEW)
        told = levels_message(result, moment, self._asked, self._levels_frame, margins)
        self.server.publish("levels", told)
        tool = self._tool.words(result, self._levels_frame, self._case)
        if tool is not None:
            self.server.publish("tool", {**tool, "arrived_ms": moment.arrived_ms})

    def _withdraw(self, reason: str) -> None:
        self._newest = None
        if self.server is None:
            return
        levels = self._case.exposed_levels if self._case is not None else ()
        self._asked = None
        self._ask()
        told = withdrawn_message(levels, reason, time.monotonic() * 1e3)
        self.server.publish("levels", told)

    def _ask(self) -> None:
        """One question at a time: which vertebra is which, then the plan, then the rods."""
        self.server.ask(self._asked or self._rod_asked)

    # The plan.

    def _on_plan(self, message: String) -> None:
        state = plan_state(self, message)
        case = state.of(self._case) if state is not None and self._case is not None else None
        if state is not None and case is not None and self.server is not None:
            self._case, self._plan_asked = case, state.question
            self.server.publish("plan", {"plan": plan_lines(case)})

    def _plan_question(self, result: NavigationResult) -> Question | None:
        """Only where the level is tracked: who answers sees the line in its bone."""
        if self._plan_asked is None or self._case is None:
            return None
        id_, text, line = self._plan_asked
        if all(e.level != line.level or e.status is not Status.TRACKED for e in result.levels):
            return None
        drawn = screw_line(line, self._case.orientation)
        return Question(id_, text, (line.level,), result.stamp_ns, drawn)

    # Screws and rods.

    def _on_implants(self, implants: Implants, status: DiagnosticArray) -> None:
        T = self._frames.lookup(self._levels_frame, status.header.frame_id)
        moment = self._moments.at(implants.stamp_ns)
        checks = {s.track_id: self._check(s, moment, T) for s in implants.screws}
        told = implants_message(
            implants.screws,
            implants.rods,
            checks,
            T,
            self._moment("implants", implants.stamp_ns),
            implants.reason,
        )
        self.server.publish("implants", told)

    def _check(
        self,
        row: ScrewRow,
        moment: NavigationResult | Rejected,
        T: np.ndarray | Rejected,
    ) -> ScrewCheck | Rejected:
        """Of one screw against the plan that holds now, by the pose of the screw's own moment, and
        only while its level is tracked still."""
        if self._case is None:
            return Rejected("there is no case")
        if isinstance(moment, Rejected):
            return moment
        now = tracked(self._newest) if self._newest is not None else {}
        if row.level and row.level not in now:
            return Rejected(f"{row.level} is not tracked")
        checks = self._checks_of_now()
        if checks is None or not checks.ready:
            return Rejected("being compared")
        levels = {e.level: e for e in moment.levels}
        return checks.check(row, levels, moment.stamp_ns, T)

    def _checks_of_now(self) -> ScrewChecks | None:
        """Against the plan that holds now; a thread prepares them, guidance goes on meanwhile."""
        if self._case is None:
            return None
        if self._checks is None or self._checks.case is not self._case:
            c = self.config
            self._checks = ScrewChecks(self._case, c.screw_play_deg, c.screw_diameter_mm)
            threading.Thread(target=self._checks.prepare, name="margins", daemon=True).start()
        return self._checks

    def _on_unreadable_screws(self, why: str, status: DiagnosticArray) -> None:
        self.get_logger().warn(f"screws cannot be read: {why}", throttle_duration_sec=10.0)

    def _on_bending(self, message: DiagnosticArray) -> None:
        self._rod_at = time.monotonic()
        now = Moment(stamp_to_ns(message.header.stamp), self._rod_at * 1e3, None, False)
        sides = [status_fields(s) for s in message.status]
        self._rod_asked = None
        try:
            question = rod_question(sides, now.stamp_ns)
            told = bending_message(sides, now, question)
        except (TypeError, ValueError):
            self.server.publish("bending", bending_message([], now))  # what was shown holds no more
            raise
        finally:
            self._ask()
        self._rod_asked = question
        self._ask()
        self.server.publish("bending", told)

    def _on_check(self, message: DiagnosticArray) -> None:
        levels = [{**status_fields(s), "message": s.message} for s in message.status]
        self.server.publish("check", check_message(levels))

    def _on_tf_static(self, message: Any) -> None:
        self._tool.on_tf_static(message)
        for edge in static_edges(message):
            self._frames.add(edge)

    # Health, and who the core is.

    def _on_health(self, message: DiagnosticArray) -> None:
        for status in message.status[:1]:
            fields = status_fields(status)
            now_ms = time.monotonic() * 1e3
            told = health_message(fields.get("state", "unknown"), status.message, fields, now_ms)
            self.server.publish("health", told)

    def _on_beat(self, message: DiagnosticStatus) -> None:
        try:
            beat = beat_from_message(message)
        except (KeyError, ValueError):
            return
        if beat.name == "navigation" and beat.born != self._navigation_birth:
            self._navigation_birth = beat.born
            self._begin()

    def _begin(self) -> None:
        self.server.begin(f"{self._birth}/{self._navigation_birth}")
        self._tell_paused(False)

    def _tell_paused(self, paused: bool) -> None:
        if self.server is not None:
            self.server.publish("paused", {"paused": paused})

    # What pages ask for.

    def _act(self, action: str, taken: Taken | None, word: str) -> Future[tuple[bool, str]]:
        """From the server's thread: asked on the executor's."""
        future: Future[tuple[bool, str]] = Future()
        call_soon(self, lambda: self._requests.ask(action, taken, word, future))
        return future

    def _note(self, values: dict[str, Any]) -> None:
        """From the server's thread: what a page showed or asked, for the record."""
        told = json.dumps({"stamp_ns": time.time_ns(), **values}, allow_nan=False)
        call_soon(self, lambda: self.active and self._events.publish(String(data=told)))

    # Health of its own.

    def facts(self) -> dict[str, Any]:
        url = self.server.url if self.server is not None else ""
        return {**super().facts(), "url": url}

    def health(self) -> tuple[bytes, str, dict[str, object]]:
        if self.server is None:
            return WARN, "not configured", {}
        values: dict[str, object] = {"url": self.server.url, "pages": self.server.pages}
        return OK, "running" if self.active else "not active", values


def main() -> int:
    """`ros2 run spine_nav_display display`."""
    return run_node(DisplayNode)


if __name__ == "__main__":
    sys.exit(main())
