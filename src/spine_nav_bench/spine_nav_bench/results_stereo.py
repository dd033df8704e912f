# SPDX-License-Identifier: Apache-2.0
"""The tables of screws, rods and rod planning in docs/results.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .results_common import OURS, Record, Target, provenance, share, stat, table

PARTS = ("stereo", "stereo_foreign", "stereo_timing", "rod", "calibration")
FIRST, ALL = "first", "all"
SHOWN_FAILURES = 40
# What the sets' SOURCE.md state: the calibration's RMS (left, right, both) or reprojection, pixels.
_STATED_RMS_PX = {"stereo_opencv_chessboard": (0.41, 0.46, 0.45)}
_STATED_REPROJECTION_PX = {"stereo_laparoscope_tracked_A": 0.22}


def _heads(r: Record, method: str = OURS, frames: str = ALL) -> Record:
    return r["methods"][method]["heads"][frames]


def _rods(r: Record, frames: str = ALL) -> Record | None:
    rods = r["methods"][OURS]["rods"]
    return None if rods is None else rods[frames]


# -- targets ----------------------------------------------------------------------------------


def _head_error(r: Record) -> tuple[str, bool] | None:
    near, raw = (_heads(r)[k] for k in ("at_half_metre_mm", "head_mm"))
    if near is None:
        return None
    text = (
        f"{near['mean']:.2f} / {near['median']:.2f} mm at 0.5 m; {raw['mean']:.2f} /"
        f" {raw['median']:.2f} mm as they stand"
    )
    return text, near["mean"] <= 1.0 and near["median"] <= 0.7


def _found(r: Record) -> tuple[str, bool] | None:
    h = _heads(r)
    if h["recall"] is None:
        return None
    text = (
        f"{share(h['recall'])} / {share(h['false_per_visible'])}"
        f" ({h['found']} of {h['visible_heads']}, {h['false']} false)"
    )
    return text, h["recall"] >= 0.98 and h["false_per_visible"] <= 0.01


def _axis(r: Record) -> tuple[str, bool] | None:
    axis = _heads(r)["axis_deg"]
    return None if axis is None else (f"{axis['median']:.1f}°", axis["median"] <= 2.5)


def _interval(h: Record) -> str:
    low, high = h["coverage95_interval"]
    return f"{100 * h['coverage95']:.1f} % ({100 * low:.1f} to {100 * high:.1f} %)"


def _covered(r: Record) -> tuple[str, bool] | None:
    h = _heads(r)
    if h["coverage95"] is None:
        return None
    scenes = [s["heads"]["coverage95"] for s in r["scenes"]]
    worst = min((c for c in scenes if c is not None), default=0.0)
    text = f"{_interval(h)}; worst scene {100 * worst:.0f} %"
    return text, 0.92 <= h["coverage95"] <= 0.98 and worst >= 0.8


def _rods_found(r: Record) -> tuple[str, bool] | None:
    rods = _rods(r)
    if rods is None or not rods["rods"]:
        return None
    found, false = rods["found"] / rods["rods"], rods["extra"] / rods["rods"]
    text = f"{share(found)} / {share(false)} ({rods['found']} of {rods['rods']}, {rods['extra']} false)"
    return text, found >= 0.95 and false <= 0.01


def _rod(r: Record) -> tuple[str, bool] | None:
    rods = _rods(r)
    if rods is None or rods["visible_mm"] is None:
        return None
    mean, most = rods["visible_mm"]["mean"], rods["visible_max_mm"]
    text = (
        f"{mean:.2f} mm; {most['p95']:.1f} mm in 95 % of rods, median {most['median']:.1f} mm, worst"
        f" {rods['worst_mm']:.1f} mm"
    )
    return text, mean <= 0.6 and most["p95"] <= 1.5


def _rod_covered(r: Record) -> tuple[str, bool] | None:
    rods = _rods(r)
    covered = None if rods is None else rods.get("covered")
    return None if covered is None else (share(covered), 0.92 <= covered <= 0.98)


def _settled_found(r: Record) -> tuple[str, bool] | None:
    settled = r.get("settled")
    if settled is None:
        return None
    h = settled["heads"]
    text = (
        f"{share(h['recall'])} / {share(h['false_per_visible'])} ({h['found']} of"
        f" {h['visible_heads']}, {h['false']} false, {len(settled['scenes'])} scenes)"
    )
    return text, h["recall"] >= 0.99 and h["false_per_visible"] <= 0.003


def _settled_error(r: Record) -> tuple[str, bool] | None:
    settled = r.get("settled")
    if settled is None or settled["heads"]["head_mm"] is None:
        return None
    h, first = settled["heads"], settled["first"]
    before = "–" if first["head_mm"] is None else f"{first['head_mm']['median']:.2f}"
    text = f"{h['head_mm']['median']:.2f} mm (first pair {before} mm)"
    return text, h["head_mm"]["median"] <= 0.45


def _names(r: Record) -> tuple[str, bool] | None:
    settled = r.get("settled")
    if settled is None or not settled["heads"]["rows"]:
        return None
    named = settled["named"] / settled["heads"]["rows"]
    text = f"{share(named)} named, {settled['names_wrong']} wrong ({settled['heads']['rows']} rows)"
    return text, named >= 0.99 and settled["names_wrong"] == 0


def _peers(r: Record) -> tuple[str, bool] | None:
    own = _heads(r)
    ahead = []
    for name in r["methods"]:
        peer = _heads(r, name)
        if name == OURS or peer["head_mm"] is None or own["head_mm"] is None:
            continue
        better = [
            what
            for what, theirs, mine in (
                ("found", -peer["recall"], -own["recall"]),
                ("false", peer["false_per_visible"], own["false_per_visible"]),
                ("mean", peer["head_mm"]["mean"], own["head_mm"]["mean"]),
                ("median", peer["head_mm"]["median"], own["head_mm"]["median"]),
            )
            if theirs < mine
        ]
        ahead += [f"{name}: {', '.join(better)}"] if better else []
    return "; ".join(ahead) or "behind in every row", not ahead


def _counts(r: Record) -> list[tuple[int, Record]]:
    """Rod planning per number of screws."""
    rods = r["rods"]
    return [(int(k.split()[0]), v) for k, v in rods.items() if k.endswith(" screws")]


def _gap(r: Record) -> tuple[str, bool] | None:
    rows = [v for _, v in _counts(r)]
    planned = sum(v["planned"] for v in rows)
    if not planned:
        return None
    right = sum(round(v["within_1mm"] * v["planned"]) for v in rows)
    refused = sum(len(v["refused"]) for v in rows)
    text = f"{share(right / planned)} of {planned} rods; {refused} more rows refused"
    return text, right / planned >= 0.95


def _bends(r: Record) -> tuple[str, bool] | None:
    five = r["rods"].get("5 screws")
    return None if five is None else (f"{five['bends_median']:.0f}", five["bends_median"] <= 6)


def _planning(r: Record) -> tuple[str, bool] | None:
    worst = max((v["planning_max_ms"] for _, v in _counts(r)), default=None)
    if worst is None:
        return None
    median = max(v["planning_median_ms"] for _, v in _counts(r))
    return f"median {median:.0f} ms, longest {worst:.0f} ms", worst <= 500


def _frame(r: Record) -> tuple[str, bool] | None:
    ms = r["methods"][OURS]["frame_ms"]
    if ms is None:
        return None
    text = f"{ms['median']:.0f} / {ms['p95']:.0f} ms"
    bf16 = "bf16" in (r["provider"] or "")
    return text, ms["median"] <= (60 if bf16 else 100) and ms["p95"] <= (90 if bf16 else 140)


TARGETS = (
    Target("screw-head centre, mean / median", "≤ 1.0 / 0.7 mm at 0.5 m",
           "5.43 mm (cadaver), 1.83 mm (phantom, other method)", "stereo", _head_error),
    Target("found / false, per head visible by at least half", "≥ 98 % / ≤ 1 %", "not reported",
           "stereo", _found),
    Target("the same from the tenth pair of a track on", "≥ 99 % / ≤ 0.3 %", "not reported",
           "stereo", _settled_found),
    Target("screw-head centre, median, from the tenth pair of a moving camera on", "≤ 0.45 mm",
           "not reported", "stereo", _settled_error),
    Target("tulip axis, median", "≤ 2.5°", "not reported", "stereo", _axis),
    Target("true head under the predicted 95 % bound; worst scene", "92 to 98 %; ≥ 80 %",
           "not reported", "stereo", _covered),
    Target("rods found / false", "≥ 95 % / ≤ 1 %", "not reported", "stereo", _rods_found),
    Target("rod centreline over the visible stretch: mean; largest of a rod in 95 % of rods",
           "≤ 0.6 mm; ≤ 1.5 mm", "not reported", "stereo", _rod),
    Target("points of a rod under 1.96 of its stated sigma", "92 to 98 %", "not reported",
           "stereo", _rod_covered),
    Target("heads named (level and side) with a case, from the tenth pair on / wrong",
           "≥ 99 % / 0", "not reported", "stereo", _names),
    Target("peers in the same run", "behind in every row", "–", "stereo", _peers),
    Target("planned rod: largest gap ≤ 1 mm with bend noise of 1° and 1 mm, at most one re-bend",
           "95 % of rods", "0.6 re-bends (unverified)", "rod", _gap),
    Target("bends per rod, median, 5 screws", "≤ 6", "not reported", "rod", _bends),
    Target("planning time", "≤ 500 ms", "not reported", "rod", _planning),
    Target("stereo pair at 640×480 with 10 heads and 2 rods, median / p95", "≤ 60 / 90 ms bf16, ≤ 100 / 140 fp32", "not reported", "stereo_timing", _frame),
)  # fmt: skip


# -- tables -----------------------------------------------------------------------------------


def methods_table(r: Record) -> list[str]:
    """Every method on the same pairs, over all pairs and over the first of each scene alone."""
    rows = []
    for name in sorted(r["methods"], key=lambda n: n != OURS):
        for frames in (ALL, FIRST) if name == OURS else (ALL,):
            h = _heads(r, name, frames)
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
                    "–" if h["coverage95"] is None else _interval(h),
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
    for row in _heads(r)["by_range"]:
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
        rods = _rods(r, frames)
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
        for count, v in _counts(r)
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
    return table(head, rows)


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
        "stereo_timing": stereo_timing_table,
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
