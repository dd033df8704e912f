# SPDX-License-Identifier: Apache-2.0
"""OpenIGTLink for 3D Slicer: poses, models, plan and words go out, edited planned screws come in.

A viewer keeps the last transform that it got and cannot know that it is old. So a level that is not
tracked is withdrawn in its own terms: its transform is sent no more, its model and its planned screws
become empty, and its status says why. See docs/bridges.md.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String

from spine_nav_common.core.case import load_case
from spine_nav_common.core.images import ImageError, decode_colour
from spine_nav_common.core.live_plan import line_of, proposal, same_line
from spine_nav_common.core.types import (
    Case,
    LevelEstimate,
    NavigationResult,
    Rejected,
    ScrewPlan,
    Status,
)
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import stamp_to_ns
from spine_nav_common.ros.executor import call_soon
from spine_nav_common.ros.joined import Joined
from spine_nav_common.ros.lifecycle import OK, WARN, SpineNode, StampAge
from spine_nav_common.ros.live_plan import plan_state
from spine_nav_common.ros.results import result_from_messages, status_fields
from spine_nav_common.ros.runtime import run_node
from spine_nav_display.core import igtl_scene as scene
from spine_nav_display.core.igtl_messages import (
    Code,
    Header,
    image_body,
    point_body,
    polydata_body,
    string_body,
    transform_body,
)
from spine_nav_display.core.scene import simplified
from spine_nav_display.igtl_server import IgtlServer, check_address

from .openigtlink_config import OpenIgtLinkConfig

_WATCH_S = 0.1
_NUMBER = re.compile(r"\d+(\.\d+)?")  # changes with every frame; what is said does not
_WORDS_S = 1.0  # a status whose numbers alone change is sent again after this long
_NOTE_S = 10.0  # so long the health names what went wrong with a client
_BLANK_S = 1.0  # a picture that has stood for this long is covered
_NOTHING = polydata_body(np.zeros((0, 3)))
_SIZE = (480, 640)


@dataclass(frozen=True)
class _Edit:
    """A line that came from a client and has not been proposed yet."""

    line: ScrewPlan
    client: str
    came_s: float


class OpenIgtLink(SpineNode):
    """Serves OpenIGTLink; publishes plan/proposal."""

    config_type = OpenIgtLinkConfig
    yields = True

    def __init__(
        self, values: Mapping[str, Any] | None = None, namespace: str | None = None
    ) -> None:
        super().__init__("openigtlink", values, namespace)
        self.server: IgtlServer | None = None
        self.pictures: IgtlServer | None = None

    def configure(self) -> None:
        c = self.config
        check_address(c.host, c.allow_network)
        self._case: Case = load_case(c.case)
        self._note, self._noted_s = "", float("-inf")
        self._models = {
            level: self._model(level) for level in self._case.exposed_levels
        }  # bodies, made once
        self._proposals = self.advertise(String, topics.PLAN_PROPOSAL, qos.RESULT)
        self._tracked: dict[str, bool] = {}
        self._words: dict[str, tuple[str, float]] = {}
        self._told: dict[str, int] = {}
        self.server = IgtlServer(c.host, c.port, self._on_message, self._on_note)
        self.server.start()
        if c.image_hz > 0.0:
            self.pictures = IgtlServer(c.host, c.image_port, self._on_message, self._on_note)
            self.pictures.start()
        self._withdraw_all("nothing is known yet")
        self._send_lines(self._case.plan)
        self.server.state("STRING", "PlanStatus", string_body("the plan of the case"), _now())
        where = f"{c.host}:{self.server.port}"
        if self.pictures is not None:
            where += f", pictures at port {self.pictures.port}"
        self.get_logger().info(f"OpenIGTLink for 3D Slicer: {where}")
        if c.allow_network:
            self.get_logger().warn("OpenIGTLink is served without authentication or encryption")

    def activate(self) -> None:
        levels = Joined(
            result_from_messages,
            self._on_result,
            lambda why, _: self._withdraw_all(f"a result cannot be read: {why}"),
        )
        self._age, self._silent = StampAge(), False
        self._edits: dict[str, _Edit] = {}
        self._who: dict[str, str] = {}
        self._passed_over: set[tuple[str, str]] = set()
        self._looking: Any = None
        self._sent_s = self._picture_s = float("-inf")
        self._blank = True
        self.listen(DiagnosticArray, topics.STATUS, levels.status, qos.POSE)
        self.listen(PoseArray, topics.VERTEBRA_POSES, levels.poses, qos.POSE)
        self.listen(String, topics.PLAN_STATE, self._on_plan, qos.LATCHED)
        self.listen(DiagnosticArray, topics.HEALTH, self._on_health, qos.LATCHED)
        self.every(_WATCH_S, self._on_watch)

    def deactivate(self) -> None:
        self._look_away()
        self._withdraw_all("the bridge is not active")

    def cleanup(self) -> None:
        for server in (self.server, self.pictures):
            if server is not None:
                server.stop()
        self.server = self.pictures = None

    def _model(self, level: str) -> bytes:
        mesh = simplified(self._case.meshes[level], self.config.faces)
        return polydata_body(scene.to_ras_mm(mesh.vertices_m, self._case.frame), mesh.faces)

    # What goes out.

    def _on_result(self, result: NavigationResult, status: DiagnosticArray) -> None:
        self._age.note(result.stamp_ns)
        self._silent = False
        for estimate in result.levels:
            if estimate.level in self._models:
                self._show(estimate, result.stamp_ns)

    def _show(self, e: LevelEstimate, stamp_ns: int) -> None:
        if e.status is not Status.TRACKED or e.T_camera_ct is None:
            self._withdraw(e.level, f"{e.status.value}: {e.reason}" if e.reason else e.status.value)
            return
        name = scene.transform_name(e.level)
        T = scene.vertebra_to_camera_mm(e.T_camera_ct, self._case.frame)
        self.server.state("TRANSFORM", name, transform_body(T), stamp_ns, keep=False)
        if not self._tracked.get(e.level):
            self._tracked[e.level] = True
            self.server.state(
                "POLYDATA", scene.model_name(e.level), self._models[e.level], stamp_ns
            )
            self._draw_shafts(e.level)
        bound = "" if e.predicted_tre_mm is None else f": 95 % within {e.predicted_tre_mm:.1f} mm"
        self._say(e.level, f"tracked{bound}", "tracked")

    def _withdraw(self, level: str, reason: str) -> None:
        self.server.withdraw(scene.transform_name(level))
        if self._tracked.get(level) is not False:
            self._tracked[level] = False
            self.server.state("POLYDATA", scene.model_name(level), _NOTHING, _now())
            self._draw_shafts(level)
        self._say(level, reason, _NUMBER.sub("#", reason))

    def _withdraw_all(self, reason: str) -> None:
        if self.server is not None:
            for level in self._models:
                self._withdraw(level, reason)

    def _say(self, level: str, text: str, same: str) -> None:
        """A level's words, at once where what they say has changed."""
        before, when = self._words.get(level, ("", float("-inf")))
        now = time.monotonic()
        if same != before or now - when > _WORDS_S:
            self._words[level] = (same, now)
            self.server.state("STRING", scene.status_name(level), string_body(text), _now())

    def _draw_shafts(self, level: str) -> None:
        for plan in self._case.plan:
            if plan.level == level:
                shown = self._tracked.get(level)
                body = polydata_body(*scene.shaft(plan, self._case.frame)) if shown else _NOTHING
                self.server.state("POLYDATA", scene.shaft_name(plan), body, _now())

    def _send_lines(self, plans: tuple[ScrewPlan, ...]) -> None:
        for plan in plans:
            body = point_body(scene.plan_points(plan, self._case.frame))
            self.server.state("POINT", scene.line_name(plan), body, _now())

    def _on_health(self, message: DiagnosticArray) -> None:
        for status in message.status[:1]:
            state = status_fields(status).get("state", "unknown")
            text = f"{state}: {status.message}" if status.message else state
            self.server.state("STRING", "SpineNavHealth", string_body(text), _now())

    def _on_watch(self) -> None:
        silent_ms = self._age.silent_ms()
        if self._age.count and not self._silent and silent_ms > self.config.silence_ms:
            self._silent = True
            self._withdraw_all(f"the navigation is silent for {silent_ms:.0f} ms")
        self._propose_edits()
        if self.pictures is not None:
            self._watch_pictures()

    # The plan, both ways.

    def _on_plan(self, message: String) -> None:
        state = plan_state(self, message)
        case = state.of(self._case) if state is not None else None
        if state is None or case is None:
            return
        before, self._case = self._case.plan, case
        changed = [p for p in case.plan if not _among(p, before)]
        self._send_lines(tuple(changed))
        for level in {p.level for p in changed} & self._models.keys():
            self._draw_shafts(level)
        for name, told in state.told.items():
            if self._told.get(name) != told["n"]:
                self._told[name] = told["n"]
                self._tell_outcome(name, str(told["what"]), str(told["text"]))

    def _tell_outcome(self, name: str, what: str, text: str) -> None:
        words = f"{name} {what}: {text}"
        self.server.state("STRING", "PlanStatus", string_body(words), _now())
        if (client := self._who.get(name)) is not None:
            code = Code.DENIED if what in ("refused", "rejected") else Code.OK
            self.server.tell(client, code, words)
        if what == "rejected":  # what is seen there shall be what holds
            level, _, side = name.partition("_")
            line = line_of(self._case.plan, level, side)
            self._send_lines(() if line is None else (line,))

    def _on_message(self, client: str, header: Header, content: bytes) -> None:
        """From a server's thread."""
        call_soon(self, lambda: self.active and self._receive(client, header, content))

    def _receive(self, client: str, header: Header, content: bytes) -> None:
        if header.kind != "POINT":
            if (client, header.kind) not in self._passed_over and len(self._passed_over) < 1000:
                self._passed_over.add((client, header.kind))
                text = f"{header.kind} is passed over; planned screws come as POINT"
                self.server.tell(client, Code.ILLEGAL, text)
            return
        line = scene.read_line(header.device, content, self._case.frame)
        if isinstance(line, Rejected):
            self._on_note(f"{client}: {line.reason}")
            self.server.tell(client, Code.DENIED, line.reason)
            return
        name = scene.line_name(line)
        self._edits[name] = _Edit(line, client, time.monotonic())

    def _propose_edits(self) -> None:
        """What has not moved for a while goes to the case server, and waits while that is not there."""
        due = time.monotonic() - self.config.edit_ms * 1e-3
        if not self._proposals.get_subscription_count():
            return
        for name in [n for n, e in self._edits.items() if e.came_s <= due]:
            edit = self._edits.pop(name)
            self._who[name] = edit.client
            source = f"OpenIGTLink client {edit.client}"
            self._proposals.publish(String(data=proposal(edit.line, source)))

    # Pictures, on a connection of their own.

    def _watch_pictures(self) -> None:
        if self.pictures.clients and self._looking is None:
            self._looking = self.create_subscription(
                CompressedImage, topics.OVERLAY_COMPRESSED, self._on_picture, qos.SENSOR_IN
            )
        elif not self.pictures.clients:
            self._look_away()
        if not self._blank and time.monotonic() - self._picture_s > _BLANK_S:
            self._blank = True
            self._send_picture(_blank("NO PICTURE: it has stopped"), _now())

    def _look_away(self) -> None:
        if self._looking is not None:
            self.destroy_subscription(self._looking)
        self._looking = None

    def _on_picture(self, message: CompressedImage) -> None:
        now = time.monotonic()
        self._picture_s = now
        if now - self._sent_s < 1.0 / self.config.image_hz:
            return
        self._sent_s, self._blank = now, False
        try:
            self._send_picture(decode_colour(message), stamp_to_ns(message.header.stamp))
        except ImageError as error:
            self.get_logger().warn(f"a picture cannot be read: {error}", throttle_duration_sec=10.0)

    def _send_picture(self, picture: np.ndarray, stamp_ns: int) -> None:
        self.pictures.state("IMAGE", "Overlay", image_body(picture), stamp_ns, keep=False)

    # Health.

    def _on_note(self, text: str) -> None:
        """From any thread."""
        self._note, self._noted_s = text, time.monotonic()
        self.get_logger().warn(f"OpenIGTLink: {text}", throttle_duration_sec=1.0)

    def facts(self) -> dict[str, Any]:
        port = self.server.port if self.server is not None else 0
        return {**super().facts(), "port": port}

    def health(self) -> tuple[bytes, str, dict[str, object]]:
        if self.server is None:
            return WARN, "not configured", {}
        values: dict[str, object] = {
            "port": self.server.port, "clients": " ".join(self.server.clients), **self.server.counts,
        }  # fmt: skip
        if time.monotonic() - self._noted_s < _NOTE_S:
            return WARN, self._note, values
        return OK, "running" if self.active else "not active", values


def _among(plan: ScrewPlan, plans: tuple[ScrewPlan, ...]) -> bool:
    old = line_of(plans, plan.level, plan.side)
    return old is not None and same_line(plan, old)


def _blank(words: str) -> np.ndarray:
    picture = np.full((*_SIZE, 3), 24, np.uint8)
    cv2.putText(picture, words, (24, 240), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 96, 80), 2, 16)
    return picture


def _now() -> int:
    return time.time_ns()


def main() -> int:
    """`ros2 run spine_nav_display openigtlink`."""
    return run_node(OpenIgtLink)


if __name__ == "__main__":
    sys.exit(main())
