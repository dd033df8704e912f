# SPDX-License-Identifier: Apache-2.0
"""The surgeon's page and the session's record in docs/results.md."""

from __future__ import annotations

from .results_common import Record, Target, provenance, table

_LEAST_H = 0.5  # of pictures: a line through fewer tells nothing


def _pixels(r: Record) -> tuple[str, bool] | None:
    ms = r["page"]["delay_ms"]
    text = f"{ms['median']:.0f} / {ms['p99']:.0f} ms of {ms['count']} pictures"
    return text, ms["median"] <= 120.0 and ms["p99"] <= 250.0


def _gone(r: Record) -> tuple[str, bool] | None:
    ms, stale = r["faults"]["gone_ms"], r["faults"]["stale_frames_after_150_ms"]
    text = (
        f"{ms['median']:.0f} / {ms['p99']:.0f} ms, at most {ms['most']:.0f}; {stale} stale frames"
    )
    return f"{text} in {r['faults']['faults']} faults", ms["p99"] <= 150.0 and stale == 0


def _night(r: Record) -> tuple[str, bool] | None:
    night = r["night"]
    lost = night["asked"] - night["answered"]
    grown = night["page_growth"], night["display_growth"]
    by_8h = night["page_growth_8h"], night["display_growth_8h"]
    text = (
        f"{r['page']['first_picture_s']:.1f} s; {lost} of {night['asked']}; page"
        f" {100 * grown[0]:.1f} %, display {100 * grown[1]:.1f} % over the pictures of {night['hours']:g} h,"
        f" by a line through them at most {100 * by_8h[0]:.1f} and {100 * by_8h[1]:.1f} % (95 %) over 8 h"
    )
    held = max(*grown, *by_8h) <= 0.05 and night["hours"] >= _LEAST_H
    return text, held and r["page"]["first_picture_s"] <= 2.0 and lost == 0


def _dropped(r: Record) -> tuple[str, bool] | None:
    record = r["record"]
    left = sum(s.get("pictures_left_out", 0) for s in record["streams"].values())
    lost = sum(s.get("messages_lost", 0) for s in record["streams"].values())
    size = record["bytes"] / 1e6 / max(record["seconds"], 1e-9) * 60.0
    return f"{left} pictures, {lost} messages; {size:.0f} MB a minute", left == lost == 0


DISPLAY_TARGETS = (
    Target("camera stamp to pixels in the browser, median / 99th percentile, 15 Hz 640×480",
           "≤ 120 / 250 ms", "not reported", "display", _pixels),
    Target("guidance gone from the page after a fault, median / 99th percentile", "≤ 150 ms, 0 stale",
           "not reported", "display", _gone),
    Target("page: first picture; words lost under video load; memory growth over 8 h",
           "≤ 2 s; 0; ≤ 5 %", "not reported", "display", _night),
    Target("record: left out at 15 Hz RGB-D 640×480, lossless; size", "0; stated", "not reported",
           "display", _dropped),
)  # fmt: skip


def display_table(r: Record) -> list[str]:
    """The rows that the targets are read from, as they were measured."""
    page, night = r["page"], r["night"]
    rows = [
        ("pictures per second on the page", f"{page['pictures_per_s'][0]:.1f}"),
        ("cores of the nodes, of the browser",
         f"{r['cpu_cores'] or 0:.2f}, {page['browser_cores']:.2f}"),
        ("what the page's script holds, first to last", " → ".join(f"{x:.2f}" for x in (night["page_mb"][0], night["page_mb"][-1])) + " MB"),
        ("what the display's process holds", " → ".join(f"{x:.0f}" for x in (night["display_mb"][0], night["display_mb"][-1])) + " MB"),
        ("pictures shown in that run", f"{night['pictures_shown']} in {night['wall_s']:.0f} s"),
    ]  # fmt: skip
    return table(("what", "measured"), rows)


def display_section(r: Record) -> list[str]:
    """The part of docs/results.md."""
    return [
        "## The surgeon's page and the record", "", *provenance(r), "",
        ("The page in Debian's chromium on the same machine, beside the whole graph of an RGB-D camera;"
         " the night and the faults beside a display that is fed, the night's pictures as fast as the"
         " browser draws them. Codecs and sizes of the record: [record.md](record.md)."), "",
        *display_table(r), "",
    ]  # fmt: skip
