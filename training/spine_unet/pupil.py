# SPDX-License-Identifier: Apache-2.0
"""The spine U-Net at school: its losses, its batches, and how far it is from what it should know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from spine_perception.core.backends import ONNX_FP32
from spine_perception.core.inference import OnnxNetwork
from training.deck import Deck
from training.pupil import Material, Pupil
from training.spine_unet import generate
from training.spine_unet.dataset import find_views, load_view, make_sample, random_grid
from training.spine_unet.evaluate import evaluate
from training.spine_unet.export import publish
from training.spine_unet.gate import gate
from training.spine_unet.network import SpineUNet, TorchNetwork

REFRESH = 400  # draws between two looks at what the generator has written meanwhile
# Cells per side and samples per batch, and how often: the run time looks at 224; small ones are
# cheaper per view, and vary more.
SIZES, SHARES = ((128, 16), (160, 10), (224, 6)), (0.5, 0.2, 0.3)
CUTS = 2  # of one view share the cost of reading it
KEYS = ("x", "bone", "clean", "weight", "vectors", "holds")


def losses(
    masks: torch.Tensor, vectors: torch.Tensor, batch: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Weighted loss terms: masks on cells with depth, vectors on bone alone."""
    out = {}
    weight = batch["weight"]
    for index, name in enumerate(("bone", "clean")):
        logit, target = masks[:, index].float(), batch[name]
        balance = weight * torch.where(target > 0.5, 2.0, 1.0)
        bce = torch.nn.functional.binary_cross_entropy_with_logits(logit, target, reduction="none")
        out[name] = (bce * balance).sum() / balance.sum().clamp(min=1.0)
        p = torch.sigmoid(logit) * weight
        overlap = 2 * (p * target).sum() + 1.0
        out[f"{name}_dice"] = 0.5 * (1 - overlap / (p.sum() + (target * weight).sum() + 1.0))
    holds = batch["holds"]
    count = holds.sum().clamp(min=1.0)
    vectors, target = vectors.float(), batch["vectors"]
    miss = torch.nn.functional.smooth_l1_loss(
        vectors[:, :3], target[:, :3], reduction="none", beta=0.1
    ).sum(dim=1)
    out["centre"] = 3.0 * (miss * holds).sum() / count
    for name, part in (("cranial", slice(3, 6)), ("dorsal", slice(6, 9))):
        cosine = torch.nn.functional.cosine_similarity(vectors[:, part], target[:, part], dim=1)
        length = (vectors[:, part].norm(dim=1) - 1.0).abs()
        # The square teaches the axis while its sense is still a guess and 1 - cosine says nothing.
        miss = 1.0 - cosine + 0.5 * (1.0 - cosine**2) + 0.05 * length
        out[name] = (miss * holds).sum() / count
    return out


