# SPDX-License-Identifier: Apache-2.0
"""models/CT_UNET_CARD.md from the model's JSON card, so that no number in it is typed by hand."""

from __future__ import annotations

TEMPLATE = """\
# Model card: ct_unet

Research software, not a medical device. Made by `training/school.py` from `ct_unet.json`.

**What it does.** For a block of a CT, {block} voxels of {step} mm to a side: the probability that a
voxel is vertebra (sacrum included), sacrum, or rib, and from each cell of 4 mm the way to the centre
of its vertebra. `spine_planning.core.vertebrae` joins the blocks and gathers the votes into
vertebrae; `level_names` names them where sacrum and ribs agree, and asks otherwise.

**Network.** 3D U-Net, {parameters:.2f} M parameters, batch norm folded, fp32, ONNX opset {opset},
{megabytes:.1f} MB, sha256 `{sha256}`.

**Training data.** Virtual CTs only (`training/ct_unet`): parametric spines, deformations of the mean
of 87 patients (MIT) and of six L1 (CC BY-SA 4.0); vertebrae above T12, ribs and pelvis are crude
stand-ins, soft tissue is made of ellipses. No real CT was trained on. Seeds: `training/splits.yaml`.
{samples} samples, seed {seed}.

    {command}

Commit {commit}, {steps} steps. {history}

**Numbers** on {v[scans]:.0f} virtual scans of held-out anatomies ({v[vertebrae]:.0f} whole vertebrae,
sacra included), 2 mm grid:

    python -m training.ct_unet.evaluate models/ct_unet.onnx --data training/data/ct/validation

| what | value |
|---|---|
| Dice per vertebra, missed ones as 0 / found ones | {v[dice]:.3f} / {v[dice_found]:.3f} |
| found (recall) / found that are one (precision) | {recall:.1f} % / {precision:.1f} % |
| scans with vertebrae in a wrong order | {order:.1f} % |
| scans whose sacrum is overlooked or made up | {sacrum:.1f} % |
| scans named / named wrongly | {named:.1f} % / {wrong:.1f} % |
| scans asked about though ribs and sacrum are in view | {asked:.1f} % |

**Limits.** Validation shares the generator with training, so these numbers say nothing of the step
to real patients; those of real CTs stand apart in docs/open_points.md and docs/results.md. Cervical
and upper thoracic vertebrae, children, tumours and fused levels are not in the training data. MRI
is refused.
"""


def model_card(card: dict, megabytes: float) -> str:
    """The Markdown text."""
    v, t = card["validation"], card["training"]
    return TEMPLATE.format(
        v=v, block=card["input"]["block"], step=card["input"]["step_mm"],
        parameters=card["parameters"] / 1e6, opset=card["opset"], megabytes=megabytes,
        sha256=card["sha256"], samples=t["samples"], seed=t["seed"], command=t["command"],
        commit=t["commit"], steps=t["steps"], history=t.get("history", ""),
        recall=100 * v["recall"], precision=100 * v["precision"], order=100 * v["order_wrong"],
        sacrum=100 * v["sacrum_wrong"], named=100 * v["named"], wrong=100 * v["wrongly_named"],
        asked=100 * v["asked_needlessly"],
    )  # fmt: skip
