# SPDX-License-Identifier: Apache-2.0
"""Train the spine U-Net on rendered views; resumable, seeded, logs one JSON line per report.

    python -m training.spine_unet.train --data training/data --run training/runs/a --steps 12000 [--resume]

New views that the generator writes meanwhile are picked up.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import signal
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from training.spine_unet.dataset import Sample, find_views, load_view, make_sample, random_grid
from training.spine_unet.evaluate import evaluate
from training.spine_unet.network import SpineUNet, TorchNetwork

REFRESH = 800  # views between two looks at what the generator has written meanwhile
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


class Views(torch.utils.data.IterableDataset):
    """An endless stream of augmented samples from the views that exist now."""

    def __init__(self, folder: Path, size: int, seed: int) -> None:
        self.folder, self.size, self.seed = folder, size, seed

    def __iter__(self):
        cv2.setNumThreads(1)
        info = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.seed, info.id if info else 0])
        paths: list[Path] = []
        for count in itertools.count():
            if count % REFRESH == 0:
                paths = find_views(self.folder)
                if not paths:
                    raise FileNotFoundError(
                        f"{self.folder}: no views; run python -m training.spine_unet.generate"
                    )
            view = load_view(paths[rng.integers(len(paths))])
            # Two cuts of one view share the cost of reading it.
            for _ in range(2):
                sample = make_sample(
                    view, random_grid(rng, view, self.size), self.size, rng, augment=True
                )
                yield _tensors(sample)


def _end_on_signal(_: int) -> None:
    """A worker ends at once, where the main process leaves by an exception."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _tensors(sample: Sample) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(np.ascontiguousarray(getattr(sample, key))) for key in KEYS}


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 200 steps, then a cosine to 1 % of the peak."""
    if step < 200:
        return peak * (step + 1) / 200
    progress = min(1.0, (step - 200) / max(1, steps - 200))
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


COMMITTED = Path(__file__).parents[2] / "models" / "spine_unet.pt"
"""Weights of the shipped model in half precision: a run without a checkpoint resumes from them."""


def save_checkpoint(path: Path, state: dict) -> None:
    """Write whole or not at all: a killed run must resume."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def train(args: argparse.Namespace) -> dict:
    """Run until `steps`; returns the last report."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.run.mkdir(parents=True, exist_ok=True)
    checkpoint = args.run / "checkpoint.pt"
    net = SpineUNet().to(memory_format=torch.channels_last)
    average = copy.deepcopy(net).eval()
    optimiser = torch.optim.AdamW(net.parameters(), lr=args.lr, weight_decay=0.01)
    step, samples = 0, 0
    begin = checkpoint if checkpoint.exists() else COMMITTED
    if args.resume and begin.exists():
        state = torch.load(begin, map_location="cpu", weights_only=True)
        net.load_state_dict(state["net"])
        average.load_state_dict(state["ema"])
        if "optimiser" in state:  # the committed checkpoint leaves it out, for its size
            optimiser.load_state_dict(state["optimiser"])
        step, samples = state["step"], state["samples"]
    report: dict = {}
    loader = iter(
        torch.utils.data.DataLoader(
            Views(args.data / "train", args.size, args.seed * 100003 + step),
            batch_size=args.batch,
            num_workers=args.workers,
            prefetch_factor=8 if args.workers else None,
            worker_init_fn=_end_on_signal,
        )
    )
    while step < args.steps:
        net.train()
        totals: dict[str, float] = {}
        start = time.perf_counter()
        n = min(args.report, args.steps - step)
        for _ in range(n):
            batch = next(loader)
            lr = learning_rate(step, args.steps, args.lr)
            for group in optimiser.param_groups:
                group["lr"] = lr
            x = batch["x"].to(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                masks, vectors, *coarse = net(x)
            terms = losses(masks, vectors, batch)
            terms["coarse"] = sum(coarse_loss(c, batch) for c in coarse)
            loss = torch.stack(list(terms.values())).sum()
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimiser.step()
            step += 1
            samples += args.batch
            decay = min(0.998, (1 + step) / (10 + step))
            with torch.no_grad():
                for kept, new in zip(
                    average.state_dict().values(), net.state_dict().values(), strict=True
                ):
                    if kept.dtype.is_floating_point:
                        kept.lerp_(new, 1.0 - decay)
                    else:
                        kept.copy_(new)
            for name, value in terms.items():
                totals[name] = totals.get(name, 0.0) + float(value.detach()) / n
        report = {
            "step": step,
            "samples": samples,
            "lr": round(lr, 7),
            "size": args.size,
            "views": len(find_views(args.data / "train")),
            "samples_per_s": round(n * args.batch / (time.perf_counter() - start), 1),
            "loss": {name: round(value, 4) for name, value in totals.items()},
        }
        if (args.data / "validation").exists() and (
            step % args.validate == 0 or step >= args.steps
        ):
            report["val"] = evaluate(
                TorchNetwork(average), args.data / "validation", limit=args.val_views
            )
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
    p.add_argument("--data", type=Path, default=Path("training/data"))
    p.add_argument("--run", type=Path, required=True)
    p.add_argument("--steps", type=int, default=12000)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--size", type=int, default=160, help="cells; a multiple of 32")
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--workers", type=int, default=1)
    p.add_argument("--report", type=int, default=100, help="steps between reports")
    p.add_argument("--validate", type=int, default=500, help="steps between validations")
    p.add_argument("--val-views", type=int, default=80)
    p.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    p.add_argument("--resume", action="store_true")
    return p


if __name__ == "__main__":
    # Leave by an exception, so that the loader's worker ends too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    train(parser().parse_args())
