# SPDX-License-Identifier: Apache-2.0
"""The tables of screws, rods and rod planning in docs/results.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .results_calibrate import calibrate_tables
from .results_common import OURS, Record, provenance, share, stat, table
from .results_faults import faults_section, faults_table
from .results_live import live_stereo_section, live_stereo_table
from .targets_stereo import ALL, FIRST, counts_of, heads_of, interval, rods_of

PARTS = (
    "stereo",
    "stereo_foreign",
    "stereo_faults",
    "stereo_timing",
    "live_stereo",
    "rod",
    "calibration",
)
SHOWN_FAILURES = 40
# What the sets' SOURCE.md state: the calibration's RMS (left, right, both) or reprojection, pixels.
_STATED_RMS_PX = {"stereo_opencv_chessboard": (0.41, 0.46, 0.45)}
_STATED_REPROJECTION_PX = {"stereo_laparoscope_tracked_A": 0.22}


def methods_table(r: Record) -> list[str]:
    """Every method on the same pairs, over all pairs and over the first of each scene alone."""
    rows = []
    for name in sorted(r["methods"], key=lambda n: n != OURS):
        for frames in (ALL, FIRST) if name == OURS else (ALL,):
            h = heads_of(r, name, frames)
            where = "" if name != OURS else ", all pairs" if frames == ALL else ", first pair alone"
            ms = r["methods"][name]["frame_ms"]
            rows.append(
                (
                    name + where,
                    f"{h['found']} of {h['visible_heads']} ({share(h['recall'])})",
                    f"{h['false']} ({share(h['false_per_visible'])})",
                    stat(h["head_mm"]),
                    stat(h["at_half_metre_mm"]),
                    stat(h["lateral_mm"]),
                    stat(h["depth_mm"]),
                    stat(h["axis_deg"], 1),
                    "–" if h["coverage95"] is None else interval(h),
                    "–" if ms is None else f"{ms['median']:.0f}",
                )
            )
    head = ("method", "found", "false", "head mm", "at 0.5 m", "lateral mm", "depth mm", "axis °",
            "under bound", "ms")  # fmt: skip
    return table(head, rows)


def kinds_table(r: Record) -> list[str]:
    """Ours by what the scene is made of."""
    rows = [
        (
            kind,
            str(sum(s["kind"] == kind for s in r["scenes"])),
            share(h["recall"]),
            share(h["false_per_visible"]),
            stat(h["head_mm"]),
            stat(h["axis_deg"], 1),
            share(h["coverage95"]),
        )
        for kind, h in r["methods"][OURS]["kinds"].items()
    ]
    return table(("screws", "scenes", "found", "false", "head mm", "axis °", "under bound"), rows)


def ranges_table(r: Record) -> list[str]:
    """Ours by the heads' distance."""
    rows = []
    for row in heads_of(r)["by_range"]:
        to = "" if row["to_m"] is None else f" to {row['to_m']:.2f} m"
        what = f"from {row['from_m']:.2f} m{to}"
        count = "0" if row["distance_mm"] is None else str(row["distance_mm"]["count"])
        values = (stat(row[k]) for k in ("distance_mm", "lateral_mm", "depth_mm"))
        rows.append((what, count, *values))
    return table(("distance", "heads", "head mm", "lateral mm", "depth mm"), rows)


def scenes_table(r: Record) -> list[str]:
    """Ours, scene by scene."""
    rows = []
    for s in r["scenes"]:
        h, rods = s["heads"], s["rods"]
        rows.append(
            (
                s["scene"],
                s["anatomy"],
                f"{s['screws']}",
                f"{s['size'][0]}×{s['size'][1]}{' mono' if s['mono'] else ''}",
                f"{s['baseline_mm']:.0f}",
                "–" if s["range_m"] is None else f"{s['range_m']:.2f}",
                f"{h['found']} / {h['visible_heads']}",
                str(h["false"]),
                stat(h["head_mm"]),
                "–" if h["axis_deg"] is None else f"{h['axis_deg']['median']:.1f}",
                share(h["coverage95"]),
                f"{rods['found']} / {rods['rods']}"
                + (f" + {rods['extra']}" if rods["extra"] else ""),
                stat(rods["visible_mm"]),
                str(s["refused"]) if s["refused"] else "",
            )
        )
    head = ("scene", "anatomy", "screws", "pair", "base mm", "at m", "found", "false", "head mm",
            "axis ° med", "under bound", "rods", "rod mm", "refused")  # fmt: skip
    return table(head, rows)


