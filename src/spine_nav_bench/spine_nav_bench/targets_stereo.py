# SPDX-License-Identifier: Apache-2.0
"""The targets of screws, rods and rod planning, and whether a run meets them."""

from __future__ import annotations

from .results_common import OURS, Record, Target, share
from .results_live import LIVE_STEREO_TARGETS

FIRST, ALL = "first", "all"


def heads_of(r: Record, method: str = OURS, frames: str = ALL) -> Record:
    """What a method's heads came to, over all pairs or over the first of each scene."""
    return r["methods"][method]["heads"][frames]


def rods_of(r: Record, frames: str = ALL) -> Record | None:
    """What our rods came to; None where none were looked for."""
    rods = r["methods"][OURS]["rods"]
    return None if rods is None else rods[frames]


def _head_error(r: Record) -> tuple[str, bool] | None:
    near, raw = (heads_of(r)[k] for k in ("at_half_metre_mm", "head_mm"))
    if near is None:
        return None
    text = (
        f"{near['mean']:.2f} / {near['median']:.2f} mm at 0.5 m; {raw['mean']:.2f} /"
        f" {raw['median']:.2f} mm as they stand"
    )
    return text, near["mean"] <= 1.0 and near["median"] <= 0.7


def _found(r: Record) -> tuple[str, bool] | None:
    h = heads_of(r)
    if h["recall"] is None:
        return None
    text = (
        f"{share(h['recall'])} / {share(h['false_per_visible'])}"
        f" ({h['found']} of {h['visible_heads']}, {h['false']} false)"
    )
    return text, h["recall"] >= 0.98 and h["false_per_visible"] <= 0.01


def _axis(r: Record) -> tuple[str, bool] | None:
    axis = heads_of(r)["axis_deg"]
    return None if axis is None else (f"{axis['median']:.1f}°", axis["median"] <= 2.5)


def interval(h: Record) -> str:
    """Share of heads under the bound, with its 95 % interval."""
    low, high = h["coverage95_interval"]
    return f"{100 * h['coverage95']:.1f} % ({100 * low:.1f} to {100 * high:.1f} %)"


def _covered(r: Record) -> tuple[str, bool] | None:
    h = heads_of(r)
    if h["coverage95"] is None:
        return None
    scenes = [s["heads"]["coverage95"] for s in r["scenes"]]
    worst = min((c for c in scenes if c is not None), default=0.0)
    text = f"{interval(h)}; worst scene {100 * worst:.0f} %"
    return text, 0.92 <= h["coverage95"] <= 0.98 and worst >= 0.8


def _rods_found(r: Record) -> tuple[str, bool] | None:
    rods = rods_of(r)
    if rods is None or not rods["rods"]:
        return None
    found, false = rods["found"] / rods["rods"], rods["extra"] / rods["rods"]
    text = f"{share(found)} / {share(false)} ({rods['found']} of {rods['rods']}, {rods['extra']} false)"
    return text, found >= 0.95 and false <= 0.01


def _rod(r: Record) -> tuple[str, bool] | None:
    rods = rods_of(r)
    if rods is None or rods["visible_mm"] is None:
        return None
    mean, most = rods["visible_mm"]["mean"], rods["visible_max_mm"]
    text = (
        f"{mean:.2f} mm; {most['p95']:.1f} mm in 95 % of rods, median {most['median']:.1f} mm, worst"
        f" {rods['worst_mm']:.1f} mm"
    )
    return text, mean <= 0.6 and most["p95"] <= 1.5


def _rod_covered(r: Record) -> tuple[str, bool] | None:
    rods = rods_of(r)
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
    own = heads_of(r)
    ahead = []
    for name in r["methods"]:
        peer = heads_of(r, name)
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


def counts_of(r: Record) -> list[tuple[int, Record]]:
    """Screws per rod, and what planning came to with so many."""
    """Rod planning per number of screws."""
    rods = r["rods"]
    return [(int(k.split()[0]), v) for k, v in rods.items() if k.endswith(" screws")]


def _gap(r: Record) -> tuple[str, bool] | None:
    rows = [v for _, v in counts_of(r)]
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
    worst = max((v["planning_max_ms"] for _, v in counts_of(r)), default=None)
    if worst is None:
        return None
    median = max(v["planning_median_ms"] for _, v in counts_of(r))
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
    *LIVE_STEREO_TARGETS,
)  # fmt: skip
