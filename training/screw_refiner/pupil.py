# SPDX-License-Identifier: Apache-2.0
"""The refiners of heads and of rods at school; both learn from the finder's pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from spine_perception.core.backends import ONNX_FP32
from spine_perception.core.inference import OnnxModel
from stereo_screw_tracker.core.crops import normalise
from stereo_screw_tracker.core.refiner import sigma_scale
from training.pupil import Pupil
from training.screw_finder.pupil import MATERIAL
from training.screw_finder.pupil import PUPIL as FINDER
from training.screw_refiner import mine
from training.screw_refiner.augment import photometric
from training.screw_refiner.dataset import (
    IGNORE,
    StereoPair,
    find_pairs,
    head_samples,
    load_pair,
    rod_samples,
)
from training.screw_refiner.evaluate import CORE, EVALUATE, chosen
from training.screw_refiner.export import NETS, publish
from training.screw_refiner.network import TorchRefiner

REFRESH = 50  # batches between two looks at what the generator has written meanwhile
BATCH, EACH = 64, 4  # crops, and how many of them from one pair
MODELS = {"head": "screw_refiner", "rod": "rod_refiner"}


@dataclass(frozen=True)
class Batch:
    """x (B, 2, n, n) normalised; target per crop (B, 7) shift and axis, or (B, 2) rod offset;
    present and weight (B,), or (B, 2) per eye."""

    x: torch.Tensor
    target: torch.Tensor
    present: torch.Tensor
    weight: torch.Tensor


def _tensor(a: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(a, np.float32))


def head_batch(pairs: list[StereoPair], each: int, rng: np.random.Generator) -> Batch:
    """`each` varied, mirrored crops of every pair."""
    parts = [head_samples(pair, each, rng) for pair in pairs]
    x, covered = photometric(np.concatenate([p[0] for p in parts]), rng)
    x = normalise(x)
    present = np.concatenate([p[1].present for p in parts])
    present = np.where(covered & (present == 1.0), IGNORE, present)
    weight = np.concatenate([p[1].weight for p in parts])
    target = np.concatenate([np.hstack([p[1].shift, p[1].axis]) for p in parts])
    # u, v, disparity, row difference, axis: a mirror across also swaps the eyes.
    across, down = rng.random(len(x)) < 0.5, rng.random(len(x)) < 0.5
    x[across] = x[across][:, ::-1, :, ::-1]
    x[down] = x[down][:, :, ::-1]
    target[across] *= [-1, 1, 1, -1, -1, 1, 1]
    target[down] *= [1, -1, 1, -1, 1, -1, 1]
    return Batch(_tensor(x), _tensor(target), _tensor(present), _tensor(weight))


def rod_batch(pairs: list[StereoPair], each: int, rng: np.random.Generator) -> Batch:
    """`each` varied, mirrored crops of every pair."""
    parts = [rod_samples(pair, each, rng) for pair in pairs]
    x, covered = photometric(np.concatenate([p[0] for p in parts]), rng)
    x = normalise(x)
    target = np.concatenate([p[1].offset for p in parts])
    present = np.concatenate([p[1].present for p in parts])
    weight = (present == 1.0).astype(float)
    present = np.where(covered[:, None] & (present == 1.0), IGNORE, present)
    across, down = rng.random(len(x)) < 0.5, rng.random(len(x)) < 0.5
    x[across] = x[across][..., ::-1]  # each eye by itself: the crops are turned, not rectified
    x[down] = x[down][:, :, ::-1]
    target[across] *= -1
    return Batch(_tensor(x), _tensor(target), _tensor(present), _tensor(weight))


def laplace(error: torch.Tensor, log_width: torch.Tensor) -> torch.Tensor:
    """Negative log likelihood of |error|, with the width kept from running away with far misses."""
    return error.abs() * torch.exp(-log_width) + log_width


def presence_loss(logit: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Cross entropy where presence is certain."""
    known = (present != IGNORE).float()
    bce = nn.functional.binary_cross_entropy_with_logits(
        logit, present.clamp(min=0.0), reduction="none"
    )
    return (bce * known).sum() / known.sum().clamp(min=1.0)


