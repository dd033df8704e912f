# SPDX-License-Identifier: Apache-2.0
"""The overlay in docs/results.md: what a picture costs, and how exactly it lies."""

from __future__ import annotations

from .results_common import Record, Target, provenance, spread_table

MOST_MS, MOST_PX = 8.0, 0.5


def _time(r: Record) -> tuple[str, bool] | None:
    ms, peer = r["draw_ms"], r["open3d_ms"]
    beside = f"Open3D {peer['median']:.0f} ms" if peer else f"Open3D: {r['open3d_note']}"
    return f"{ms['median']:.1f} ms; {beside}", ms["median"] <= MOST_MS


def _place(r: Record) -> tuple[str, bool] | None:
    marks = r["marks_px"]["max"] + r["raster_px"]["max"]
    outline = r["outline_px"]["p95"]
    text = f"marks at most {marks:.2f} px; outlines {outline:.2f} px in 95 %"
    return text, max(marks, outline) <= MOST_PX


OVERLAY_TARGETS = (
    Target("overlay at 1280×720: 5 vertebrae, plan, screws, rods, median, one core",
           f"≤ {MOST_MS:.0f} ms, beside Open3D", "not reported", "overlay", _time),
    Target("overlay position against exact projection, distortion included",
           f"≤ {MOST_PX} px", "not reported", "overlay", _place),
)  # fmt: skip


def overlay_table(r: Record) -> list[str]:
    """Times and errors."""
    names = {
        "draw_ms": "a picture, ms",
        "open3d_ms": "Open3D's OffscreenRenderer, ms",
        "marks_px": "middle of entry rings and target dots, px",
        "raster_px": "a dot's pixels against where it was to be drawn, px",
        "outline_px": "outlines, every half pixel, px",
    }
    return spread_table("what", names, r)


def _range(r: Record) -> str:
    low, high = r.get("loop_range_ms", (None, None))
    return "" if low is None else f" ({low:.0f} to {high:.0f})"


def overlay_section(r: Record) -> list[str]:
    """The part of docs/results.md."""
    drawn = ", ".join(f"{count} {what}" for what, count in r["drawn"].items())
    return [
        "## The overlay", "", *provenance(r), "",
        (f"{r['size'][0]}×{r['size'][1]}, depth and a lens with distortion, one core, everything warm: "
         f"{drawn}, margins, words; the poses are other ones in every picture. A loop of plain Python (300 000 sums of squares) took "
         f"{r['loop_ms']:.0f} ms{_range(r)} beside the pictures; this machine's speed changes by a factor of two within seconds. Open3D draws the same meshes, "
         f"planned screws and rods over the same image, without words or margins: {r['open3d_note']}. "
         "Exact: every vertex of the whole mesh by cv2.projectPoints, its outline on a grid eight "
         f"times as fine, over {len(r['seeds'])} random views and anatomies."),
        "", *overlay_table(r), "",
    ]  # fmt: skip
