# SPDX-License-Identifier: Apache-2.0
"""Takes the lifecycle nodes to a common state, in order, and brings back who was started again.

Nothing here waits: transitions are asked for asynchronously, and what came of one is told by the
heartbeats.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.node import Node

from .watch import ABSENT, ALIVE, BUSY_S, DEAD, ENDED, LATE, Watched

ACTIVE, INACTIVE, FINALIZED = (
    State.PRIMARY_STATE_ACTIVE,
    State.PRIMARY_STATE_INACTIVE,
    State.PRIMARY_STATE_FINALIZED,
)
_UNCONFIGURED = State.PRIMARY_STATE_UNCONFIGURED
_NEXT = {
    ACTIVE: {
        _UNCONFIGURED: Transition.TRANSITION_CONFIGURE,
        INACTIVE: Transition.TRANSITION_ACTIVATE,
    },
    INACTIVE: {
        _UNCONFIGURED: Transition.TRANSITION_CONFIGURE,
        ACTIVE: Transition.TRANSITION_DEACTIVATE,
    },
    FINALIZED: {
        _UNCONFIGURED: Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
        INACTIVE: Transition.TRANSITION_INACTIVE_SHUTDOWN,
        ACTIVE: Transition.TRANSITION_ACTIVE_SHUTDOWN,
    },
}
_REACHED = {
    Transition.TRANSITION_CONFIGURE: INACTIVE,
    Transition.TRANSITION_ACTIVATE: ACTIVE,
    Transition.TRANSITION_DEACTIVATE: INACTIVE,
}
_CALL_S = 0.7  # a transition that takes longer is told by a heartbeat that says busy
_OPTIONAL_S = 10.0  # the others do not wait longer for a node that they can do without
_UNSEEN_S = 0.3  # a node that is heard is asked although its service is not found
_RETRY_S = 5.0  # between two tries of a node that refuses
_RENEW_S, _RENEW_MOST_S = 5.0, 30.0  # without progress: the ways to a node are made anew


class BringUp:
    """The transitions of all nodes.

    Args:
        node: who asks.
        nodes: who is asked, in order of start.
        timeout_s: when nothing moves for this long on the way up, a node has failed.
        listen_anew: heartbeats may be lost too.

    Attributes:
        target: lifecycle state that all nodes shall have; 0 = none yet.
        failure: why the operation cannot go on, or "".
        brought_up: all nodes have been in the target state.
        gate: a further condition for the camera's start.
    """

    def __init__(
        self,
        node: Node,
        nodes: Mapping[str, Watched],
        timeout_s: float,
        listen_anew: Callable[[], None],
    ) -> None:
        self._node, self.nodes, self._timeout_s = node, nodes, timeout_s
        self._listen_anew, self._log = listen_anew, node.get_logger()
        self.calls = {name: _Calls(self._client(name)) for name in nodes}
        self.gate: Callable[[], bool] = lambda: True
        self.target = 0
        self._start_anew()

    def _client(self, name: str) -> Any:
        return self._node.create_client(ChangeState, f"{name}/change_state")

    def go(self, target: int) -> None:
        """Bring every node to ACTIVE, INACTIVE or FINALIZED; forget what was done by hand."""
        self.target = target
        self._start_anew()

    def _start_anew(self) -> None:
        self.failure = ""
        self._announced = self.brought_up = False
        self._began = self._moved = self._renewed = time.monotonic()
        self._renew_s = _RENEW_S
        for calls in self.calls.values():
            calls.begin()

    @property
    def reached(self) -> bool:
        """Whether all nodes are in the target state, or are done without."""
        return self.target != 0 and all(self._settled(n) for n in self.nodes.values())

    def at_target(self, node: Watched) -> bool:
        """Whether a node is where it should be."""
        if self.target == FINALIZED and node.life in (ABSENT, DEAD, ENDED):
            return True
        return node.life in (ALIVE, LATE) and node.state == self.target

    def _settled(self, node: Watched) -> bool:
        return self.at_target(node) or bool(self.without(node))

    def without(self, node: Watched) -> str:
        """Why the others go on without a node, or ''."""
        calls = self.calls[node.name]
        if calls.by_hand:
            return calls.by_hand
        if node.required:
            return ""
        if calls.refused:
            return calls.refused
        waited = time.monotonic() - self._began > _OPTIONAL_S
        return "does not start" if waited and node.life in (ABSENT, DEAD, ENDED) else ""

    def _see_state(self, node: Watched, state: int) -> None:
        """A state that was not asked for was somebody's will."""
        calls = self.calls[node.name]
        if state != node.state:
            node.state, self._moved = state, time.monotonic()
            self._renew_s = _RENEW_S
        if state == self.target:
            calls.was_there, calls.by_hand = True, ""
        elif calls.was_there and calls.pending is None and not calls.by_hand:
            calls.by_hand = f"{_label(state)} by hand"
            self._log.warn(f"{node.name} was made {calls.by_hand}")
            if state == FINALIZED and node.required:
                self._fail(f"{node.name} was shut down by hand; the operation cannot go on")

    def forgive(self, seconds: float) -> None:
        """Who asks was itself held up: nobody is late by that time."""
        self._moved += seconds
        self._renewed += seconds
        for calls in self.calls.values():
            calls.asked += seconds

    def began(self, node: Watched) -> None:
        """A new process of a node: it is asked from the beginning."""
        calls = self.calls[node.name]
        calls.begin(calls.by_hand)

    def ended(self, node: Watched) -> None:
        """A node died, hangs or has ended."""
        if node.life in (DEAD, ENDED):
            self.began(node)
            node.state = 0
        self._moved, self._renew_s = time.monotonic(), _RENEW_S

    def note_state(self, node: Watched, changes: int, state: int) -> None:
        """What a heartbeat says of a node's state after so many changes of it."""
        if changes > self.calls[node.name].stale_until:
            self._see_state(node, state)

    def advance(self, now: float) -> None:
        """Ask whoever is due for the next step towards the target; to be called often."""
        if not self.target or self.failure:
            return
        names = list(self.nodes) if self.target == ACTIVE else list(self.nodes)[::-1]
        for name in names:
            node, calls = self.nodes[name], self.calls[name]
            if calls.pending is not None:
                if now - calls.asked > _CALL_S and node.life == ALIVE and not node.changing:
                    # Question or answer was lost on the way; the heartbeats tell what came of it.
                    calls.pending, calls.stale_until, calls.lost = None, -1, True
                elif now - calls.asked > self._patience_s(name):
                    waited_s = now - calls.asked
                    calls.begin()
                    self._give_up(node, f"{name} did not answer for {waited_s:.0f} s")
            elif not self.at_target(node) and not calls.by_hand:
                self._ask(node, now)
            if not self._settled(node) and not self.brought_up:
                break  # in order: who comes later waits
        if self.reached:
            self.brought_up = True
            if not self._announced:
                self._announced = True
                self._log.info(f"all nodes are {_label(self.target)}")
            return
        late = [n for n in names if not self._settled(self.nodes[n])]
        patience_s = self._patience_s(late[0])
        if not self.brought_up and now - self._moved > patience_s:
            self._fail(
                f"{late[0]} is not {_label(self.target)} after {patience_s:g} s"
                f" ({self._state_of(late[0])})"
            )
        elif now - max(self._moved, self._renewed) > self._renew_s:
            self._renew(late if self.brought_up else late[:1])

    def _patience_s(self, name: str) -> float:
        """A node in a transition loads or compiles: on a busy machine for minutes."""
        return BUSY_S if self.nodes[name].changing else self._timeout_s

    def _renew(self, late: list[str]) -> None:
        """Nothing moves: whatever was lost on a way to a node, its way is made anew.

        A request, an answer or a heartbeat may be lost while processes find each other, and a
        service may never be found; later and later, so that it costs a slow machine nothing.
        """
        self._renewed = time.monotonic()
        self._renew_s = min(2 * self._renew_s, _RENEW_MOST_S)
        self._listen_anew()
        for name in late:
            node, calls = self.nodes[name], self.calls[name]
            if calls.by_hand or calls.refused or node.life not in (ALIVE, LATE) or node.changing:
                continue
            self._log.warn(f"{name} does not get on ({self._state_of(name)}); asked anew")
            self._node.destroy_client(calls.client)
            calls.client = self._client(name)
            calls.pending, calls.stale_until, calls.not_before = None, -1, 0.0

    def _state_of(self, name: str) -> str:
        """What a node waits for, for who looks for the fault."""
        node, calls = self.nodes[name], self.calls[name]
        if node.beat is None:
            return "no heartbeat was ever heard"
        words = [f"{_label(node.state)}, {node.life}, last heard {node.silent_s:.1f} s ago"]
        words += [f"started again {node.restarts} times"] if node.restarts else []
        words += [f"busy with '{node.beat.busy}'"] if node.beat.busy else []
        if calls.pending is not None:
            words.append(f"asked {time.monotonic() - calls.asked:.1f} s ago")
        elif not calls.client.service_is_ready():
            words.append("its service is not found")
        elif name == "camera_source" and not self.gate():
            words.append("nobody is ready to take its images and note the results")
        return ", ".join(words)

    def _ask(self, node: Watched, now: float) -> None:
        calls = self.calls[node.name]
        step = _NEXT[self.target].get(node.state)
        if node.life != ALIVE or node.changing or step is None or now < calls.not_before:
            return
        # Where a dead process has left half of its service in DDS's books, a service is never
        # found, and yet hears what it is asked.
        if not calls.client.service_is_ready() and now - self._moved < _UNSEEN_S:
            return
        starts = step == Transition.TRANSITION_ACTIVATE and node.name == "camera_source"
        if starts and not self.gate():
            return
        future = calls.client.call_async(ChangeState.Request(transition=Transition(id=step)))
        calls.pending, calls.asked = future, now
        calls.stale_until = node.beat.changes if node.beat is not None else -1

        def answered(done: Any) -> None:
            if calls.pending is not done:
                return  # given up, or its process is another by now
            calls.pending = None
            if done.exception() is None and done.result() is not None:
                self._on_answer(node, step, done.result().success)

        future.add_done_callback(answered)

    def _on_answer(self, node: Watched, step: int, success: bool) -> None:
        calls = self.calls[node.name]
        if success:
            calls.refused, calls.lost = "", False
            self._see_state(node, _REACHED.get(step, FINALIZED))
            return
        if calls.lost:
            # An earlier request may have been heard after all: the next refusal counts.
            calls.lost, calls.not_before = False, time.monotonic() + _CALL_S
            return
        calls.not_before = time.monotonic() + _RETRY_S
        self._give_up(
            node, f"{node.name} refused to become {_label(self.target)}; its log says why"
        )

    def _give_up(self, node: Watched, reason: str) -> None:
        """A node refuses: without a required one there is nothing to start."""
        if node.required and not self.calls[node.name].ever_there:
            self._fail(reason)
        else:
            self.calls[node.name].refused = reason
            self._log.error(reason)

    def _fail(self, reason: str) -> None:
        self.failure = reason
        self._log.error(reason)


class _Calls:
    """The transition of one node that is under way, and what the node did of itself."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.ever_there = False
        self.begin()

    def begin(self, by_hand: str = "") -> None:
        """A new process, or a new target; who was put aside by hand stays aside if told so."""
        self.pending: Any = None
        self.asked = self.not_before = 0.0
        self.stale_until = -1  # heartbeats with this many changes are older than the last answer
        self.lost = False  # an earlier request was never answered
        self.refused, self.by_hand = "", by_hand
        self._was_there = False

    @property
    def was_there(self) -> bool:
        """Whether this process has been where it should be."""
        return self._was_there

    @was_there.setter
    def was_there(self, value: bool) -> None:
        self._was_there = value
        self.ever_there = self.ever_there or value


def _label(state: int) -> str:
    return {ACTIVE: "active", INACTIVE: "inactive", FINALIZED: "finalized"}.get(
        state, "unconfigured"
    )
