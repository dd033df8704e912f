# SPDX-License-Identifier: Apache-2.0
"""The rod guidance node: heads and rods in, bending plan and what is left to bend out.

It plans when asked (`plan_rod`) and by itself once the heads hold still. A worker thread plans and
compares, the executor thread publishes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger
from visualization_msgs.msg import MarkerArray

from rod_bending_ar.core.complete import planned_screws
from rod_bending_ar.core.guidance import RodGuide, SideGuidance
from spine_nav_common.core.case import load_case
from spine_nav_common.core.types import Rejected
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import header
from spine_nav_common.ros.implants import Implants, implants_from_messages
from spine_nav_common.ros.joined import Joined
from spine_nav_common.ros.lifecycle import ERROR, OK, WARN
from spine_nav_common.ros.runtime import run_node
from spine_nav_common.ros.worker_node import WorkerNode

from .guidance_config import RodGuidanceConfig
from .guidance_output import guidance_markers, guidance_status

_WORDS = {"yes": True, "no": False}
WITHDRAWN = "withdrawn: "  # begins the text of a side that nothing is shown of


class RodGuidance(WorkerNode):
    """See docs/contracts.md, section 6: guidance/bending; guidance/bending/status beside it."""

    config_type = RodGuidanceConfig
    yields = True
    watch_s = 0.1

    def __init__(
        self, values: Mapping[str, Any] | None = None, namespace: str | None = None
    ) -> None:
        super().__init__("rod_guidance", values, namespace)
        self.guidance: tuple[SideGuidance, ...] = ()
        self._told: dict[str, str] = {}  # by side: what was answered last
        self._answered: set[str] = set()  # ids of questions
        self.add_on_set_parameters_callback(self._on_parameters)

    def configure(self) -> None:
        super().configure()
        case = load_case(self.config.case) if self.config.case else None
        self._order = self.config.order(planned_screws(case))
        if case is not None:
            self.tell(case.notes)
        self._guide = RodGuide(self._order)
        self._markers = self.advertise(MarkerArray, topics.BENDING, qos.LATCHED)
        self._statuses = self.advertise(DiagnosticArray, topics.BENDING_STATUS, qos.STATE)
        self._stamp_ns = 0
        self._newest: Implants | None = None
        self.serve(Trigger, "plan_rod", self._on_plan)

    def activate(self) -> None:
        super().activate()
        self._compared = float("-inf")
        joined = Joined(implants_from_messages, self._on_implants, self._on_unreadable)
        self.listen(DiagnosticArray, topics.SCREW_STATUS, joined.status, qos.POSE)
        self.listen(PoseArray, topics.SCREW_POSES, joined.poses, qos.POSE)

    def cleanup(self) -> None:
        self._guide = None

    # Heads and rods of one frame: joined here, worked on in the thread, published here again.

    def _on_unreadable(self, why: str, status: DiagnosticArray) -> None:
        self.trouble = f"screws cannot be read: {why}"
        self.withdraw(self.trouble)

    def _on_implants(self, implants: Implants, status: DiagnosticArray) -> None:
        self.trouble, self.frame_id = "", status.header.frame_id
        self.results.note(implants.stamp_ns)
        if implants.reason:
            self.withdraw(implants.reason)
            return
        self._newest = implants
        self.take(implants)

    def work(self, implants: Implants) -> tuple[Implants, tuple[SideGuidance, ...], str]:
        due = (time.monotonic() - self._compared) * 1e3 >= self.config.compare_ms
        try:
            guidance = self._guide.observe(implants.screws, implants.rods, due)
        except Exception as error:  # noqa: BLE001 - one bad frame must not end the guidance
            self._guide = RodGuide(self._order)
            return implants, (), f"fault in the rod guidance, started anew: {error!r}"
        if due:
            self._compared = time.monotonic()
        return implants, guidance, ""

    def done(self, output: tuple[Implants, tuple[SideGuidance, ...], str]) -> None:
        implants, guidance, trouble = output
        if not self.active or self._newest is None:
            return  # withdrawn while it was worked on
        self.withdrawn, self.trouble, self._stamp_ns = "", trouble, implants.stamp_ns
        if trouble:
            self.counts["faults"] += 1
            self.withdraw(trouble)
            return
        self._show(guidance)

    # The surgeon's answers.

    def _on_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        """`confirm_missing` is an answer that names its question."""
        said: str | Rejected = ""
        for text in (str(c.value) for c in changes if c.name == "confirm_missing" and c.value):
            id_, _, word = text.strip().partition(" ")
            if word not in _WORDS:
                said = Rejected(f"'{text}': give the id of the question, then yes or no")
            elif not self.active:
                said = Rejected("the rod guidance is not active; nothing waits for an answer")
            else:
                said = self._answer(id_.upper(), _WORDS[word])
        if isinstance(said, Rejected):
            return SetParametersResult(successful=False, reason=said.reason)
        return SetParametersResult(successful=True, reason=said)

    def _answer(self, id_: str, accept: bool) -> str | Rejected:
        """By what is shown now, whatever the frame in work will say."""
        asked = {g.question.id: g.question for g in self.guidance if g.question is not None}
        if id_ in self._answered:
            return Rejected(f"{id_} was answered already")
        if id_ not in asked:
            now = (
                f"{', '.join(asked)} is asked now; look again" if asked else "nothing is asked now"
            )
            return Rejected(f"{id_} was answered, {now}")
        question = asked[id_]
        self._guide.answer(question, accept)
        self._answered.add(id_)
        what = question.what if accept else f"not so, the screw is asked for still: {question.text}"
        self._told[question.side] = f"{id_}: {what}"
        self._show(self.guidance)
        return what

    def _show(self, guidance: tuple[SideGuidance, ...]) -> None:
        guidance = tuple(
            replace(g, question=None) if g.question and g.question.id in self._answered else g
            for g in guidance
        )
        asked = {g.question.id for g in self.guidance if g.question is not None}
        for question in (g.question for g in guidance if g.question is not None):
            if question.id not in asked:
                self.get_logger().info(
                    f"{question.side} rod: {question.text}. Answer: confirm_missing"
                    f" '{question.id} yes' ({question.what}) or no"
                )
        before = {g.side: g.state for g in self.guidance}
        for g in guidance:
            if before.get(g.side) != g.state:
                self.get_logger().info(f"{g.side} rod, {g.state}: {g.text}")
        self.guidance = guidance
        top = header(self._stamp_ns, self.frame_id)
        self._markers.publish(guidance_markers(guidance, top))
        self._statuses.publish(guidance_status(guidance, top, self._told))

    # Silence and refusals: nothing that was planned stays on the screen.

    @property
    def timeout_ms(self) -> float:
        return self.config.silence_ms

    def silence(self) -> str:
        return "no screws"

    def withdraw(self, reason: str) -> None:
        self.withdrawn, self._newest = reason, None
        sides = self._order.sides
        self._show(tuple(SideGuidance(side, "waiting", WITHDRAWN + reason) for side in sides))

    def _on_plan(self, _: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        newest = self._newest
        if newest is None or not newest.screws:
            answer.success = False
            answer.message = self.withdrawn or "no screw heads in view: show them to both cameras"
            return answer
        return self.ask(answer, lambda: "; ".join(self._guide.request(newest.screws)))

    def health(self) -> tuple[bytes, str, dict[str, object]]:
        values = {**self.counts, **{g.side: f"{g.state}: {g.text}" for g in self.guidance}}
        if self.active and self.alive and self.trouble:
            return ERROR, self.trouble, values
        if self.active and self.alive and self.withdrawn:
            return WARN, f"guidance withdrawn: {self.withdrawn}", values  # no screws: no fault
        if (ailing := self.ailing(values)) is not None:
            return ailing
        return OK, "running" if self.results.count else "waiting for screws", values


def main() -> int:
    """`ros2 run rod_bending_ar rod_guidance`."""
    return run_node(RodGuidance)


if __name__ == "__main__":
    sys.exit(main())