def coarse_loss(cranial: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The cranial direction at a coarse scale (B, 3, h, w), where bone is in the cell."""
    cells = batch["vectors"].shape[-1] // cranial.shape[-1]
    pool = torch.nn.functional.avg_pool2d
    weight = pool(batch["holds"][:, None], cells)[:, 0]
    target = pool(batch["vectors"][:, 3:6], cells)  # zero where it does not hold
    cosine = torch.nn.functional.cosine_similarity(cranial.float(), target, dim=1)
    return 0.5 * ((1.0 - cosine) * weight).sum() / weight.sum().clamp(min=1e-3)


def all_losses(outputs: tuple[torch.Tensor, ...], batch: dict[str, torch.Tensor]) -> dict:
    """Terms of everything that the network says in training."""
    masks, vectors, *coarse = outputs
    terms = losses(masks, vectors, batch)
    terms["coarse"] = sum(coarse_loss(c, batch) for c in coarse)
    return terms


class Views:
    """Augmented batches; see `Deck` for which views they are of."""

    def __init__(self, folder: Path, rng: np.random.Generator, sizes=SIZES, shares=SHARES) -> None:
        self._folder, self._rng, self._sizes, self._shares = folder, rng, sizes, shares
        self._deck, self._draws = Deck(rng), 0
        self._deck.deal(find_views(folder))

    def __len__(self) -> int:
        return len(self._deck)

    def _next(self) -> Path:
        if self._draws % REFRESH == 0:
            self._deck.deal(find_views(self._folder))
        self._draws += 1
        if not len(self._deck):
            raise FileNotFoundError(
                f"{self._folder}: no views; run python -m training.spine_unet.generate"
            )
        return self._deck.draw()

    def batch(self) -> tuple[torch.Tensor, dict]:
        """One size for the whole batch."""
        size, n = self._sizes[self._rng.choice(len(self._sizes), p=self._shares)]
        samples, paths = [], []
        while len(samples) < n:
            path = self._next()
            view = load_view(path)
            for _ in range(min(CUTS, n - len(samples))):
                grid = random_grid(self._rng, view, size)
                samples.append(make_sample(view, grid, size, self._rng, augment=True))
                paths.append(path)
        batch: dict = {
            key: torch.from_numpy(np.stack([getattr(s, key) for s in samples])) for key in KEYS
        }
        batch["paths"] = paths
        return batch["x"], batch

    def tell(self, batch: dict, outputs: tuple[torch.Tensor, ...]) -> None:
        """Share of the bone that is called wrongly, or turned by more than 45 degrees."""
        with torch.no_grad():
            wrong = ((outputs[0][:, 0] > 0) != (batch["bone"] > 0.5)) * batch["weight"]
            called = wrong.sum(dim=(1, 2)) / (batch["bone"].sum(dim=(1, 2)) + 100.0)
            cosine = torch.nn.functional.cosine_similarity(
                outputs[1][:, 3:6].float(), batch["vectors"][:, 3:6], dim=1
            )
            holds = batch["holds"]
            turned = ((cosine < 0.7) * holds).sum(dim=(1, 2)) / (holds.sum(dim=(1, 2)) + 25.0)
        self._deck.tell(batch["paths"], (called + turned).tolist())


def judge(network: torch.nn.Module | Path, folder: Path, limit: int) -> dict:
    """`evaluate` for a module in training or an exported model."""
    if isinstance(network, Path):
        return evaluate(OnnxNetwork(network, ONNX_FP32), folder, limit)
    return evaluate(TorchNetwork(network), folder, limit)


def errors(report: dict) -> dict[str, float]:
    """What should become small."""
    lost = {
        "missed": 1.0 - report["recall"],
        "false": 1.0 - report["precision"],
        "bone": 1.0 - report["bone_iou"],
        "clean": 1.0 - report["clean_iou"],
        "upside_down": report["wrong_way_round"],
    }
    return lost | {k: v for k, v in report.items() if k.endswith(("_median", "_p95"))}


MATERIAL = Material(
    folder="views",
    make=generate.make_unit,
    made=generate.units_made,
    count=lambda folder: len(find_views(folder)),
    validation_units=42,
    training_units=90000,
)
ERROR_MODEL = "src/spine_registration/spine_registration/error_model.json"
PUPIL = Pupil(
    name="spine_unet",
    material=MATERIAL,
    net=SpineUNet,
    stream=Views,
    losses=all_losses,
    judge=judge,
    errors=errors,
    targets={
        "missed": 0.03,
        "false": 0.05,
        "bone": 0.10,
        "clean": 0.25,
        "upside_down": 0.01,
        "centre_mm_median": 2.0,
        "rotation_deg_median": 6.0,
        "dorsal_deg_median": 4.0,
        "vote_mm_median": 3.0,
    },
    publish=publish,
    gate=gate,
    weight=2.0,
    enough=800,
    exam=80,
    refit=(
        "training.spine_unet.quantise",
        f"training.calibration.fit_error --cache {{data}}/calibrate --out {ERROR_MODEL}",
    ),
)
