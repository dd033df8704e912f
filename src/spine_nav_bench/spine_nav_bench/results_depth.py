# SPDX-License-Identifier: Apache-2.0
"""The depth calibration in docs/results.md."""

from __future__ import annotations

from statistics import median

from .results_common import Record, Target, provenance, share, stat, table

MOST_LEFT_MM, MOST_TRE_MM = 0.15, 0.5
COVERAGE, WORST_COVERAGE = (0.92, 0.98), 0.85


def _left(r: Record) -> tuple[str, bool] | None:
    left = [c["left_mm"] for c in r["cameras"]]
    return f"{median(left):.2f}, worst {max(left):.2f} mm", max(left) <= MOST_LEFT_MM


def _tre(r: Record) -> tuple[str, bool] | None:
    if r["with"] is None:
        return None
    after, before = (r[k]["pooled"]["tre_mm"] for k in ("with", "without"))
    if after is None or before is None:
        return "no level tracked", False
    return f"{after['median']:.2f} / {before['median']:.2f} mm", after["median"] <= MOST_TRE_MM


def _covered(r: Record) -> tuple[str, bool] | None:
    if r["with"] is None:
        return None
    pooled = r["with"]["pooled"]["coverage95"]
    scenes = [s["coverage95"] for s in r["with"]["scenes"]]
    if pooled is None or None in scenes:
        return "no level tracked", False
    low, high = COVERAGE
    met = low <= pooled <= high and min(scenes) >= WORST_COVERAGE
    return f"{share(pooled)} / {share(min(scenes))}", met


DEPTH_TARGETS = (
    Target("bias of a simulated D415 left on held-out board views, RMS at 0.5 m",
           f"≤ {MOST_LEFT_MM} mm", "not reported", "depth_calibration", _left),
    Target("recordings made elsewhere with a board: TRE median with / without the depth calibration",
           f"≤ {MOST_TRE_MM} mm", "not reported", "depth_calibration", _tre),
    Target("the same with it: under the 95 % bound, pooled / worst recording", "92 to 98 % / ≥ 85 %",
           "not reported", "depth_calibration", _covered),
)  # fmt: skip


def depth_table(r: Record) -> list[str]:
    """Cameras, then recordings with and without."""
    rows = [
        (
            str(c["seed"]), str(c["views"]),
            *(f"{c[k]:.2f}" for k in (
                "bias_mm", "beside_scale_mm", "left_mm", "left_whole_image_mm", "told_mm",
                "left_patches_mm")),
        )
        for c in r["cameras"]
    ]  # fmt: skip
    head = ("camera", "views", "bias mm", "beside one scale", "left", "left over the whole image",
            "the same as the file says", "left, with the noise that stays, means of patches")  # fmt: skip
    lines = table(head, rows)
    if r["with"] is None:
        return lines
    rows = [
        (s["scene"], how, stat(s["tre_mm"]), share(s["availability"]), stat(s["bound_mm"]),
         share(s["coverage95"]), str(s["silent_failures"]))
        for key, how in (("without", "without"), ("with", "with"))
        for s in [*r[key]["scenes"], {**r[key]["pooled"], "scene": "**all**"}]
    ]  # fmt: skip
    head = ("recording", "calibration", "TRE mm", "tracked", "bound mm", "under bound", "silent")
    return [*lines, "", *table(head, rows)]


def depth_section(r: Record) -> list[str]:
    """The part of docs/results.md."""
    return [
        "## Depth calibration", "", *provenance(r), "",
        ("Simulated cameras of the D415 class, each with a bias of its own, by 30 views of a board; RMS of "
         "the true bias at 0.5 m, in the pixels where 12 other views show the board and as often as they "
         "do. A part of such a camera's matching noise stays in the same place in every picture: the last "
         "column is of means over patches of 80 pixels with it. Recordings made elsewhere: calibrated by their own board recording; mean / median / p95."),
        "", *depth_table(r), "",
    ]  # fmt: skip