def failures_list(r: Record) -> list[str]:
    """What went wrong, in words; consecutive lines of one scene stand together."""
    lines = [f"- {s['scene']}: {line}" for s in r["scenes"] for line in s["failures"]]
    refused = [
        f"- {name}: {count} pairs refused: {reason}"
        for name, m in r["methods"].items()
        for reason, count in m["refused"].items()
    ]
    more = len(lines) - SHOWN_FAILURES
    tail = [f"- and {more} more, in the JSON line"] if more > 0 else []
    return [*lines[:SHOWN_FAILURES], *tail, *refused] or ["none"]


def rods_table(r: Record) -> list[str]:
    """Rods in all pairs and in the first of each scene."""
    rows = []
    for frames, what in ((ALL, "all pairs"), (FIRST, "first pair alone")):
        rods = rods_of(r, frames)
        if rods is not None:
            worst = rods["worst_mm"]
            rows.append(
                (
                    what,
                    f"{rods['found']} of {rods['rods']}",
                    str(rods["missed"]),
                    str(rods["extra"]),
                    str(rods["side_wrong"]),
                    stat(rods["visible_mm"]),
                    stat(rods["visible_max_mm"]),
                    "–" if worst is None else f"{worst:.2f}",
                    stat(rods["distance_mm"]),
                )
            )
    head = ("", "found", "missed", "false", "side wrong", "visible stretch mm",
            "largest of a rod mm", "worst mm", "between outermost saddles mm")  # fmt: skip
    return table(head, rows)


def planning_table(r: Record) -> list[str]:
    """Planned and bent rods per number of screws."""
    rows = [
        (
            str(count),
            f"{v['planned']} ({len(v['refused'])})",
            f"{v['bends_median']:.0f}",
            f"{v['planned_gap_p95_mm']:.2f}",
            f"{share(v['within_1mm_without_rebend'])} ({v['gap_p95_without_rebend_mm']:.2f})",
            share(v["rebent"]),
            f"{share(v['within_1mm'])} ({v['gap_p95_mm']:.2f})",
            " / ".join(f"{v[f'planning_{k}_ms']:.0f}" for k in ("median", "p95", "max")),
        )
        for count, v in counts_of(r)
    ]
    head = ("screws", "planned (refused)", "bends, median", "gap as planned mm p95",
            "≤ 1 mm before a re-bend (p95 mm)", "re-bent", "≤ 1 mm in the end (p95 mm)",
            "planning ms median / p95 / max")  # fmt: skip
    return table(head, rows)


def stereo_timing_table(r: Record) -> list[str]:
    """Ours by stage, and the peers."""

    def row(what: str, ms: Record) -> tuple[str, ...]:
        return (what, *(f"{ms[k]:.1f}" for k in ("median", "p95", "p99")), str(ms["count"]))

    rows = []
    for name in sorted(r["methods"], key=lambda n: n != OURS):
        m = r["methods"][name]
        if m["frame_ms"] is None:
            continue
        rows.append(row(f"{name}, whole pair", m["frame_ms"]))
        if m.get("first_ms") is not None:  # lines from before 2026-11-27 do not tell it apart
            rows.append(row("  of these the first of an operation", m["first_ms"]))
        rows += [row(f"  {stage}", ms) for stage, ms in m["stages_ms"].items() if stage != "total"]
    return table(("ms", "median", "p95", "p99", "n"), rows)


def _as_stated(row: Record) -> tuple[str, str]:
    """What a set's SOURCE.md states of its precision, and whether ours is as good."""
    rms, most = (t.get(row["set"]) for t in (_STATED_RMS_PX, _STATED_REPROJECTION_PX))
    if rms is not None:
        text = f"RMS {' / '.join(f'{v:.2f}' for v in rms)} px"
        met = all(round(v, 2) <= limit for v, limit in zip(row["rms_px"], rms, strict=True))
    elif most is not None:
        text, met = f"reprojection ≤ {most:.2f} px (mean)", row["reprojection_px"]["mean"] <= most
    else:
        return "none", "–"
    return text, "met" if met else "**missed**"


def calibration_table(r: Record) -> list[str]:
    """Real boards against our triangulation."""
    rows = [
        (
            s["set"],
            s["corners"],
            str(s["pairs"]),
            f"{s['baseline']:.3f} {s['unit']}",
            "given" if s["rms_px"] is None else " / ".join(f"{v:.2f}" for v in s["rms_px"]),
            stat(s["reprojection_px"], 3),
            *_as_stated(s),
            stat(s["row_px"], 3),
            f"{stat(s['board'], 3)} {s['unit']}",
        )
        for s in r["sets"]
    ]
    head = ("set", "corners", "pairs", "baseline", "calibration RMS px", "reprojection px",
            "SOURCE.md states", "", "rows apart px", "distance to the board")  # fmt: skip
    more = ["", *calibrate_tables(r)] if "calibrate" in r else []
    return [*table(head, rows), *more]


