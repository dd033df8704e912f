# SPDX-License-Identifier: Apache-2.0
"""What the tables of docs/results.md share: targets, markdown, where a number is from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]
NOT_MEASURED = "not measured"
OURS = "SpineNav"


@dataclass(frozen=True)
class Target:
    """A line of the table of targets: what is wanted, how it is read from a record, and met."""

    what: str
    goal: str
    published: str
    part: str
    read: Callable[[Record], tuple[str, bool] | None]


def targets_table(targets: Sequence[Target], records: Mapping[str, Record]) -> list[str]:
    """What was wanted, what was measured, and whether it was met."""
    rows = []
    for target in targets:
        record = records.get(target.part)
        found = target.read(record) if record is not None else None
        text, met = found if found is not None else (NOT_MEASURED, None)
        mark = {True: "met", False: "**missed**", None: "–"}[met]
        rows.append((target.what, target.goal, text, mark, target.published))
    return table(("what", "target", "measured", "", "published"), rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def spread_table(head: str, names: Mapping[str, str], r: Record) -> list[str]:
    """A row for each key of `names` with the spread under that key of the record, or none of it."""
    rows = []
    for key, name in names.items():
        s = r[key]
        numbers = ("–",) * 4 + ("0",) if s is None else (
            *(f"{s[k]:.2f}" for k in ("median", "p95", "p99", "max")), str(s["count"])
        )  # fmt: skip
        rows.append((name, *numbers))
    return table((head, "median", "p95", "p99", "most", "n"), rows)


def stat(summary: Record | None, digits: int = 2) -> str:
    """mean / median / p95."""
    if summary is None:
        return "–"
    return " / ".join(f"{summary[k]:.{digits}f}" for k in ("mean", "median", "p95"))


def share(value: float | None) -> str:
    """A share as a percentage."""
    return "–" if value is None else f"{100 * value:.1f} %"


def provenance(record: Record) -> list[str]:
    """Command, time, commit, model and machine of a line."""
    machine = record["machine"]
    dirty = {True: ", with uncommitted changes", False: "", None: ""}[record["dirty"]]
    model = ""
    if record["model_sha256"] is not None:
        model = f", model `{record['model_sha256'][:12]}` on {record['provider']}"
    return [
        (
            f"`{record['command']}` on {record['time']}, commit `{(record['commit'] or '?')[:12]}`{dirty}"
            f"{model}; {machine['cpu']}, {machine['cores']} cores, load {machine['load_1min']} at the "
            f"start; {record['wall_s']:.0f} s."
        )
    ]
