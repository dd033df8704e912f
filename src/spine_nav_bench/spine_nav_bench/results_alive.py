# SPDX-License-Identifier: Apache-2.0
"""Killed and held nodes in docs/results.md: how soon withdrawn, how soon back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .results_common import Record, Target, provenance, table

KINDS = {"kill": ("kill -9 of a node", 0.3, 5.0), "hang": ("a node that hangs (SIGSTOP)", 1.0, 8.0)}


def _worst(rows: Sequence[Record], key: str) -> float | None:
    """None: at least once it never came."""
    values = [r[key] for r in rows]
    return None if None in values else max(values, default=None)


def _target(kind: str, withdrawn_s: float, back_s: float) -> Callable[[Record], Any]:
    def read(r: Record) -> tuple[str, bool] | None:
        rows = [f for f in r["faults"] if f["kind"] == kind]
        if not rows:
            return None
        gone, back = _worst(rows, "withdrawn_s"), _worst(rows, "back_s")
        met = gone is not None and back is not None and gone <= withdrawn_s and back <= back_s
        return f"worst of {len(rows)}: {_seconds(gone)} / {_seconds(back)}", met and not r["left"]

    return read


ALIVE_TARGETS = tuple(
    Target(f"{what}: guidance withdrawn / back", f"≤ {gone} / {back:.0f} s", "not reported",
           "alive", _target(kind, gone, back))
    for kind, (what, gone, back) in KINDS.items()
)  # fmt: skip


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.2f} s"


def alive_table(r: Record) -> list[str]:
    """A row per node and kind of fault."""
    rows = []
    for kind, (what, *_) in KINDS.items():
        for node in dict.fromkeys(f["node"] for f in r["faults"]):
            own = [f for f in r["faults"] if f["node"] == node and f["kind"] == kind]
            if own:
                worst = (_seconds(_worst(own, key)) for key in ("withdrawn_s", "back_s"))
                rows.append((what, node, str(len(own)), *worst))
    return table(("fault", "node", "times", "withdrawn, worst", "back, worst"), rows)


def alive_section(r: Record) -> list[str]:
    """The part of docs/results.md."""
    return [
        "## When a part dies", "",
        ("Five levels are tracked at 15 Hz with the overlay watched. Withdrawn: from the fault until "
         "a listener hears that what the node has shown does not hold any more. Back: until it is "
         "shown again by the node's next process (poses: `tracked`). A dead camera is a dead pose."),
        "", *provenance(r), "", *alive_table(r), "",
    ]  # fmt: skip
