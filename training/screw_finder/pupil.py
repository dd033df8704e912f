# SPDX-License-Identifier: Apache-2.0
"""The screw finder at school, and the peer that sees one image alone (taught when asked for)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from spine_perception.core.backends import ONNX_FP32
from stereo_screw_tracker.core.finder import Finder
from stereo_screw_tracker.core.finder_mono import MonoFinder
from training.deck import Deck
from training.pupil import Material, Pupil
from training.screw_finder import generate
from training.screw_finder.dataset import (
    Pair,
    Sample,
    find_pairs,
    keep_small,
    make_sample,
    read_pair,
)
from training.screw_finder.evaluate import evaluate
from training.screw_finder.export import publish
from training.screw_finder.network import ScrewFinder, TorchFinder

REFRESH = 40  # batches between two looks at what the generator has written meanwhile
BATCH, ROWS = 16, 256  # rows of the grid's 480, a multiple of 32
MOST_KEPT = 4000  # pairs in memory, about 0.6 MB each


def losses(outputs: tuple[torch.Tensor, ...], batch: dict[str, torch.Tensor]) -> dict:
    """Weighted loss terms of maps (and volumes, where the network has them)."""
    maps = outputs[0].float()
    out = {"head": _heat_loss(maps[:, 0], batch["heat"], batch["heat_weight"])}
    out["head_place"] = _vector_loss(maps[:, 1:3], batch["head_vector"], batch["head_on"])
    out["rod"] = _mask_loss(maps[:, 3], batch["rod"], batch["rod_weight"])
    out["rod_place"] = _vector_loss(maps[:, 4:6], batch["rod_vector"][:, :2], batch["rod_on"])
    out["rod_way"] = 0.5 * _vector_loss(maps[:, 6:10], batch["rod_vector"][:, 2:], batch["rod_on"])
    for name, volume in zip(("head", "rod"), outputs[1:], strict=False):
        weight = batch[f"{name}_bin_on"]
        # A rod has many more cells than a head, but is no more important.
        out[f"{name}_disparity"] = _bin_loss(volume, batch[f"{name}_bin"], weight)
    return out


def _heat_loss(logit: torch.Tensor, heat: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """CenterNet's focal loss, per head."""
    loss, peaks = _heat_terms(logit, heat, weight)
    return loss.sum() / peaks.sum().clamp(min=1.0)


