# SPDX-License-Identifier: Apache-2.0
"""models/SCREW_FINDER_CARD.md from the model's JSON card, so that no number is typed by hand."""

from __future__ import annotations

TEMPLATE = """\
# Model card: screw_finder

Research software, not a medical device. Made by `training/school.py` from
`screw_finder.json`.

**What it does.** First stage of the screw tracker. For one rectified stereo pair it says where heads
of pedicle screws and rods roughly are: per cell of {cell} x {cell} pixels a head's probability, the
offset to its saddle point and its disparity; a rod's probability, the offset to its axis, its
direction, the slope of its disparity and its disparity. The refiner measures from there.

**Network.** Shared encoder on both grey views, correlation of unit features along the row
({bins} disparities), U-shaped decoder on the reference view. Asked twice in one batch: for the left
image, and through a mirror for the right one; a candidate's score is the mean of both. Where heads
are small in the image, a second pass looks closer (`finder_look`). 1.1 M parameters, about 2 GMAC
per view and pass, fp32, ONNX opset {opset}, {megabytes:.1f} MB, sha256 `{sha256}`.

**Input.** {width} x {height} pixels: the whole image scaled by area, normalised to local mean and
contrast (`stereo_screw_tracker.core.finder_grid`). No colour, no focal length, no baseline:
disparities are in pixels, geometry comes after.

**Training data.** Rendered by `spine_nav_sim` only (`training/screw_finder/generate.py`); screw families
and seeds as there and in `training/splits.yaml`. {pairs} pairs, {samples} augmented samples, seed
{seed}: mirrored, upside down, scaled, other exposure per eye, noise, blur, shading, dark patches,
glare, things in front of one eye or both; most samples are close looks at the heads. Heads of which
less than {hidden:.0f} % shows are neither to be found nor a mistake. P001, the Visible Human, the
implants and the recordings in scenes/ were never used, not for choosing a checkpoint or a threshold
either.

    {command}

Commit {commit}, {steps} steps. The averaged weights of the last step are exported.
{history}

**Numbers** on {v[pairs]:.0f} pairs of anatomies that training never saw, with the screw families of
training: they say nothing of other designs. Whole `Finder.find` at the images' own size. Visible: at
least half of the head shows in both views. Right: within {right:.0f} mm in both views. Errors in
pixels of the 640 wide grid. The thresholds (head {v[head_threshold]:.2f}, rod
{v[rod_threshold]:.2f}) and the rule that joins both references' scores were chosen on these very
pairs, so recall and false share are flattered.

    python -m training.screw_finder.evaluate models/screw_finder.onnx

| what | value |
|---|---|
| visible heads found | {recall:.1f} % of {v[visible]:.0f} |
| candidates that are no head | {false:.1f} % |
| visible heads found at the threshold with 1 % of false candidates | {strict:.1f} % |
| found heads that both references confirm | {confirmed:.1f} % |
| centre in the left view, median / 95th percentile | {v[left_px_median]:.2f} / \
{v[left_px_p95]:.2f} px |
| centre in the right view, median / 95th percentile | {v[right_px_median]:.2f} / \
{v[right_px_p95]:.2f} px |
| head disparity, median / 95th percentile | {v[disparity_px_median]:.2f} / \
{v[disparity_px_p95]:.2f} px |
| rod cells: recall / precision / F1 | {v[rod_recall]:.3f} / {v[rod_precision]:.3f} / \
{v[rod_f1]:.3f} |
| rod axis across, median / 95th percentile | {v[rod_px_median]:.2f} / {v[rod_px_p95]:.2f} px |
| rod disparity, median / 95th percentile | {v[rod_disparity_px_median]:.2f} / \
{v[rod_disparity_px_p95]:.2f} px |
| `Finder.find`, both passes, 1 thread | {v[find_ms]:.0f} ms (median; on a shared machine) |

**Limits.** Synthetic images only; validation shares the renderer with training, so the numbers say
nothing of the step to another renderer or to the operating theatre. The training was short: misses
and false candidates were still falling when it ended. The refiner judges every candidate again.
Heads under about 9 pixels in
the 640 wide grid and disparities above {reach} of its pixels are not in the training data.
"""


def finder_card(card: dict, megabytes: float) -> str:
    """The Markdown text."""
    from stereo_screw_tracker.core.finder_grid import BINS, CELL_PX, HEIGHT, WIDTH
    from training.screw_finder.dataset import HIDDEN
    from training.screw_finder.evaluate import RIGHT_MM

    v, t = card["validation"], card["training"]
    fields = (
        "left_px",
        "right_px",
        "disparity_px",
        "rod_px",
        "rod_disparity_px",
    )  # absent where nothing was found at all
    v = {f"{f}_{s}": float("nan") for f in fields for s in ("median", "p95")} | v
    return TEMPLATE.format(
        v=v,
        cell=CELL_PX,
        bins=BINS,
        reach=(BINS - 1) * CELL_PX,
        width=WIDTH,
        height=HEIGHT,
        opset=card["opset"],
        megabytes=megabytes,
        sha256=card["sha256"],
        hidden=100 * HIDDEN,
        right=RIGHT_MM,
        pairs=t["pairs"],
        samples=t["samples"],
        seed=t["seed"],
        command=t["command"],
        commit=t["commit"],
        steps=t["steps"],
        history=t["history"],
        recall=100 * v["recall"],
        false=100 * v["false"],
        strict=100 * v["recall_at_1pc_false"],
        confirmed=100 * v["confirmed"],
    )