def head_losses(y: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
    """Weighted terms of (B, 13) answers; plain L1 beside the likelihood keeps hard crops teaching."""
    weight = batch.weight / batch.weight.sum().clamp(min=1.0)
    error = y[:, :4] - batch.target[:, :4]
    likely = laplace(error, y[:, 4:8])
    cosine = (y[:, 8:11] * batch.target[:, 4:]).sum(dim=1).clamp(-1.0, 1.0)
    chord = torch.sqrt(2.0 * (1.0 - cosine) + 1e-8)
    axis = chord * torch.exp(-y[:, 11]) + 2.0 * y[:, 11]
    share = torch.tensor([1.0, 1.0, 2.0, 0.5])
    return {
        "shift": 0.5 * (likely * share).sum(dim=1) @ weight,
        "l1": 0.4 * (error.abs() * share).sum(dim=1) @ weight,
        "axis": axis @ weight,
        "chord": 2.0 * chord @ weight,
        "presence": 2.0 * presence_loss(y[:, 12], batch.present),
    }


def rod_losses(y: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
    """Weighted terms of (B, 2, 3) answers."""
    weight = batch.weight / batch.weight.sum().clamp(min=1.0)
    error = y[..., 0] - batch.target
    return {
        "shift": (laplace(error, y[..., 1]) * weight).sum(),
        "l1": (error.abs() * weight).sum(),
        "presence": 2.0 * presence_loss(y[..., 2], batch.present),
    }


BATCHES = {"head": head_batch, "rod": rod_batch}
LOSSES = {"head": head_losses, "rod": rod_losses}


class Crops:
    """Varied crops of random pairs of those that exist now."""

    def __init__(
        self, folder: Path, rng: np.random.Generator, kind: str, batch=BATCH, each=EACH
    ) -> None:
        self._folder, self._rng, self._kind = folder, rng, kind
        self._pairs, self._each, self._draws = batch // each, each, 0
        self._paths = find_pairs(folder)

    def __len__(self) -> int:
        return len(self._paths)

    def batch(self) -> tuple[torch.Tensor, Batch]:
        """`each` crops of every drawn pair."""
        if self._draws % REFRESH == 0:
            self._paths = find_pairs(self._folder)
            if not self._paths:
                raise FileNotFoundError(
                    f"{self._folder}: no pairs; run python -m training.screw_finder.generate"
                )
        self._draws += 1
        at = self._rng.integers(len(self._paths), size=self._pairs)
        batch = BATCHES[self._kind]([load_pair(self._paths[i]) for i in at], self._each, self._rng)
        return batch.x, batch

    def tell(self, batch: Batch, outputs: torch.Tensor) -> None:
        """Nothing: what is hard for them is mined from the finder's mistakes."""


def judge(network: nn.Module | Path, folder: Path, limit: int, kind: str) -> dict:
    """The report of `EVALUATE` for a module in training or an exported model."""
    pairs = chosen(folder, limit)
    if not isinstance(network, Path):
        return EVALUATE[kind](TorchRefiner(network), pairs)[0]
    model = OnnxModel(network, CORE[kind].MODEL_INPUT, ONNX_FP32)
    scale = sigma_scale(model.card, CORE[kind].SCALED, network)
    return EVALUATE[kind](model, pairs, scale)[0]


def errors(report: dict) -> dict[str, float]:
    """What should become small; measures by name, such as error_mm_mean."""
    out = {"false_at_98": report["presence"].get("false_at_98", float("nan"))}
    for name, values in report.items():
        if isinstance(values, dict) and "median" in values:
            out |= {f"{name}_{k}": values[k] for k in ("mean", "median", "p95")}
    return out


def finders_mistakes(folder: Path) -> Iterator[None]:
    """Where the finder sees heads, rightly or not, in every pair that has not been looked at."""
    if find_pairs(folder):
        yield from mine.mine(folder)
        load_pair.cache_clear()  # what was read before knew nothing of it


TARGETS = {
    "head": {
        "false_at_98": 0.01,
        "error_mm_mean": 1.0,
        "error_mm_median": 0.6,
        "disparity_px_median": 0.15,
        "axis_deg_median": 2.5,
    },
    "rod": {"false_at_98": 0.02, "offset_px_mean": 0.25, "offset_px_median": 0.12},
}


def _pupil(kind: str) -> Pupil:
    return Pupil(
        name=MODELS[kind],
        material=MATERIAL,
        net=NETS[kind],
        stream=partial(Crops, kind=kind),
        losses=LOSSES[kind],
        judge=partial(judge, kind=kind),
        errors=errors,
        targets=TARGETS[kind],
        publish=partial(publish, kind=kind),
        enough=1500,
        reuse=120.0,
        exam=24,
        refit=FINDER.refit if kind == "head" else (),
        prepare=finders_mistakes if kind == "head" else None,
    )


HEAD, ROD = _pupil("head"), _pupil("rod")
