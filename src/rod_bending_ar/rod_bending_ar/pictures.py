# SPDX-License-Identifier: Apache-2.0
"""Result pictures: a strip of overlays, and the error over time beside its predicted bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

from spine_nav_common.core.png import write_png
from spine_nav_common.core.types import Status

from .core.text import draw_text, shade_box, text_size

matplotlib.use("Agg")
from matplotlib import pyplot as plt

INK, GRID, PAPER = "#1d2733", "#dfe5ea", "#ffffff"
BAND = {
    Status.TRACKED: "#3fbf75",
    Status.OCCLUDED: "#ffb020",
    Status.SEARCHING: "#c9d0d6",
    Status.REGISTERING: "#8fb7e8",
    Status.LOST: "#f0604d",
    Status.REJECTED: "#b04a8c",
}
LIMIT_MM = 4.0  # docs/contracts.md, section 5: tracked above this is a silent failure
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": "#9aa5b1",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
}


@dataclass(frozen=True)
class Trace:
    """One level over a run: time (N,) s, true error and predicted bound (N,) mm (NaN where the
    level has no pose), status per frame."""

    level: str
    time_s: np.ndarray
    tre_mm: np.ndarray
    bound_mm: np.ndarray
    status: tuple[Status, ...]


def write_strip(path: Path, pictures: Sequence[tuple[str, np.ndarray]], columns: int = 2) -> None:
    """Write pictures (caption, (H, W, 3) uint8 RGB, equal sizes) as a captioned grid, PNG."""
    gap, height, width = 10, pictures[0][1].shape[0], pictures[0][1].shape[1]
    size = max(14, width // 52)
    rows = -(-len(pictures) // columns)
    sheet = np.full(
        (rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, dtype=np.uint8
    )
    for i, (caption, picture) in enumerate(pictures):
        y = gap + (i // columns) * (height + gap)
        x = gap + (i % columns) * (width + gap)
        sheet[y : y + height, x : x + width] = picture
        text_width, text_height = text_size(caption, size, True)
        left = x + width - text_width - 16
        shade_box(sheet, left - 8, y, text_width + 24, text_height + 14, 0.3)
        draw_text(sheet, caption, left + 4, y + 7, size, (255, 255, 255), True)
    write_png(path, sheet)


def _runs(status: Sequence[Status]) -> list[tuple[int, int, Status]]:
    runs, start = [], 0
    for i in range(1, len(status) + 1):
        if i == len(status) or status[i] is not status[start]:
            runs.append((start, i, status[start]))
            start = i
    return runs


def write_error_over_time(path: Path, traces: Sequence[Trace], title: str) -> None:
    """One row per level: true TRE under its predicted 95 % bound, and the status as a band."""
    with plt.rc_context(STYLE):
        figure, rows = plt.subplots(
            len(traces), 1, figsize=(9.6, 0.9 + 1.25 * len(traces)), sharex=True, squeeze=False
        )
        axes = rows[:, 0]
        finite = np.concatenate([np.r_[t.tre_mm, t.bound_mm] for t in traces])
        finite = finite[np.isfinite(finite)]
        top = float(np.clip(np.percentile(finite, 99.5) * 1.25 if len(finite) else 2.0, 2.0, 8.0))
        for axis, trace in zip(axes, traces, strict=True):
            _plot_trace(axis, trace, top)
        axes[-1].set_xlabel("time in the recording [s]")
        figure.supylabel("error at the planned points, TRE [mm]", fontsize=9, x=0.012)
        _legend(figure, traces)
        figure.suptitle(title, x=0.07, y=0.995, ha="left", fontsize=11, fontweight="bold")
        figure.subplots_adjust(left=0.1, right=0.985, top=1 - 0.75 / figure.get_figheight(),
                               bottom=0.5 / figure.get_figheight(), hspace=0.36)  # fmt: skip
        figure.savefig(path, dpi=150)
        plt.close(figure)


def _plot_trace(axis: plt.Axes, trace: Trace, top: float) -> None:
    step = float(np.median(np.diff(trace.time_s))) if len(trace.time_s) > 1 else 0.1
    edges = np.r_[trace.time_s, trace.time_s[-1] + step]
    axis.set_ylim(-0.16 * top, top)
    for start, stop, status in _runs(trace.status):
        axis.axvspan(
            edges[start], edges[stop], ymin=0.0, ymax=0.09, color=BAND[status], linewidth=0
        )
        if status is not Status.TRACKED:
            axis.axvspan(edges[start], edges[stop], color=BAND[status], alpha=0.12, linewidth=0)
    axis.fill_between(
        trace.time_s, 0, trace.bound_mm, color="#3a7bd5", alpha=0.16, linewidth=0, step="mid"
    )
    axis.plot(trace.time_s, trace.bound_mm, color="#3a7bd5", linewidth=0.9)
    tracked = np.array([s is Status.TRACKED for s in trace.status])
    axis.plot(trace.time_s, np.where(tracked, trace.tre_mm, np.nan), color=INK, linewidth=1.4)
    held = np.where(tracked, np.nan, trace.tre_mm)
    axis.plot(trace.time_s, held, color=INK, linewidth=1.0, linestyle=":")
    if top > LIMIT_MM:
        axis.axhline(LIMIT_MM, color=BAND[Status.LOST], linewidth=0.8, linestyle="--")
    axis.set_xlim(edges[0], edges[-1])
    axis.grid(axis="y", color=GRID, linewidth=0.7)
    axis.set_axisbelow(True)
    axis.set_yticks(np.arange(0, top, 1.0 if top < 4 else 2.0))
    shown = trace.tre_mm[tracked & np.isfinite(trace.tre_mm)]
    note = f"median {np.median(shown):.2f} mm" if len(shown) else "never tracked"
    box = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.75, "pad": 1.5}
    axis.text(0.006, 0.93, trace.level, transform=axis.transAxes, va="top", fontweight="bold",
              fontsize=10, bbox=box)  # fmt: skip
    axis.text(1.0, 1.02, note, transform=axis.transAxes, va="bottom", ha="right", fontsize=8)


def _legend(figure: plt.Figure, traces: Sequence[Trace]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    used = {s for t in traces for s in t.status}
    handles = [
        Line2D([], [], color=INK, linewidth=1.6, label="true error, tracked"),
        Patch(facecolor="#3a7bd533", edgecolor="#3a7bd5", label="predicted 95 % bound"),
        *(Patch(color=colour, label=s.value) for s, colour in BAND.items() if s in used),
    ]
    figure.legend(
        handles=handles, loc="upper right", ncols=len(handles), frameon=False, fontsize=8,
        bbox_to_anchor=(0.99, 1 - 0.28 / figure.get_figheight()), handlelength=1.4,
        columnspacing=1.2,
    )  # fmt: skip


def write_update_time(
    path: Path, levels: Sequence[int], median_ms: Sequence[float], p99_ms: Sequence[float]
) -> None:
    """Tracking step over the number of levels, with the line of linear growth from one level."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.4, 3.6))
        count = np.asarray(levels, float)
        linear = median_ms[0] * count / count[0]
        axis.plot(count, linear, color="#9aa5b1", linestyle="--", linewidth=1.0,
                  label="linear growth from one level")  # fmt: skip
        axis.plot(count, p99_ms, color="#3a7bd5", marker="o", markersize=4, linewidth=1.0,
                  label="99th percentile")  # fmt: skip
        axis.plot(count, median_ms, color=INK, marker="o", markersize=5, linewidth=1.8,
                  label="median")  # fmt: skip
        axis.set(xlabel="vertebrae tracked", ylabel="one tracking step [ms]", xticks=list(levels))
        axis.set_ylim(0, 1.12 * max(*p99_ms, *linear))
        axis.grid(color=GRID, linewidth=0.7)
        axis.set_axisbelow(True)
        axis.legend(frameon=False)
        axis.set_title("Pose update without the network, CPU", loc="left", fontweight="bold")
        figure.tight_layout()
        figure.savefig(path, dpi=150)
        plt.close(figure)
