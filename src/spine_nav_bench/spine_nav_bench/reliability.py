# SPDX-License-Identifier: Apache-2.0
"""A picture of how honest the predicted error is: every scene apart, every camera in its colour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLOURS = {"d405": "#0072b2", "d415": "#009e73", "d435": "#d55e00", "zedm": "#cc79a7"}


def plot_reliability(record: dict[str, Any], file: Path) -> None:
    """Coverage of each scene, and its median bound over its median error; writes a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    scenes = [s for s in record["run"]["scenes"] if s["tre_mm"] is not None]
    scenes.sort(key=lambda s: s["coverage95"])
    colours = [COLOURS.get(s.get("camera"), "#777777") for s in scenes]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    left.bar(range(len(scenes)), [100 * s["coverage95"] for s in scenes], color=colours)
    left.axhspan(92, 98, color="0.85", zorder=0)
    left.axhline(80, color="0.4", lw=1, ls="--")
    left.set(xlabel="scenes, worst first", ylabel="level-frames under the 95 % bound, %",
             ylim=(0, 102), title="coverage")  # fmt: skip
    right.scatter([s["tre_mm"]["median"] for s in scenes], [s["bound_mm"]["median"] for s in scenes],
                  color=colours)  # fmt: skip
    top = 1.1 * max((s["bound_mm"]["median"] for s in scenes), default=1.0)
    right.plot([0, top], [0, top], color="0.4", lw=1)
    right.plot([0, top / 2.5], [0, top], color="0.4", lw=1, ls="--")
    right.set(xlabel="median TRE of the scene, mm", ylabel="median bound, mm", xlim=(0, top),
              ylim=(0, top), title="bound against error (dashed: 2.5 times)")  # fmt: skip
    for name, colour in COLOURS.items():
        right.scatter([], [], color=colour, label=name)
    right.legend(frameon=False, loc="lower right")
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)
