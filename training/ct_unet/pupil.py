# SPDX-License-Identifier: Apache-2.0
"""The CT U-Net at school: its losses, its batches, and how far it is from what it should know."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from spine_perception.core.backends import ONNX_FP32
from spine_planning.core.classical import classical_vertebrae
from spine_planning.core.ct_network import MASKS, CtNetwork, OnnxCtNetwork
from spine_planning.core.vertebrae import find_vertebrae
from training.ct_unet import generate
from training.ct_unet.dataset import make_sample
from training.ct_unet.evaluate import evaluate
from training.ct_unet.export import publish
from training.ct_unet.network import CtUNet, TorchNetwork
from training.deck import Deck
from training.pupil import Material, Pupil

REFRESH = 60  # draws between two looks at what was generated meanwhile
BATCH, CUTS = 4, 2  # samples; of one unit share the cost of reading it
KEYS = ("x", "masks", "weight", "vectors", "holds")
IMPORTANCE = {"vertebra": 1.0, "sacrum": 0.5, "rib": 0.4}
# What may be shipped at all, whatever it is better than: a plan rests on it.
LIMITS = {"lost": 0.15, "missed": 0.08, "false": 0.08, "wrongly_named": 0.0}


def losses(
    outputs: tuple[torch.Tensor, torch.Tensor], batch: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Cross entropy and soft Dice of each mask inside the scan; votes on vertebrae alone."""
    masks, vectors = outputs[0].float(), outputs[1].float()
    out = {}
    weight = batch["weight"]
    for index, name in enumerate(MASKS):
        logit, target = masks[:, index], batch["masks"][:, index]
        balance = weight * torch.where(target > 0.5, 2.0, 1.0)
        bce = torch.nn.functional.binary_cross_entropy_with_logits(logit, target, reduction="none")
        out[name] = 2.0 * IMPORTANCE[name] * (bce * balance).sum() / balance.sum().clamp(min=1.0)
        p = torch.sigmoid(logit) * weight
        overlap = 2.0 * (p * target).sum() + 100.0
        dice = 1.0 - overlap / (p.sum() + (target * weight).sum() + 100.0)
        out[f"{name}_dice"] = 0.5 * IMPORTANCE[name] * dice
    holds = batch["holds"]
    miss = torch.nn.functional.smooth_l1_loss(
        vectors, batch["vectors"], reduction="none", beta=0.1
    ).sum(dim=1)
    out["centre"] = (miss * holds).sum() / holds.sum().clamp(min=1.0)
    return out


class Scans:
    """Batches of patches; see `Deck` for which units they are of."""

    def __init__(self, folder: Path, rng: np.random.Generator) -> None:
        self._folder, self._rng = folder, rng
        self._deck, self._draws = Deck(rng), 0
        self._deck.deal(generate.find_units(folder))

    def __len__(self) -> int:
        return generate.VIEWS * len(self._deck)

    def batch(self) -> tuple[torch.Tensor, dict]:
        """BATCH samples, CUTS of each unit."""
        samples, paths = [], []
        while len(samples) < BATCH:
            if self._draws % REFRESH == 0:
                self._deck.deal(generate.find_units(self._folder))
            self._draws += 1
            path = self._deck.draw()
            unit = generate.load_unit(path)
            for _ in range(min(CUTS, BATCH - len(samples))):
                samples.append(make_sample(unit, self._rng))
                paths.append(path)
        batch: dict = {
            key: torch.from_numpy(np.stack([getattr(s, key) for s in samples])) for key in KEYS
        }
        batch["paths"] = paths
        return batch["x"], batch

    def tell(self, batch: dict, outputs: tuple[torch.Tensor, ...]) -> None:
        """Share of the vertebra that is called wrongly."""
        with torch.no_grad():
            truth = batch["masks"][:, 0] > 0.5
            wrong = ((outputs[0][:, 0] > 0) != truth) * batch["weight"]
            share = wrong.sum(dim=(1, 2, 3)) / (truth.sum(dim=(1, 2, 3)) + 2000.0)
        self._deck.tell(batch["paths"], share.tolist())


def judge(network: torch.nn.Module | Path, folder: Path, limit: int) -> dict:
    """`evaluate` for a module in training or an exported model."""
    asked: CtNetwork
    if isinstance(network, Path):
        asked = OnnxCtNetwork(network, ONNX_FP32, 1)
    else:
        asked = TorchNetwork(network)
    return evaluate(lambda hu: find_vertebrae(hu, asked), folder, limit)


@lru_cache
def peer(folder: Path) -> dict:
    """Threshold and watershed on the same scans."""
    return evaluate(classical_vertebrae, folder)


def errors(report: dict) -> dict[str, float]:
    """What should become small."""
    return {
        "lost": 1.0 - report["dice"],
        "lost_of_found": 1.0 - report["dice_found"],
        "missed": 1.0 - report["recall"],
        "false": 1.0 - report["precision"],
        **{k: report[k] for k in ("order_wrong", "sacrum_wrong", "wrongly_named")},
        "asked_needlessly": report["asked_needlessly"],
    }


def gate(shipped: Path, new: Path) -> list[str]:
    """What forbids to ship a network at all, whatever it is better than."""
    found = errors(json.loads(new.with_suffix(".json").read_text(encoding="utf-8"))["validation"])
    return [
        f"{name} is {found[name]:.3f}, and no network with more than {most:g} is shipped"
        for name, most in LIMITS.items()
        if not found[name] <= most
    ]


MATERIAL = Material(
    folder="ct",
    make=generate.make_unit,
    made=generate.units_made,
    count=lambda folder: generate.VIEWS * len(generate.find_units(folder)),
    validation_units=24,
    training_units=90000,
)
PUPIL = Pupil(
    name="ct_unet",
    material=MATERIAL,
    net=CtUNet,
    stream=Scans,
    losses=losses,
    judge=judge,
    errors=errors,
    targets={
        "lost": 0.05,
        "missed": 0.02,
        "false": 0.01,
        "order_wrong": 0.01,
        "sacrum_wrong": 0.02,
        "wrongly_named": 0.005,
        "asked_needlessly": 0.10,
    },
    publish=publish,
    gate=gate,
    peer=peer,
    weight=1.0,
    rate=2e-3,
    average=0.998,
    enough=12 * generate.VIEWS,
    reuse=8.0,
    exam=8,
)
