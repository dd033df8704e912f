# SPDX-License-Identifier: Apache-2.0
"""Train the head or the rod refiner on stereo pairs; resumable, seeded, one JSON line per report.

    python -m training.screw_refiner.train head --run training/runs/stereo_head --minutes 45
    python -m training.screw_refiner.train rod --run training/runs/stereo_rod --minutes 15

The learning rate falls over the minutes of this call; --resume goes on from the run's checkpoint or
else from the shipped weights. New pairs that the generator writes meanwhile are picked up.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from stereo_screw_tracker.core.crops import normalise
from training.screw_refiner.augment import photometric
from training.screw_refiner.dataset import (
    IGNORE,
    StereoPair,
    find_pairs,
    head_samples,
    load_pair,
    rod_samples,
)
from training.screw_refiner.evaluate import chosen, evaluate_heads, evaluate_rods
from training.screw_refiner.network import HeadNet, RodNet, TorchRefiner

REFRESH = 50  # steps between two looks at what the generator has written meanwhile
WARM_UP = 100  # steps
MODELS = Path(__file__).parents[2] / "models"
SHIPPED = {"head": MODELS / "screw_refiner.pt", "rod": MODELS / "rod_refiner.pt"}
"""Weights of the shipped models in half precision: a run without a checkpoint resumes from them."""


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


NETS = {"head": HeadNet, "rod": RodNet}
BATCHES = {"head": head_batch, "rod": rod_batch}
LOSSES = {"head": head_losses, "rod": rod_losses}
EVALUATE = {"head": evaluate_heads, "rod": evaluate_rods}


class Pairs:
    """The training pairs that exist now, looked up again every REFRESH draws."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._draws, self.paths = folder, 0, find_pairs(folder)
        if not self.paths:
            raise FileNotFoundError(
                f"{folder}: no pairs; run python -m training.screw_finder.generate"
            )

    def draw(self, n: int, rng: np.random.Generator) -> list[StereoPair]:
        """n random pairs."""
        self._draws += 1
        if self._draws % REFRESH == 0:
            self.paths = find_pairs(self.folder)
        return [load_pair(self.paths[i]) for i in rng.integers(len(self.paths), size=n)]


def learning_rate(step: int, progress: float, peak: float) -> float:
    """Warm-up, then constant for 40 % of the time, then a cosine to 1 % of the peak."""
    falling = min(1.0, max(0.0, (progress - 0.4) / 0.6))
    return (
        peak
        * min(1.0, (step + 1) / WARM_UP)
        * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * falling)))
    )


def save_checkpoint(path: Path, state: dict) -> None:
    """Write whole or not at all: a killed run must resume."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def follow(average: nn.Module, net: nn.Module, step: int, decay: float) -> None:
    """Move the averaged weights a step towards the net's."""
    decay = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for kept, new in zip(average.state_dict().values(), net.state_dict().values(), strict=True):
            if kept.dtype.is_floating_point:
                kept.lerp_(new, 1.0 - decay)
            else:
                kept.copy_(new)


def train(args: argparse.Namespace) -> dict:
    """Run for `minutes`, or `steps` if given; returns the last report."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.run.mkdir(parents=True, exist_ok=True)
    checkpoint = args.run / "checkpoint.pt"
    net = NETS[args.kind]().to(memory_format=torch.channels_last)
    average = copy.deepcopy(net).eval()
    optimiser = torch.optim.AdamW(net.parameters(), lr=args.lr, weight_decay=0.01, fused=True)
    step, samples = 0, 0
    begin = checkpoint if checkpoint.exists() else SHIPPED[args.kind]
    if args.resume and begin.exists():
        state = torch.load(begin, map_location="cpu", weights_only=True)
        net.load_state_dict(state["net"])
        average.load_state_dict(state["ema"])
        if "optimiser" in state:  # the shipped weights leave it out, for their size
            optimiser.load_state_dict(state["optimiser"])
        step, samples = state["step"], state["samples"]
    rng = np.random.default_rng([args.seed, step])
    pairs = Pairs(args.data / "train")
    report: dict = {}
    begun, done = time.perf_counter(), False
    first = step
    while not done:
        net.train()
        totals: dict[str, float] = {}
        start, n, data_s = time.perf_counter(), 0, 0.0
        while not done and time.perf_counter() - start < args.report_s:
            before = time.perf_counter()
            batch = BATCHES[args.kind](pairs.draw(args.batch // args.each, rng), args.each, rng)
            data_s += time.perf_counter() - before
            progress = (time.perf_counter() - begun) / (60.0 * args.minutes)
            if args.steps:
                progress = (step - first) / args.steps
            lr = learning_rate(step - first, progress, args.lr)
            for group in optimiser.param_groups:
                group["lr"] = lr
            x = batch.x.to(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                y = net(x)
            terms = LOSSES[args.kind](y, batch)
            optimiser.zero_grad()
            torch.stack(list(terms.values())).sum().backward()
            nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimiser.step()
            step, n = step + 1, n + 1
            samples += len(x)
            follow(average, net, step, args.decay)
            for name, value in terms.items():
                totals[name] = totals.get(name, 0.0) + float(value.detach())
            done = step - first >= args.steps if args.steps else progress >= 1.0
        spent = time.perf_counter() - start
        report = {
            "step": step,
            "samples": samples,
            "lr": round(lr, 7),
            "pairs": len(pairs.paths),
            "samples_per_s": round(n * args.batch / spent, 1),
            "data_share": round(data_s / spent, 3),
            "loss": {name: round(value / n, 4) for name, value in totals.items()},
        }
        held_out = args.data / "validation"
        if args.val_pairs and find_pairs(held_out):
            known = chosen(held_out, args.val_pairs)
            report["val"] = EVALUATE[args.kind](TorchRefiner(average), known)[0]
        save_checkpoint(
            checkpoint,
            {
                "net": net.state_dict(),
                "ema": average.state_dict(),
                "optimiser": optimiser.state_dict(),
                "step": step,
                "samples": samples,
                "seed": args.seed,
                "report": report,
            },
        )
        with (args.run / "log.jsonl").open("a") as log:
            log.write(json.dumps(report) + "\n")
        print(json.dumps(report), flush=True)
    return report


def parser() -> argparse.ArgumentParser:
    """Command line of this script."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("kind", choices=sorted(NETS))
    p.add_argument("--data", type=Path, default=Path("training/data_stereo"))
    p.add_argument("--run", type=Path, required=True)
    p.add_argument("--minutes", type=float, default=45.0)
    p.add_argument("--steps", type=int, default=0, help="instead of the minutes")
    p.add_argument("--batch", type=int, default=128)
    p.add_argument("--each", type=int, default=8, help="crops of one pair in a batch")
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--decay", type=float, default=0.998, help="of the averaged weights")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--report-s", type=float, default=150.0, help="seconds between reports")
    p.add_argument("--val-pairs", type=int, default=24)
    p.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    p.add_argument("--resume", action="store_true")
    return p


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    train(parser().parse_args())
