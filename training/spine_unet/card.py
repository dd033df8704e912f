# SPDX-License-Identifier: Apache-2.0
"""models/MODEL_CARD.md from the model's JSON card, so that no number in it is typed by hand."""

from __future__ import annotations

TEMPLATE = """\
# Model card: spine_unet

Research software, not a medical device. Made by `training/school.py` from `spine_unet.json`.

**What it does.** For one RGB-D frame, per cell of a {size} x {size} metric grid: bone probability
(bone under a thin film of tissue included), clean-bone probability (film under 0.4 mm), and on bone
the offset to the dorsal centre of the cell's vertebra and that vertebra's cranial and dorsal
directions (the z and y axes of an LPS CT). `spine_perception.core.instances` clusters the votes
into vertebrae. It does not name levels; registration does, and refuses where it cannot.

**Network.** U-Net, 3.2 M parameters, 1.6 GMAC at {size} x {size}, batch norm folded, fp32, ONNX
opset {opset}, {megabytes:.1f} MB, sha256 `{sha256}`.

**Input.** {channels} channels ({names}), made by `spine_perception.core.features` from colour and
depth that `grid.py` samples at 1.0 to 2.7 mm per cell. The grid is turned until the spine is
upright: by the long axis of the bone found in a search pass, then by the network's own answer.
Normals and outputs live in the viewing-ray frame of each cell.

**Training data.** Rendered by `spine_nav_sim` only: parametric spines, deformations of the mean of
87 patients (MIT), of six L1 (CC BY-SA 4.0) and of two CT masks (TotalSegmentator and TPTBox
examples), some with resected arches; single levels to six, any hardness of the wound. Seeds and
shares: `training/splits.yaml`. {views} views, {samples} augmented samples, seed {seed}. P001, the
Visible Human and the recordings in scenes/ were never used, not for choosing a checkpoint either.

    {command}

Commit {commit}, {steps} steps. The averaged weights of the last step are exported.
{history}

**Numbers** on {v[views]:.0f} views of held-out anatomies (other parametric seeds, and the mean
shape undeformed, which training saw only deformed), sensor model on, no hint, whole `Segmenter.run`:

    python -m training.spine_unet.evaluate models/spine_unet.onnx --data training/data/views/validation

| what | value |
|---|---|
| bone IoU / clean-bone IoU | {v[bone_iou]:.3f} / {v[clean_iou]:.3f} |
| vertebrae found within 15 mm (recall) | {recall:.1f} % of {v[instances]:.0f} |
| found vertebrae that are none (1 - precision) | {wrong:.1f} % |
| centre error, median / 95th percentile | {v[centre_mm_median]:.1f} / {v[centre_mm_p95]:.1f} mm |
| rotation error, median / 95th percentile | {v[rotation_deg_median]:.1f} / \
{v[rotation_deg_p95]:.1f} deg |
| cranial axis error, median / 95th percentile | {v[cranial_deg_median]:.1f} / \
{v[cranial_deg_p95]:.1f} deg |
| dorsal axis error, median / 95th percentile | {v[dorsal_deg_median]:.1f} / \
{v[dorsal_deg_p95]:.1f} deg |
| vertebrae turned by more than 90 deg | {way:.1f} % |
| network, all passes of a search, 1 thread | {v[network_ms]:.0f} ms (median; on a shared machine) |
| refused views | {v[refused]:.0f} |

**Limits.** Synthetic images only: no real exposed human spine was available to train or judge on.
Validation shares the renderer with training, so the numbers above say nothing of the step to
another renderer or to the operating theatre. Axes are those of the CT, not of the single vertebra, so
the patient's own lordosis adds to the rotation error. Children, fractures, tumours, fused levels
and implants in view are not in the training data. Tissue thinner than the depth noise cannot be
seen in depth, so clean bone is judged mostly by colour.
"""


def model_card(card: dict, megabytes: float) -> str:
    """The Markdown text."""
    v, t = card["validation"], card["training"]
    # Absent where nothing was found at all.
    errors = ("centre_mm", "rotation_deg", "cranial_deg", "dorsal_deg")
    v = {f"{e}_{s}": float("nan") for e in errors for s in ("median", "p95")} | v
    return TEMPLATE.format(
        v=v,
        size=card["input"]["size"],
        channels=len(card["input"]["channels"]),
        names=", ".join(card["input"]["channels"]),
        opset=card["opset"],
        sha256=card["sha256"],
        megabytes=megabytes,
        recall=100 * v["recall"],
        wrong=100 * (1 - v["precision"]),
        way=100 * v["wrong_way_round"],
        views=t["views"],
        samples=t["samples"],
        seed=t["seed"],
        command=t["command"],
        commit=t["commit"],
        steps=t["steps"],
        history=t.get("history", ""),
    )
