# SPDX-License-Identifier: Apache-2.0
"""Train the screw finder on rendered stereo pairs; resumable, seeded, logs one JSON line per report.

    python -m training.screw_finder.train --run training/runs/stereo_finder --minutes 60 [--resume]

New pairs that the generator writes meanwhile are picked up. --mono trains the peer that sees one
image alone.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import signal
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional

from training.screw_finder.dataset import (
    Pair,
    Sample,
    find_pairs,
    keep_small,
    make_sample,
    read_pair,
)
from training.screw_finder.evaluate import evaluate
from training.screw_finder.network import ScrewFinder, TorchFinder
from training.spine_unet.train import save_checkpoint

REFRESH_STEPS = 40  # between two looks at what the generator has written meanwhile
MODELS = Path(__file__).parents[2] / "models"


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
    p = torch.sigmoid(logit).clamp(1e-5, 1 - 1e-5)
    peak = (heat == 1.0).float()
    hit = -torch.log(p) * (1 - p) ** 2 * peak
    miss = -torch.log(1 - p) * p**2 * (1 - heat) ** 4 * (1 - peak)
    return ((hit + miss) * weight).sum() / (peak * weight).sum().clamp(min=1.0)


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
    """Augmented batches from the pairs that exist now; each is read from disk once."""

    def __init__(self, folder: Path, rows: int, seed: int) -> None:
        self._folder, self._rows, self._rng = folder, rows, np.random.default_rng(seed)
        self._kept: dict[Path, Pair] = {}
        self._order: list[Path] = []

    def __len__(self) -> int:
        return len(self._kept)

    def refresh(self) -> None:
        """Read what is new. Raises FileNotFoundError if there is nothing at all."""
        for path in find_pairs(self._folder):
            if path not in self._kept:
                self._kept[path] = keep_small(read_pair(path))
        if not self._kept:
            raise FileNotFoundError(
                f"{self._folder}: no pairs; run python -m training.screw_finder.generate"
            )

    def batch(self, n: int) -> dict[str, torch.Tensor]:
        """n samples, every pair once before any comes again."""
        samples = []
        for _ in range(n):
            if not self._order:
                self._order = list(self._kept)
                self._rng.shuffle(self._order)
            samples.append(make_sample(self._kept[self._order.pop()], self._rng, self._rows))
        return {
            name: torch.from_numpy(np.stack([getattr(s, name) for s in samples]))
            for name in Sample.__dataclass_fields__
        }


def learning_rate(progress: float, step: int, peak: float) -> float:
    """Linear warm-up over 100 steps, then a cosine of the run's progress to 1 % of the peak."""
    warm = min(1.0, (step + 1) / 100)
    return peak * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def train(args: argparse.Namespace) -> dict:
    """Run until `minutes` or `steps` are used up; returns the last report."""
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    torch.manual_seed(args.seed)
    args.run.mkdir(parents=True, exist_ok=True)
    checkpoint = args.run / "checkpoint.pt"
    net = ScrewFinder(mono=args.mono).to(memory_format=torch.channels_last)
    average = copy.deepcopy(net).eval()
    optimiser = torch.optim.AdamW(net.parameters(), lr=args.lr, weight_decay=0.01)
    step = samples = 0
    committed = MODELS / ("screw_finder_mono.pt" if args.mono else "screw_finder.pt")
    begin = checkpoint if checkpoint.exists() else committed
    if args.resume and begin.exists():
        state = torch.load(begin, map_location="cpu", weights_only=True)
        net.load_state_dict(state["net"])
        average.load_state_dict(state["ema"])
        if "optimiser" in state:  # the committed checkpoint leaves it out, for its size
            optimiser.load_state_dict(state["optimiser"])
        step, samples = state["step"], state["samples"]
    elif args.begin:
        _take(net, torch.load(args.begin, map_location="cpu", weights_only=True)["ema"])
        _take(average, net.state_dict())
    pairs = Pairs(args.data / "train", args.rows, args.seed * 100003 + step)
    begun, first_step = time.monotonic(), step
    last_saved = last_judged = begun
    report: dict = {}

    def progress() -> float:
        minutes = (time.monotonic() - begun) / 60
        done = args.elapsed + minutes
        by_time = done / (args.elapsed + args.minutes) if args.minutes else 0.0
        return max(by_time, (step / args.steps) if args.steps else 0.0)

    while progress() < 1.0:
        net.train()
        totals: dict[str, float] = {}
        start, n = time.perf_counter(), 0
        while n < args.report and progress() < 1.0:
            if (step - first_step) % REFRESH_STEPS == 0:
                pairs.refresh()
            batch = pairs.batch(args.batch)
            lr = learning_rate(progress(), step, args.lr)
            for group in optimiser.param_groups:
                group["lr"] = lr
            x = batch["x"].to(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                outputs = net(x)
            terms = losses(outputs, batch)
            loss = torch.stack(list(terms.values())).sum()
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimiser.step()
            step, n, samples = step + 1, n + 1, samples + args.batch
            _average(average, net, min(0.998, (1 + step) / (10 + step)))
            for name, value in terms.items():
                totals[name] = totals.get(name, 0.0) + float(value.detach())
        report = {
            "step": step,
            "samples": samples,
            "lr": round(lr, 7),
            "pairs": len(pairs),
            "samples_per_s": round(n * args.batch / (time.perf_counter() - start), 1),
            "loss": {name: round(value / n, 4) for name, value in totals.items()},
        }
        now, over = time.monotonic(), progress() >= 1.0
        if over or now - last_judged > 60 * args.validate_minutes:
            last_judged = now
            if find_pairs(args.data / "validation"):
                report["val"] = evaluate(
                    TorchFinder(average), args.data / "validation", args.val_pairs, mono=args.mono
                )
        if over or now - last_saved > 60 * args.save_minutes or "val" in report:
            last_saved = now
            save_checkpoint(
                checkpoint,
                {
                    "net": net.state_dict(),
                    "ema": average.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "step": step,
                    "samples": samples,
                    "seed": args.seed,
                    "mono": args.mono,
                    "report": report,
                },
            )
        with (args.run / "log.jsonl").open("a") as log:
            log.write(json.dumps(report) + "\n")
        print(json.dumps(report), flush=True)
    return report


def _take(net: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Take over every tensor that the network has in the same shape."""
    own = net.state_dict()
    fitting = {k: v.float() if v.dtype == torch.half else v for k, v in weights.items()
               if k in own and own[k].shape == v.shape}  # fmt: skip
    net.load_state_dict(own | fitting)


def _average(average: torch.nn.Module, net: torch.nn.Module, decay: float) -> None:
    with torch.no_grad():
        for kept, new in zip(average.state_dict().values(), net.state_dict().values(), strict=True):
            if kept.dtype.is_floating_point:
                kept.lerp_(new, 1.0 - decay)
            else:
                kept.copy_(new)


def parser() -> argparse.ArgumentParser:
    """Command line of this script."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--data", type=Path, default=Path("training/data_stereo"))
    p.add_argument("--run", type=Path, required=True)
    p.add_argument("--minutes", type=float, default=0.0, help="wall-clock time of this call")
    p.add_argument(
        "--elapsed",
        type=float,
        default=0.0,
        help="minutes that earlier calls used, for the learning rate",
    )
    p.add_argument("--steps", type=int, default=0)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--rows", type=int, default=256, help="of the grid's 480; a multiple of 32")
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--report", type=int, default=50, help="steps between reports")
    p.add_argument("--validate-minutes", type=float, default=5.0)
    p.add_argument("--save-minutes", type=float, default=2.5)
    p.add_argument("--val-pairs", type=int, default=60)
    p.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    p.add_argument("--mono", action="store_true")
    p.add_argument("--begin", type=Path, help="checkpoint whose fitting weights are a first guess")
    p.add_argument("--resume", action="store_true")
    return p


if __name__ == "__main__":
    # Leave by an exception, so that open files are closed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    arguments = parser().parse_args()
    if not arguments.minutes and not arguments.steps:
        parser().error("give --minutes or --steps")
    train(arguments)
