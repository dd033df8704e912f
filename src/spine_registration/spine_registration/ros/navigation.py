# SPDX-License-Identifier: Apache-2.0
"""The navigation node: RGB-D in, registered vertebrae out. Segmentation and registration share one
process because they share pixels; a worker thread computes, the executor thread publishes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from geometry_msgs.msg import PointStamped
from rcl_interfaces.msg import SetParametersResult
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo
from std_srvs.srv import SetBool, Trigger

from spine_nav_common.core.budgets import budgets
from spine_nav_common.core.clock import UNKNOWN
from spine_nav_common.core.rectify import RgbdRectifier
from spine_nav_common.core.types import NavigationResult, Rejected
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.executor import call_soon
from spine_nav_common.ros.frames import FramePairer, RawFrame, image_type
from spine_nav_common.ros.lifecycle import OK, WARN
from spine_nav_common.ros.runtime import run_node
from spine_nav_common.ros.worker_node import WorkerNode

from ..core.journal import FrameEntry
from ..core.nothing import refused, withdrawn
from ..memory_file import MemoryFile, memory_path
from .navigation_check import LandmarkChecks
from .navigation_core import Core, NavigationConfig, load_core
from .navigation_journal import NavigationJournal
from .navigation_output import NavigationOutput

_READING_S = 1.0  # nobody has read a hypothesis that stands for a shorter time
_WORDS = {"yes": True, "no": False}
_Output = tuple[RawFrame, NavigationResult, tuple[str | None, str | None], float, FrameEntry]


class NavigationNode(WorkerNode):
    """See docs/contracts.md, section 6. Tests hand in another `loader`."""

    config_type = NavigationConfig

    def __init__(
        self,
        values: Mapping[str, Any] | None = None,
        namespace: str | None = None,
        loader: Callable[[NavigationConfig], Core] = load_core,
    ) -> None:
        super().__init__("navigation", values, namespace)
        self._loader = loader
        self.core: Core | None = None
        self.add_on_set_parameters_callback(self._on_parameters)
        self.provider = self.model_sha256 = ""

    def configure(self) -> None:
        super().configure()
        self.core = self._loader(self.config)
        self.provider, self.model_sha256 = self.core.provider, self.core.model_sha256
        self._last: NavigationResult | None = None
        self._asked, self._replaced = None, float("-inf")
        self._rectify = RgbdRectifier(self.core.depth)
        self._memory = MemoryFile(memory_path(self.get_namespace()))
        self._before = self._memory.read(len(self.core.case.meshes))
        self._answered, self._fell = 0, False
        if self._memory.problem:
            self.get_logger().warn(self._memory.problem)
        levels = self.core.case.exposed_levels
        self.tell(self.core.case.notes)
        c = self.config
        self._output = NavigationOutput(self.advertise, levels, c.publish_tf, c.tf_prefix)
        self._journal = NavigationJournal(self.advertise, self.core, c)
        self._checks = LandmarkChecks(
            self.advertise, self.core.case, c.click95_mm, c.pointer95_mm, self._withhold,
            lambda: call_soon(self, self._checks.renew),
        )  # fmt: skip
        self.serve(Trigger, "register", self._on_register)
        self.serve(SetBool, "confirm_level", self._on_confirm)
        self.serve(SetBool, "pause", self.on_pause)

    def activate(self) -> None:
        super().activate()
        self._checks.publish()
        self.follow_camera()
        self.pairer = FramePairer(self.take_image, self.config.pair_tolerance_ms)
        c = self.config
        self.listen(CameraInfo, c.info_topic, self.pairer.info, qos.SENSOR_IN)
        self.listen(PointStamped, topics.POINTER, self._on_pointer, qos.RESULT)
        for topic, callback in (
            (c.colour_topic, self.pairer.colour),
            (c.depth_topic, self.pairer.depth),
        ):
            self.listen(image_type(topic), topic, callback, qos.images_in(c.image_reliability))
        self.watch_losses(self.pairer.lost)

    def deactivate(self) -> None:
        self._fell = not self.alive
        super().deactivate()
        self._journal.left_over("navigation was stopped")

    def cleanup(self) -> None:
        self.core = None
        # An exception that ends the process passes through its destruction, and is no clean end.
        if not self._fell and sys.exc_info()[0] is None:
            self._memory.remove()

    # One frame: decoded and segmented in one thread while the frame before is solved in another;
    # encoded and published on the executor's.

    def stages_of_work(self) -> tuple[Callable[[Any], Any], ...]:
        return self._segment, self.work

    def follows(self) -> bool:
        return self.core.navigator.following

    def _segment(self, raw: RawFrame) -> tuple[RawFrame, Any, float]:
        """The frame, what is seen in it or the error, and the duration in ms."""
        start = time.monotonic()
        try:
            seen = self.core.navigator.segment(raw.decode(self._rectify), raw.epoch)
        except Exception as error:  # noqa: BLE001 - one bad frame must not end the navigation
            seen = error
        return raw, seen, (time.monotonic() - start) * 1e3

    def work(self, item: tuple[RawFrame, Any, float]) -> _Output:
        raw, seen, segment_ms = item
        start = time.monotonic()
        navigator, pending = self.core.navigator, (None, None)
        try:
            if isinstance(seen, Exception):
                raise seen
            self._recall()
            result = navigator.solve(seen)
            self._checks.note(seen.frame, result, raw.info, navigator.registrations)
            self._remember(seen.frame)
            if self._output.labels_wanted:
                result = replace(result, labels=navigator.label_image(seen.frame))
            pending = navigator.pending, navigator.pending_id
            self.trouble = ""
        except Exception as error:  # noqa: BLE001 - one bad frame must not end the navigation
            self.counts["refused"] += 1
            self.trouble = f"frame refused: {' '.join(str(error).split())}"
            if not isinstance(error, ValueError):
                self.counts["faults"] += 1
                self.trouble = f"fault in the navigation, started anew: {error!r}"
                navigator.reset()
            result = refused(raw.stamp_ns, self.core.case.exposed_levels, self.trouble)
        entry = self._journal.frame(raw, seen, navigator, self.trouble, result.events)
        return raw, result, pending, segment_ms + (time.monotonic() - start) * 1e3, entry

    def _recall(self) -> None:
        """Hand on what the process before this one knew, once it is known whose clock this is."""
        if self._before is None or self.clock.domain == UNKNOWN:
            return
        memory, self._before = self._before, None
        if memory.clock != self.clock.domain:  # stamps of two clocks do not compare
            memory = replace(memory, shown=None)
        self.core.navigator.recall(memory, self.config.keep_s)
        self._journal.recalled(memory, self.config.keep_s)
        self.get_logger().info("took over what the navigation before this one knew")

    def _remember(self, frame: Any) -> None:
        navigator = self.core.navigator
        if self._before is not None or not self._memory.due((navigator.following, self._answered)):
            return
        try:
            self._memory.write(navigator.memory(frame, self.clock.domain))
        except Exception as error:  # noqa: BLE001 - what is for later must not cost what is shown
            self._memory.problem = f"nothing is kept for a restart: {error!r}"
        if self._memory.problem:
            self.get_logger().warn(self._memory.problem, throttle_duration_sec=10.0)

    def done(self, output: _Output) -> None:
        raw, result, hypothesis, work_ms, entry = output
        if self.paused or not self.active:
            self._journal.settle(entry, "paused" if self.paused else "not active", published=False)
            return
        self.counts["processed"] += 1
        self.withdrawn, self.frame_id = self.note(result.stamp_ns, raw.arrived), raw.frame_id
        if self.withdrawn:
            result, hypothesis = withdrawn(result, self.withdrawn), (None, None)
        self._journal.settle(entry, self.withdrawn)
        if self.trouble:
            self.get_logger().warn(self.trouble, throttle_duration_sec=1.0)
        self._last = result
        self._note_question(hypothesis[1])
        self._output.publish(result, self.frame_id, *hypothesis, clock=self.clock.domain)
        stages = self.stages(result.timings_ms, work_ms, raw.arrived)
        self._output.publish_stages(result.stamp_ns, self.frame_id, stages)

    # Silence: what was shown is withdrawn, with the reason.

    @property
    def timeout_ms(self) -> float:
        return self.config.frame_timeout_ms

    def silence(self) -> str:
        return self.trouble or self.pairer.missing() or "no camera frames"

    def withdraw(self, reason: str) -> None:
        self.withdrawn = reason
        if self._last is None:
            return
        self._note_question(None)
        shown = any(e.T_camera_ct is not None for e in self._last.levels)
        self._last = withdrawn(self._last, reason)
        self._output.publish(self._last, self.frame_id)
        if shown:
            self.counts["withdrawn"] += 1
            self.get_logger().warn(f"guidance withdrawn: {reason}")

    # Services.

    def _on_register(self, _: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        def forget() -> str:
            self.core.navigator.request_registration()
            self._before = None
            self._memory.remove()
            call_soon(self, self._checks.forget)
            return "registration requested"

        self._journal.asked("register")
        return self.ask(answer, forget)

    def _note_question(self, asked: str | None) -> None:
        """Remember which hypothesis the surgeon reads, and when it took the place of another."""
        if asked != self._asked and self._asked is not None and asked is not None:
            self._replaced = time.monotonic()
        self._asked = asked

    def _on_confirm(self, request: SetBool.Request, answer: SetBool.Response) -> SetBool.Response:
        """The short form answers what was published last, unless that has just changed."""
        said: str | Rejected = Rejected("no hypothesis waits for a confirmation")
        since = time.monotonic() - self._replaced
        if self._asked is not None and since < _READING_S:
            said = Rejected(
                f"the hypothesis changed {since:.1f} s ago; look at it and answer again, or "
                f"set confirm_hypothesis to '{self._asked} yes' or '{self._asked} no'"
            )
        elif self._asked is not None:
            said = self._confirm(request.data, self._asked)
        answer.success = not isinstance(said, Rejected)
        answer.message = said.reason if isinstance(said, Rejected) else said
        if isinstance(said, Rejected):
            self._journal.asked("confirm", accept=request.data, refused=said.reason)
        return answer

    def on_pause(self, request: SetBool.Request, answer: SetBool.Response) -> SetBool.Response:
        self._journal.asked("pause" if request.data else "resume")
        return super().on_pause(request, answer)

    def _confirm(self, accept: bool, hypothesis_id: str) -> str | Rejected:
        self._answered += 1  # kept at once, for the case that this process dies
        # A flag that the next frame honours: no need to wait for the frame in work.
        said = self.core.navigator.confirm(accept, hypothesis_id)
        refused_for = said.reason if isinstance(said, Rejected) else ""
        self._journal.asked("confirm", accept=accept, id=hypothesis_id, refused=refused_for)
        return said

    # The surgeon's check.

    def _withhold(self, reasons: dict[str, str]) -> None:
        self._answered += 1  # kept at once, as an answer is
        self.core.navigator.withhold(reasons)

    def _on_pointer(self, message: PointStamped) -> None:
        said = self._checks.pointer(message)
        if isinstance(said, Rejected):
            self.get_logger().warn(f"a pointer's touch does not count: {said.reason}")
        self._note_check("pointer", said)

    def _note_check(self, words: str, said: str | Rejected) -> None:
        refused_for = said.reason if isinstance(said, Rejected) else ""
        told = "" if isinstance(said, Rejected) else said
        self._journal.asked("check", words=words, told=told, refused=refused_for)

    def _on_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        """`confirm_hypothesis` is an answer that names its question, `landmark_check` a word of a
        check."""
        said: str | Rejected = ""
        for text in (str(c.value) for c in changes if c.name == "landmark_check" and c.value):
            said = Rejected("navigation is not active; there is nothing to check")
            if self.core is not None and self.active and text.strip():
                said = self._checks.command(text)
                self._note_check(text, said)
        for text in (c.value for c in changes if c.name == "confirm_hypothesis" and c.value):
            id_, _, word = str(text).strip().partition(" ")
            if word not in _WORDS:
                said = Rejected(f"'{text}': give the id of the hypothesis, then yes or no")
            elif self.core is None:
                said = Rejected("navigation is not configured; nothing waits for an answer")
            else:
                said = self._confirm(_WORDS[word], id_.upper())
        if isinstance(said, Rejected):
            return SetParametersResult(successful=False, reason=said.reason)
        return SetParametersResult(successful=True, reason=said)

    @property
    def ready(self) -> bool:
        """Whether a camera may begin: what it sends will be heard and its results noted."""
        return self.listened_to

    @property
    def listened_to(self) -> bool:
        """Whether somebody is matched to every topic that a record of the run needs."""
        return self.active and self._output.listened_to

    def health(self) -> tuple[bytes, str, dict[str, object]]:
        values = {**self.counts, "provider": self.provider}
        if self.active:
            values |= {**self.pairer.counts(), "model_sha256": self.model_sha256}
            values |= self.clock_values()
            values["tf"] = self._output.tf_state
            values |= self.stage_times.health(budgets(self.provider))
        if (ailing := self.ailing(values)) is not None:
            return ailing
        if self._last is None:
            return WARN, self.trouble or self.pairer.missing() or "no camera frames yet", values
        return (WARN, self.trouble, values) if self.trouble else (OK, "running", values)


def main() -> int:
    """`ros2 run spine_registration navigation`."""
    return run_node(NavigationNode)


if __name__ == "__main__":
    sys.exit(main())
