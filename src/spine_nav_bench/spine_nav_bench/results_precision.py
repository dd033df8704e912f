# SPDX-License-Identifier: Apache-2.0
"""The table of the accuracy gate of the back-ends."""

from __future__ import annotations

from .results_common import Record, provenance, table


def precision_table(record: Record) -> list[str]:
    """A row per back-end: time of the network, accuracy, change against the reference."""
    rows = []
    for name, b in record["backends"].items():
        tre, reference = b["tre_mm"], name == record["reference"]
        change = b["tre_change_mean_mm"]
        levels = f"{b['levels_registered']} of {b['levels']}"
        if b["levels_lost"]:
            levels += f", lost {', '.join(b['levels_lost'])}"
        rows.append((
            name,
            f"{b['network_ms']:.1f}",
            "–" if tre is None else f"{tre['mean']:.3f} / {tre['median']:.3f}",
            levels,
            f"{b['tracked']} of {b['level_frames']}",
            "reference" if reference else "–" if change is None
            else f"{change:+.4f} (95 % within {b['tre_change_abs_p95_mm']:.3f}, n = {b['compared']})",
            "–" if reference else "passes" if b["passes"] else "**fails**",
        ))  # fmt: skip
    rows += [(name, "–", "–", "–", "–", why, "absent") for name, why in record["absent"].items()]
    head = ("back-end", "network ms", "TRE mm mean / median", "levels registered", "tracked",
            "change of the TRE mm", "gate")  # fmt: skip
    return table(head, rows)


def precision_section(record: Record) -> list[str]:
    """The section of docs/results.md."""
    return [
        "## Precision of the network", "", *provenance(record), "",
        (f"{len(record['seeds'])} scenes of the list `{record['split']}`, each back-end against "
         f"{record['reference']} over the level-frames that both track, known well enough to be shown or not. Gate: the mean TRE changes "
         "by no more than 0.05 mm and no level is lost. Time: the least of 40 runs of the U-Net, one "
         "thread."), "",
        *precision_table(record), "",
    ]  # fmt: skip
