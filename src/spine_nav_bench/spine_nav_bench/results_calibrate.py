# SPDX-License-Identifier: Apache-2.0
"""The tables of `spinenav calibrate` beside OpenCV, from a line of `bench --only calibration`."""

from __future__ import annotations

from .results_common import Record, Target, stat, table

MOST_MM, MOST_DEG, MOST_OVER = 0.5, 0.15, 1.05


def _lenses(r: Record) -> tuple[str, bool] | None:
    rows = r.get("calibrate", {}).get("lenses")
    if not rows:
        return None
    over = max(x["held_out_px"] / x["opencv_held_out_px"] for x in rows)
    return f"{100 * (over - 1):+.1f} % at worst of {len(rows)}", over <= MOST_OVER


def _handeye(r: Record) -> tuple[str, bool] | None:
    if "calibrate" not in r:
        return None
    x = r["calibrate"]["handeye"][0]
    mm, deg = x["mm"]["mean"], x["deg"]["mean"]
    return f"{mm:.2f} mm, {deg:.3f}°", mm <= MOST_MM and deg <= MOST_DEG


CALIBRATE_TARGETS = (
    Target("lenses and pairs on real boards, reprojection of views that took no part",
           "within 5 % of OpenCV's best", "not reported", "calibration", _lenses),
    Target("hand and eye, 15 poses with 0.2 mm and 0.1°, roll to 90° (with 40°: open points), mean",
           f"≤ {MOST_MM} mm, {MOST_DEG}°", "not reported", "calibration", _handeye),
)  # fmt: skip


def _met(good: bool) -> str:
    return "met" if good else "**missed**"


def calibrate_tables(r: Record) -> list[str]:
    """Lenses and pairs, a pointer's tip, hand and eye."""
    said = r["calibrate"]
    rows = []
    for x in said["lenses"]:
        ours, theirs = x["held_out_px"], x["opencv_held_out_px"]
        more = "" if x["eye"] != "pair" else (
            f"{x['baseline_squares']:.3f} squares; {stat(x['board_mm'], 3)} mm; rows {stat(x['rows_px'], 3)} px"
        )  # fmt: skip
        rows.append(
            (x["set"], x["eye"], f"{x['views']} / {x['opencv_views']}", f"{ours:.3f} ({x['model']})",
             f"{theirs:.3f} ({x['opencv_model']})", _met(ours <= MOST_OVER * theirs), more)
        )  # fmt: skip
    head = ("set", "camera", "views", "SpineNav, px RMS", "OpenCV's best, px RMS", "≤ 5 % more",
            "baseline; corners off the board; rows apart")  # fmt: skip
    out = [
        (
            "`spinenav calibrate`, reprojection of views that took no part (five parts in turn, nothing left"
            " out); OpenCV: the best of its two chessboard finders and its models. Mean / median / 95th"
            " percentile."
        ),
        "", *table(head, rows), "",
    ]  # fmt: skip
    if (p := said["pivot"]) is not None:
        tips = [", ".join(f"{v:.2f}" for v in p[k]) for k in ("tip_mm", "plain_tip_mm")]
        out += [
            "Tip of a pointer on real tracking (its SOURCE.md states no result):", "",
            *table(
                ("method", "poses", "tip mm", "sigma mm (worst direction)", "residual mm RMS", "held out mm RMS"),
                [("SpineNav", f"{p['used']} of {p['poses']}", tips[0], f"{p['sigma_mm']:.2f}",
                  f"{p['residual_mm']:.2f}", f"{p['held_out_mm']:.2f}"),
                 ("plain least squares", str(p["poses"]), tips[1], "–", f"{p['plain_residual_mm']:.2f}", "–")],
            ), "",
        ]  # fmt: skip
    rows = []
    for x in said["handeye"]:
        good = x["mm"]["mean"] <= MOST_MM and x["deg"]["mean"] <= MOST_DEG
        sigma = f"{x['sigma_mm']:.2f} mm, {x['sigma_deg']:.3f}°" if "sigma_mm" in x else "–"
        rows.append((x["method"], stat(x["mm"], 2), stat(x["deg"], 3), sigma, _met(good)))
    first, count = said["handeye_seeds"]
    out += [
        (
            f"Hand and eye, 15 poses, 0.2 mm and 0.1° (1 sigma per axis) on both streams, tilts to 40°, roll to"
            f" 90°, seeds {first} to {first + count - 1}:"
        ),
        "",
        *table(("method", "mm", "degrees", "told (worst direction)", f"mean ≤ {MOST_MM} mm, {MOST_DEG}°"), rows),
    ]  # fmt: skip
    return out