def settings_table(r: Record) -> list[str]:
    """What the peers ran with, and how that was found."""
    origin = r["peer_search"]
    how = "settings: defaults, not searched"
    if origin is not None:
        how = f"settings, searched on {origin['pairs']} {origin['split']} pairs: `{origin['command']}`"
        if origin["model_sha256"] != r["peer_detector_sha256"]:
            how += ", with an earlier model of the detector"
    rows = [
        (name, ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in p.items()))
        for name, p in r["peer_parameters"].items()
    ]  # fmt: skip
    return table(("peer", how), rows)


def tables(r: Record) -> list[str]:
    """The tables of one part, for a terminal."""
    one: dict[str, Any] = {
        "rod": planning_table,
        "calibration": calibration_table,
        "stereo_faults": faults_table,
        "stereo_timing": stereo_timing_table,
        "live_stereo": live_stereo_table,
    }
    if r["part"] in one:
        return list(one[r["part"]](r))
    return [*methods_table(r), "", *scenes_table(r), "", *rods_table(r), "", *failures_list(r)]


# -- sections ---------------------------------------------------------------------------------


def sections(newest: Mapping[str, Record], runs: Mapping[str, int]) -> list[str]:
    """Screws, rods, planning, recordings from elsewhere, calibration images, time."""
    out: list[str] = []
    if "stereo" in newest:
        out += _screws_section(newest["stereo"])
    if "rod" in newest:
        r = newest["rod"]
        hand = r["rods"]["hand"]
        out += [
            "## Rod planning", "", *provenance(r), "",
            (f"{r['rods']['rods']} random lumbosacral rows for each number of screws, seed"
            f" {r['rods']['seed']}; hand: {hand['bend_deg']:g}° per bend, {hand['rotate_deg']:g}° per"
            f" turn, {hand['feed_mm']:g} mm feed (standard deviations); centreline measured to"
            f" {hand['measure_mm']:g} mm. Gaps are those of the true rod, one re-bend at most."), "",
            *planning_table(r), "",
        ]  # fmt: skip
    if "stereo_foreign" in newest:
        r = newest["stereo_foreign"]
        out += [
            "## Stereo: recordings made elsewhere", "",
            ("Another renderer, real anatomies, real screw meshes, nothing trained or tuned on them."
            f" Runs of the bench on them so far: {runs['stereo_foreign']}."), "",
            *provenance(r), "", *methods_table(r), "", *scenes_table(r), "", *rods_table(r), "",
            *failures_list(r), "",
        ]  # fmt: skip
    if "stereo_faults" in newest:
        out += faults_section(newest["stereo_faults"])
    if "calibration" in newest:
        r = newest["calibration"]
        out += [
            "## Real stereo calibration images", "", *provenance(r), "",
            ("Our rectification and triangulation of known boards, no network. Where no calibration is"
            " given, the cameras are calibrated on one half of the pairs and measured on the other."
            " Mean / median / 95th percentile."), "",
            *calibration_table(r), "",
        ]  # fmt: skip
    if "stereo_timing" in newest:
        r = newest["stereo_timing"]
        threads = ", ".join(f"{k} {v}" for k, v in r["threads"].items())
        out += [
            "## Time of a stereo pair", "", *provenance(r), "",
            (f"{r['size'][0]}×{r['size'][1]}, {' and '.join(str(n) for n in r['screws'])} screws with"
            f" rods, in memory and warm, methods in turns. Threads: {threads}."), "",
            *stereo_timing_table(r), "",
        ]  # fmt: skip
    if "live_stereo" in newest:
        out += live_stereo_section(newest["live_stereo"])
    return out


def _screws_section(r: Record) -> list[str]:
    kinds = ", ".join(
        f"{sum(s['kind'] == kind for s in r['scenes'])} of {kind}"
        for kind in r["methods"][OURS]["kinds"]
    )
    return [
        "## Screws", "", *provenance(r), "",
        (f"{len(r['scenes'])} scenes ({kinds}), {r['pairs']} pairs; anatomies and screw designs that"
        " nothing was trained or tuned on. Errors are mean / median / 95th percentile, pooled over"
        " heads and pairs. 'At 0.5 m' scales every error to that distance (lateral with it, depth"
        " with its square). False rows are counted per visible head. The interval is Wilson's, as"
        " if heads were independent. Peers look at each pair alone and share a detector"
        f" ({r['peer_detector']})."), "",
        *methods_table(r), "", *settings_table(r), "", *kinds_table(r), "", *ranges_table(r), "",
        *scenes_table(r), "",
        "Failures:", "", *failures_list(r), "",
        "## Rods", "",
        ("The same pairs. A rod counts as found within 5 mm on average. The visible stretch is what"
        " either picture shows, between the outermost saddles where it is seated."), "",
        *rods_table(r), "",
    ]  # fmt: skip
