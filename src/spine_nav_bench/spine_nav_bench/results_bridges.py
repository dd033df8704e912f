# SPDX-License-Identifier: Apache-2.0
"""The bridges in docs/results.md: how late a pose is in an OpenIGTLink client."""

from __future__ import annotations

from .results_common import Record, Target, provenance, table


def _met(r: Record) -> tuple[str, bool]:
    runs = [run["delay_ms"] for run in r["runs"]]
    text = "; with pictures ".join(f"{d['median']:.1f} / {d['p99']:.1f} ms" for d in runs)
    return text, all(d["median"] <= 30.0 for d in runs)


BRIDGES_TARGETS = (
    Target("pose published to matrix in an OpenIGTLink client, loopback, median / 99th percentile",
           "≤ 30 ms median", "not reported", "bridges", _met),
)  # fmt: skip


def bridges_table(r: Record) -> list[str]:
    """A row with and one without pictures."""
    rows = []
    for run in r["runs"]:
        d = run["delay_ms"]
        rows.append(
            (
                "yes" if run["pictures"] else "no",
                f"{run['poses']} of {run['sent']}",
                " / ".join(f"{d[k]:.1f}" for k in ("median", "p95", "p99", "max")),
                str(run["pictures_shown"]),
            )
        )
    head = ("pictures beside", "matrices", "delay ms: median / p95 / p99 / most", "pictures")
    return table(head, rows)


def bridges_section(r: Record) -> list[str]:
    """The part of docs/results.md."""
    return [
        "## 3D Slicer's side of the bridge", "",
        (f"{r['levels']} levels at {r['rate_hz']:g} Hz. From the publication of a result to its "
         "matrices in a client by pyigtl, over DDS, the bridge's process and a connection on this "
         "machine; publisher, bridge and client are processes of their own."),
        "", *provenance(r), "", *bridges_table(r), "",
    ]  # fmt: skip
