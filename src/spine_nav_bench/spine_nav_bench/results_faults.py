# SPDX-License-Identifier: Apache-2.0
"""The table of bad stereo input in docs/results.md."""

from __future__ import annotations

from .results_common import Record, provenance, share, table

_WORDS = 150


def faults_table(r: Record) -> list[str]:
    """One row per fault: what is refused or told, what is shown all the same, and in which words."""
    rows = []
    for name, f in r["faults"].items():
        h, rods = f["heads"], f["rods"]
        words = next(iter(f["words"]), "")
        if len(words) > _WORDS:
            words = words[:_WORDS].rsplit(" ", 1)[0] + " …"
        rows.append(
            (
                name,
                f"{f['scenes_told']} / {f['scenes']}",
                f"{f['refused']} + {f['told']} / {f['pairs']}",
                f"{h['found']} / {h['visible_heads']}",
                str(h["false"]),
                f"{h['bounded']} / {h['rows']} ({share(h['coverage95'])})",
                f"{rods['found']} / {rods['rods']}"
                + (f" + {rods['extra']}" if rods["extra"] else ""),
                words,
            )
        )
    head = ("fault", "scenes told", "pairs refused + told", "heads found", "false rows",
            "rows under bound", "rods found + false", "most frequent words")  # fmt: skip
    return table(head, rows)


def faults_section(r: Record) -> list[str]:
    """With where the numbers are from."""
    none = r["faults"]["none"]
    return [
        "## Screws: bad input", "", *provenance(r), "",
        (f"Faults put on the right eye of the same {none['scenes']} judged scenes that no other table"
        f" uses, pairs from the fifth on ({none['pairs']} in all), with which a bump comes; the mirror"
        " and the tray are scenes of their own. Heads in a tray count as false rows, heads of refused"
        " pairs as not found. `spinenav bench --only stereo_faults`."), "",
        *faults_table(r), "",
    ]  # fmt: skip
