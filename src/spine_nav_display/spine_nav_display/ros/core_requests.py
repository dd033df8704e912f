# SPDX-License-Identifier: Apache-2.0
"""What pages ask of the graph: answers that name their question, register, pause."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from std_srvs.srv import SetBool, Trigger

from spine_nav_common.ros.lifecycle import SpineNode
from spine_nav_common.ros.results import status_fields
from spine_nav_display.core.questions import CONFIRM, Question, Taken
from spine_nav_display.server import CHECK


class CoreRequests:
    """Clients of the services of navigation, case server and rod guidance.

    on_paused: hears, when a pause or its end was done, which of both.
    """

    def __init__(self, node: SpineNode, on_paused: Callable[[bool], None]) -> None:
        self._node, self._on_paused = node, on_paused
        self._register = node.create_client(Trigger, "register")
        self._pause = node.create_client(SetBool, "pause")
        self._navigation = node.create_client(SetParameters, "navigation/set_parameters")
        self._plan = node.create_client(SetParameters, "case_server/set_parameters")
        self._rods = node.create_client(SetParameters, "rod_guidance/set_parameters")

    def close(self) -> None:
        """Destroy the clients."""
        for client in (self._register, self._pause, self._navigation, self._plan, self._rods):
            self._node.destroy_client(client)

    def ask(self, action: str, taken: Taken | None, word: str, future: Future) -> None:
        """On the executor's thread. See server.Act; future: of whether it was done, and words."""
        if not future.set_running_or_notify_cancel():
            return  # its page was told that it was not done, and may have said something else since
        if not self._node.active:
            future.set_result((False, "the display is not active"))
        elif taken is not None:
            said = "yes" if taken.answer.verb == CONFIRM else "no"
            name, client = "confirm_hypothesis", self._navigation
            if taken.question.is_plan:
                name, client = "confirm_plan", self._plan
            elif taken.question.side:
                name, client = "confirm_missing", self._rods
            request = _set_text(name, f"{taken.question.id} {said}")
            self._call(client, request, _parameter_answer, future)
        elif action == CHECK:
            request = _set_text("landmark_check", word)
            self._call(self._navigation, request, _parameter_answer, future)
        elif action == "register":
            self._call(self._register, Trigger.Request(), _service_answer, future)
        else:
            paused = action == "pause"

            def told(answer: Any) -> tuple[bool, str]:
                if answer.success:
                    self._on_paused(paused)
                return _service_answer(answer)

            self._call(self._pause, SetBool.Request(data=paused), told, future)

    def _call(
        self, client: Any, request: Any, read: Callable[[Any], tuple[bool, str]], future: Future
    ) -> None:
        if not client.service_is_ready():
            who = {self._plan: "case server", self._rods: "rod guidance"}
            future.set_result((False, f"the {who.get(client, 'navigation')} is not there"))
            return

        def done(asked: Any) -> None:
            if future.done():
                return
            if asked.exception() is not None:
                future.set_result((False, str(asked.exception())))
            else:
                future.set_result(read(asked.result()))

        client.call_async(request).add_done_callback(done)


def hypothesis_question(status: DiagnosticArray, stamp_ns: int) -> Question | None:
    """What a status asks: all levels carry the same question."""
    fields = [status_fields(s) for s in status.status]
    if not fields or not fields[0].get("hypothesis_id"):
        return None
    levels = tuple(f["level"] for f in fields)
    return Question(fields[0]["hypothesis_id"], fields[0].get("hypothesis", ""), levels, stamp_ns)


def rod_question(sides: Sequence[Mapping[str, str]], stamp_ns: int) -> Question | None:
    """What guidance/bending/status asks first: whether a screw is left out on purpose."""
    for fields in sides:
        if fields.get("question_id") and fields.get("side"):
            levels = tuple(filter(None, fields.get("question_levels", "").split(",")))
            text = fields.get("question", "")
            return Question(fields["question_id"], text, levels, stamp_ns, side=fields["side"])
    return None


def _set_text(name: str, text: str) -> SetParameters.Request:
    value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=text)
    return SetParameters.Request(parameters=[Parameter(name=name, value=value)])


def _service_answer(answer: Any) -> tuple[bool, str]:
    return bool(answer.success), str(answer.message)


def _parameter_answer(answer: Any) -> tuple[bool, str]:
    result = answer.results[0]
    return bool(result.successful), str(result.reason)
