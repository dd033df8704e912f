# SPDX-License-Identifier: Apache-2.0
"""Model cards of the refiners from their JSON cards, so that no number in them is typed by hand."""

from __future__ import annotations

HEAD = """\
**What it does.** Given a place in a rectified stereo pair where a screw head may be, it says where
the saddle point lies in either image, which way the tulip's axis points, how sure it is of each,
and whether there is a head at all. It is asked until its answer
rests, each crop standing at the last answer, then in three mirrors; the mean counts.

**Input.** (4, 2, 48, 48) float32: grey crops of the left and right image at 0.6 mm per pixel of the
plane through the hypothesis across its viewing ray, each normalised by itself
(`stereo_screw_tracker.core.crops`). **Output.** (4, 13):
{outputs}.
Shift is the mean of the eyes,
disparity and row difference are left minus right, in crop pixels; axis in the ray frame.
"""
ROD = """\
**What it does.** Given places and directions of a curve that a rod may follow, it says for either
image how far the rod's axis lies beside the projected place along the curve's normal, how sure it
is of that, and whether a rod is seen there. The eyes answer alike: swapping them swaps the answers.

**Input.** (20, 2, 32, 32) float32: grey crops of the left and right image at 0.45 mm per pixel,
turned so that the projected curve runs upright, each normalised by itself
(`stereo_screw_tracker.core.crops`). **Output.** (20, 2, 3):
{outputs} per eye, in crop pixels.
"""
TEMPLATE = """\
# Model card: {name}

Research software, not a medical device. Made by `training/school.py` from
`{name}.json`.

{what}
**Network.** {parameters:.2f} M parameters, batch norm folded, fp32, ONNX opset {opset},
{megabytes:.1f} MB, sha256 `{sha256}`.
Predicted sigmas are multiplied by the factors in the card ({scale}):
95 % of the errors on one half of the validation pairs lie below 1.96 sigma.

**Training data.** Rendered by `spine_nav_sim` only (`training/screw_finder/generate.py`; seeds, screw
families and anatomies of each split stand there and in `training/splits.yaml`). {pairs} pairs,
{samples} augmented crops in {steps} steps, seed {seed}, commit {commit}. The screw meshes and
recordings of the shared test data were never used, not for choosing a checkpoint either.

{commands}

{history}

**Numbers** on {val_pairs} pairs of screws and anatomies that training never saw (of its screw families), hypotheses that err like
the finder's, all views and distances of the generator (0.35 to 0.7 m):

    python -m training.screw_refiner.evaluate {kind} models/{name}.onnx

| what | n | mean | median | 95th percentile |
|---|---|---|---|---|
{table}

| what | value |
|---|---|
{values}

**Limits.** Synthetic images only. Validation shares the renderer with training, so the numbers say
nothing of the step to another renderer or to the operating theatre. {limits}
"""
ROWS = {
    "head": {
        "before_mm": "hypothesis, 3D error (mm)",
        "error_mm": "3D error (mm)",
        "lateral_mm": "lateral error (mm)",
        "rig_mm": "3D error with the rig's calibration error (mm)",
        "lateral_px": "mean of the eyes (image px)",
        "disparity_px": "disparity (image px)",
        "axis_deg": "axis (deg)",
    },
    "rod": {"before_px": "hypothesis, offset (image px)", "offset_px": "offset error (image px)"},
}
LIMITS = {
    "head": "A hypothesis further than 6 mm aside or 7 crop pixels in disparity is out of reach.\n"
    "Crops are 29 mm wide: two heads in one crop are told apart by the nearer to the middle.",
    "rod": "A rod further than 4.5 mm aside is called absent. Whose rod it is, the crop cannot tell.",
}
NAMES = {
    "at_half_a_metre": "0.45 to 0.55 m away",
    "seen_0.25_0.5": "25 to 50 % seen by the worse eye",
    "seen_0.5_0.75": "50 to 75 % seen",
    "seen_0.75_1.0": "75 to 100 % seen",
}


def _row(name: str, q: dict) -> str:
    if not q["n"]:
        return f"| {name} | 0 | | | |"
    return f"| {name} | {q['n']} | {q['mean']:.2f} | {q['median']:.2f} | {q['p95']:.2f} |"


def model_card(kind: str, card: dict, megabytes: float) -> str:
    """The Markdown text for kind 'head' or 'rod'."""
    v, t = card["validation"], card["training"]
    rows = [_row(text, v[key]) for key, text in ROWS[kind].items()]
    for key, text in NAMES.items():
        for part, unit in (("error_mm", "3D error (mm)"), ("axis_deg", "axis (deg)")):
            if key in v:
                rows.append(_row(f"{unit}, heads {text}", v[key][part]))
    p = v["presence"]
    values = [
        f"| presence: area under the ROC ({p['true']} true, {p['false']} false places) | {p['auc']:.4f} |",
        f"| false places that pass where 98 % of the true ones do | {100 * p['false_at_98']:.1f} % |",
        (
            f"| above 0.5: true / false places | {100 * p['true_over_half']:.1f} / "
            f"{100 * p['false_over_half']:.1f} % |"
        ),
    ]
    within = v["within"] if kind == "head" else {"offset": v["within"]}
    for name, w in within.items():
        values.append(
            f"| within 1 / 1.96 predicted sigma, {name} (pairs not fitted on) | "
            f"{100 * w['sigma_1']:.0f} / {100 * w['sigma_1.96']:.0f} % |"
        )
    what = "12 heads, until they rest" if kind == "head" else "100 places"
    values.append(f"| {what}, crops included, 2 threads, on a shared machine | {v['ms']:.0f} ms |")
    return TEMPLATE.format(
        kind=kind,
        name=card["name"],
        parameters=card["parameters"] / 1e6,
        opset=card["opset"],
        what={"head": HEAD, "rod": ROD}[kind].format(outputs=", ".join(card["outputs"])),
        megabytes=megabytes,
        sha256=card["sha256"],
        samples=t["samples"],
        steps=t["steps"],
        scale=", ".join(f"{k} {x:.2f}" for k, x in card["sigma_scale"].items()),
        pairs=t["pairs"],
        seed=t["seed"],
        commit=t["commit"],
        history=t["history"],
        commands="\n".join(f"    {c}" for c in t["command"]),
        val_pairs=v["pairs"],
        table="\n".join(rows),
        values="\n".join(values),
        limits=LIMITS[kind],
    )
