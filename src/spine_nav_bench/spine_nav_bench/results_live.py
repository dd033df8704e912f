# SPDX-License-Identifier: Apache-2.0
"""The live graph in docs/results.md: what came through, how late, and at what cost."""

from __future__ import annotations

from typing import Any

from .results_common import Record, Target, provenance, table

GOAL_HZ = 10.0  # of the live stereo graph
FLAGS = ("avx512_bf16", "amx_bf16")


def _processed(r: Record) -> tuple[str, bool] | None:
    live, replayed = r.get("nodes"), r.get("replay_tracked")
    if not live or not live.get("published") or not replayed:
        return None
    processed = live["processed"] / live["published"]
    tracked = live["tracked"] / replayed
    return f"{100 * processed:.1f} %; {100 * tracked:.1f} %", processed >= 0.99 and tracked >= 0.98


def _latency(r: Record) -> tuple[str, bool] | None:
    ms = (r.get("nodes") or {}).get("latency_ms")
    if ms is None:
        return None
    median, p99 = (80.0, 130.0) if "fp32" in r["nodes"].get("provider", "fp32") else (50.0, 90.0)
    text = f"{ms['median']:.0f} / {ms['p99']:.0f} ms"
    if after := r["nodes"].get("latency_after_ms"):
        text += f" of {ms['count']} frames (after the first second {after['median']:.0f} / "
        text += f"{after['p99']:.0f})"
    return text, ms["median"] <= median and ms["p99"] <= p99


def _cores(r: Record) -> tuple[str, bool] | None:
    cores = (r.get("nodes") or {}).get("cpu_cores")
    return None if cores is None else (f"{cores:.2f}", cores <= 1.3)


def _thirty(r: Record) -> tuple[str, bool] | None:
    live = r.get("nodes_30")
    if not live or not live.get("published"):
        return None
    share = live["processed"] / live["published"]
    return f"{100 * share:.1f} % at {live['fps']:.0f} Hz", share >= 0.99


LIVE_TARGETS = (
    Target("live: frames processed; level-frames tracked that `replay` tracks", "≥ 99 %; ≥ 98 %",
           "not reported", "timing", _processed),
    Target("camera stamp to published pose, median / 99th percentile",
           "≤ 50 / 90 ms (fp32: 80 / 130)", "not reported", "timing", _latency),
    Target("CPU cores of the live graph at 15 Hz, overlay watched", "≤ 1.3", "not reported",
           "timing", _cores),
    Target("live at 30 Hz: frames processed", "≥ 99 %", "not reported", "timing", _thirty),
)  # fmt: skip


def live_table(record: Record) -> list[str]:
    """A row per camera rate; empty where no graph was run."""

    def ms(summary: dict[str, Any] | None) -> str:
        return "–" if summary is None else f"{summary['median']:.0f} / {summary['p99']:.0f}"

    rows = []
    for live in (record.get("nodes"), record.get("nodes_30")):
        if not live or "published" not in live:
            continue
        cores = live["cpu_cores"]
        rows.append((
            f"{live['fps']:.0f} Hz", f"{live['processed']} of {live['published']}",
            f"{live['tracked']} of {record['replay_tracked']}", ms(live["latency_ms"]),
            ms(live.get("latency_first_ms")), ms(live.get("latency_after_ms")),
            ms(live.get("overlay_ms")), "–" if cores is None else f"{cores:.2f}",
            live["provider"],
        ))  # fmt: skip
    if not rows:
        return []
    flags = [f for f in FLAGS if f in record["machine"].get("flags", ())]
    head = ("camera", "frames processed", "level-frames tracked of those of replay",
            "stamp to pose ms, median / p99", "of these the first second", "after it",
            "image to overlay ms", "CPU cores", "network")  # fmt: skip
    return [*table(head, rows), "", f"CPU flags: {', '.join(flags) or 'no bf16 units'}."]


def _rate(r: Record) -> tuple[str, bool] | None:
    rate = r.get("pairs_per_s")
    if rate is None:
        return None
    return f"{rate:.1f} ({r['processed']} of {r['sent']} pairs)", rate >= GOAL_HZ


LIVE_STEREO_TARGETS = (
    Target("live stereo graph at 15 Hz 640×480, pairs per second beside the display and its browser",
           f"≥ {GOAL_HZ:.0f}", "not reported", "live_stereo", _rate),
)  # fmt: skip


def live_stereo_table(r: Record) -> list[str]:
    """One row: what came through, how late, and at what cost."""

    def ms(summary: Record | None, last: str = "p95") -> str:
        return "–" if summary is None else f"{summary['median']:.0f} / {summary[last]:.0f}"

    page = r["page"]
    row = (
        f"{r['pairs_per_s']:.1f}", f"{r['sent'] - r['processed']} of {r['sent']}",
        ms(r["stages_ms"]["stereo_stamp_to_publish"]), ms(r["stages_ms"]["stereo_work"]),
        ms(page["delay_ms"], "p99"), f"{page['pictures_per_s'][0]:.1f}",
        "–" if r["cpu_cores"] is None else f"{r['cpu_cores']:.2f}", f"{page['browser_cores']:.2f}",
    )  # fmt: skip
    head = ("pairs per s", "dropped", "stamp to publish ms, median / p95", "of these the tracker",
            "stamp to pixels ms, median / p99", "pictures per s on the page",
            "cores of the nodes", "of the browser")  # fmt: skip
    return table(head, [row])


def live_stereo_section(r: Record) -> list[str]:
    """The part of docs/results.md."""
    return [
        "## The live stereo graph", "",
        (f"A virtual operation (10 heads, 2 rods) at {r['fps']:.0f} Hz, the page open in a browser on "
         f"the same machine; {r['seconds']:.0f} s of it, from the page's first counted picture to "
         "its last."),
        "", *provenance(r), "", *live_stereo_table(r), "",
    ]  # fmt: skip