def _heat_terms(
    logit: torch.Tensor, heat: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The focal loss of each cell, and where heads are."""
    p = torch.sigmoid(logit.float()).clamp(1e-5, 1 - 1e-5)
    peak = (heat == 1.0).float()
    hit = -torch.log(p) * (1 - p) ** 2 * peak
    miss = -torch.log(1 - p) * p**2 * (1 - heat) ** 4 * (1 - peak)
    return (hit + miss) * weight, peak * weight


def _mask_loss(logit: torch.Tensor, there: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Cross entropy per cell that should be said, and the overlap (Dice): rods fill few cells."""
    bce = functional.binary_cross_entropy_with_logits(logit, there, reduction="none") * weight
    p = torch.sigmoid(logit) * weight
    said, wanted = p.sum(), (there * weight).sum()
    dice = 1 - (2 * (p * there).sum() + 1) / (said + wanted + 1)
    return 0.5 * bce.sum() / wanted.clamp(min=100.0) + dice


def _vector_loss(got: torch.Tensor, wanted: torch.Tensor, on: torch.Tensor) -> torch.Tensor:
    miss = functional.smooth_l1_loss(got, wanted, reduction="none", beta=0.2).sum(dim=1)
    return (miss * on).sum() / on.sum().clamp(min=1.0)


def _bin_loss(volume: torch.Tensor, bins: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Cross entropy with the two bins about the truth, and the miss of their local mean."""
    at = weight > 0
    if not at.any():
        return volume.sum() * 0.0
    logits, truth, w = volume.permute(0, 2, 3, 1)[at].float(), bins[at], weight[at]
    lower = truth.floor().long().clamp(0, logits.shape[1] - 2)
    upper_share = (truth - lower)[:, None]
    log_p = torch.log_softmax(logits, dim=1)
    pair = log_p.gather(1, torch.stack([lower, lower + 1], dim=1))
    entropy = -(pair[:, :1] * (1 - upper_share) + pair[:, 1:] * upper_share)[:, 0]
    count = torch.arange(logits.shape[1])
    near = (count - truth[:, None]).abs() <= 2.5
    p = torch.softmax(logits.masked_fill(~near, -1e4), dim=1)
    miss = functional.smooth_l1_loss((p * count).sum(dim=1), truth, reduction="none", beta=0.2)
    return ((0.5 * entropy + miss) * w).sum() / w.sum()


class Pairs:
    """Augmented batches, each pair read from disk once; see `Deck` for which pairs they are of."""

    def __init__(self, folder: Path, rng: np.random.Generator, batch=BATCH, rows=ROWS) -> None:
        self._folder, self._rng, self._batch, self._rows = folder, rng, batch, rows
        self._kept: dict[Path, Pair] = {}
        self._deck = Deck(rng)
        self._batches = 0

    def __len__(self) -> int:
        return len(find_pairs(self._folder))

    def _refresh(self) -> None:
        paths = find_pairs(self._folder)
        if not paths:
            raise FileNotFoundError(
                f"{self._folder}: no pairs; run python -m training.screw_finder.generate"
            )
        fresh = [p for p in paths if p not in self._kept]
        if len(paths) > MOST_KEPT:
            # Another part of them each time; what is kept of the old goes on being used.
            fresh = list(self._rng.permutation(np.array(fresh, object))[: MOST_KEPT // 20])
            for path in list(self._kept)[: max(0, len(self._kept) + len(fresh) - MOST_KEPT)]:
                del self._kept[path]
        for path in fresh:
            self._kept[path] = keep_small(read_pair(path))
        self._deck.deal(self._kept)

    def batch(self) -> tuple[torch.Tensor, dict]:
        """Samples of so many pairs."""
        if self._batches % REFRESH == 0:
            self._refresh()
        self._batches += 1
        paths = [self._deck.draw() for _ in range(self._batch)]
        samples = [make_sample(self._kept[p], self._rng, self._rows) for p in paths]
        batch: dict = {
            name: torch.from_numpy(np.stack([getattr(s, name) for s in samples]))
            for name in Sample.__dataclass_fields__
        }
        batch["paths"] = paths
        return batch["x"], batch

    def tell(self, batch: dict, outputs: tuple[torch.Tensor, ...]) -> None:
        """Heads that were missed or imagined."""
        with torch.no_grad():
            loss, peaks = _heat_terms(outputs[0][:, 0], batch["heat"], batch["heat_weight"])
            errors = loss.sum(dim=(1, 2)) / (peaks.sum(dim=(1, 2)) + 1.0)
        self._deck.tell(batch["paths"], errors.tolist())


def judge(network: torch.nn.Module | Path, folder: Path, limit: int, mono: bool = False) -> dict:
    """`evaluate` for a module in training or an exported model, each at its best threshold."""
    if isinstance(network, Path):
        known = (MonoFinder if mono else Finder).load(network, ONNX_FP32).network
        return evaluate(known, folder, limit, mono=mono)
    return evaluate(TorchFinder(network), folder, limit, mono=mono)


def errors(report: dict) -> dict[str, float]:
    """What should become small."""
    lost = {
        "missed": 1.0 - report["recall"],
        "false": report["false"],
        "missed_at_1pc_false": 1.0 - report["recall_at_1pc_false"],
        "rod": 1.0 - report["rod_f1"],
    }
    return lost | {k: v for k, v in report.items() if k.endswith(("_median", "_p95"))}


MATERIAL = Material(
    folder="pairs",
    make=generate.make_unit,
    made=generate.units_made,
    count=lambda folder: len(find_pairs(folder)),
    validation_units=45,
    training_units=90000 * generate.PER_ANATOMY["train"],
)
TRACKER = "src/stereo_screw_tracker/stereo_screw_tracker"
CONFIDENCE = "training.calibration.stereo_fit_confidence --data {data}/pairs/validation --out "
REFIT = (
    CONFIDENCE + f"{TRACKER}/confidence.json",
    "training.calibration.stereo_calibrate --scenes 20 --out {data}/heads.npz",
    "training.calibration.stereo_fit_bounds {data}/heads.npz --out " + f"{TRACKER}/bounds.json",
)
PUPIL = Pupil(
    name="screw_finder",
    material=MATERIAL,
    net=ScrewFinder,
    stream=Pairs,
    losses=losses,
    judge=judge,
    errors=errors,
    targets={
        "missed": 0.03,
        "false": 0.03,
        "missed_at_1pc_false": 0.05,
        "rod": 0.08,
        "left_px_median": 0.8,
        "disparity_px_median": 0.4,
        "rod_px_median": 0.4,
        "rod_disparity_px_median": 0.4,
    },
    publish=publish,
    weight=1.5,
    enough=1500,
    reuse=30.0,
    refit=REFIT,
)
MONO = replace(
    PUPIL,
    name="screw_finder_mono",
    net=partial(ScrewFinder, mono=True),
    judge=partial(judge, mono=True),
    targets={k: v for k, v in PUPIL.targets.items() if not k.endswith("disparity_px_median")},
    publish=partial(publish, mono=True),
    weight=0.0,
    refit=(),
)
