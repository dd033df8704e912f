# SPDX-License-Identifier: Apache-2.0
"""A node's sign of life: which process it is, its lifecycle state, and whether it is busy changing.

Standard type, one topic per namespace: `heartbeat`, diagnostic_msgs/DiagnosticStatus, 5 Hz. It runs
on the node's executor, so that a node whose callbacks hang falls silent like one that is stopped.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus

from .results import key_values, status_fields

PERIOD_S = 0.2
GOODBYE = "stop"  # what a node that ends as it was told is busy with


@dataclass(frozen=True)
class Beat:
    """One sign of life.

    machine: where `pid` has its meaning (boot and pid namespace). born: tells two processes with
    the same pid, and two nodes of one process, apart. changes: transitions that have ended. busy:
    the transition that is being made, during which no further beat comes. problem: why the last one
    was refused; input_error: by something that the user gave. ready: see SpineNode.ready. facts: what
    whoever records the run wants to know, see SpineNode.facts.
    """

    name: str
    machine: str
    pid: int
    born: str
    state: int
    changes: int = 0
    busy: str = ""
    problem: str = ""
    input_error: bool = False
    ready: bool = True
    facts: dict[str, Any] = field(default_factory=dict)


@cache
def this_machine() -> str:
    """Boot and pid namespace, so that two containers with a process 7 each are told apart."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def new_birth() -> str:
    """A text that no other node has."""
    return f"{os.getpid()}-{time.monotonic_ns():x}"


def beat_message(beat: Beat) -> DiagnosticStatus:
    """The beat as a message."""
    level = DiagnosticStatus.ERROR if beat.problem else DiagnosticStatus.OK
    values = {
        "machine": beat.machine,
        "pid": beat.pid,
        "born": beat.born,
        "state": beat.state,
        "changes": beat.changes,
        "busy": beat.busy,
        "input_error": beat.input_error,
        "ready": beat.ready,
        "facts": json.dumps(beat.facts),
    }
    return DiagnosticStatus(
        level=level,
        name=beat.name,
        message=beat.problem,
        hardware_id="",
        values=key_values(values),
    )


def beat_from_message(message: DiagnosticStatus) -> Beat:
    """The beat of a message. Raises KeyError, ValueError for a message of another form."""
    fields = status_fields(message)
    return Beat(
        message.name,
        fields["machine"],
        int(fields["pid"]),
        fields["born"],
        int(fields["state"]),
        int(fields["changes"]),
        fields["busy"],
        message.message,
        fields["input_error"] == "True",
        fields["ready"] == "True",
        json.loads(fields["facts"]),
    )
