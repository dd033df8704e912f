# SPDX-License-Identifier: Apache-2.0
"""Cameras' images in docs/results.md: alignment and unpacking on one core."""

from __future__ import annotations

from .results_common import Record, Target, provenance, spread_table

MOST_ALIGN_MS, MOST_RVL_MS, MOST_PNG_MS = 6.0, 2.0, 6.0


def _align(r: Record) -> tuple[str, bool] | None:
    ms, peer = r["align_ms"]["median"], r["librealsense_ms"]
    beside = f"librealsense {peer['median']:.1f} ms" if peer else r["librealsense_note"]
    return f"{ms:.1f} ms; {beside}", ms <= MOST_ALIGN_MS


def _packed(r: Record) -> tuple[str, bool] | None:
    rvl, png = r["rvl_ms"]["median"], r["png_ms"]["median"]
    return f"{rvl:.1f} / {png:.1f} ms", rvl <= MOST_RVL_MS and png <= MOST_PNG_MS


CAMERAS_TARGETS = (
    Target("depth 848×480 aligned to colour 1280×720, median, one core",
           f"≤ {MOST_ALIGN_MS:.0f} ms, beside librealsense", "not reported", "cameras", _align),
    Target("compressedDepth 640×480 unpacked, RVL / PNG, median, one core",
           f"≤ {MOST_RVL_MS:.0f} / {MOST_PNG_MS:.0f} ms", "not reported", "cameras", _packed),
)  # fmt: skip


def cameras_time_table(r: Record) -> list[str]:
    """Times in ms."""
    names = {
        "align_ms": "depth aligned to colour",
        "librealsense_ms": "the same by librealsense (pyrealsense2, software device)",
        "rvl_ms": "compressedDepth in RVL",
        "png_ms": "compressedDepth in PNG",
    }
    return spread_table("ms", names, r)


def cameras_section(r: Record) -> list[str]:
    """The part of docs/results.md."""
    return [
        "## A camera's images", "", *provenance(r), "",
        ("One core, everything warm, one image (a wavy surface at half a metre, noise of 1.5 mm, a tenth "
         "without depth) again and again; the two alignments take turns. librealsense keeps the depth "
         "camera's distance and paints whole rectangles; here the distance is the colour camera's, and a "
         "hole stays a hole."),
        "", *cameras_time_table(r), "",
    ]  # fmt: skip
