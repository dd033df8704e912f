# SPDX-License-Identifier: Apache-2.0
"""One network's way through the school: weights, optimiser, rate, and the time that it was taught.

Warm-up, then a stable rate for as long as anybody likes, with averaged weights; `decay` ends a copy
of the course at a rate of nothing. So there is a good export at any time, and no end must be known.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from spine_nav_common.core.cpu import cpu_flags
from spine_perception.core.backends import BF16_FLAGS
from training.pupil import Pupil, Stream
from training.weights import MODELS, follow, save_checkpoint

WARM_UP = 150  # steps, also after a checkpoint without the optimiser's state
CLIP = 5.0
DECAY_AVERAGE = 0.99
SEED = 1
clock = time.process_time
"""Seconds that this process has worked: time in which it was stopped, or waited for a core, is none."""


class Course:
    """A pupil's state; `home` is the folder of its checkpoints."""

    def __init__(self, pupil: Pupil, home: Path, models: Path = MODELS) -> None:
        self.pupil, self.folder = pupil, home / pupil.name
        self.net = pupil.net()
        self.average = copy.deepcopy(self.net).eval()
        self.optimiser = torch.optim.AdamW(
            self.net.parameters(), lr=pupil.rate, weight_decay=0.01, fused=True
        )
        self.step = self.samples = self.warm = 0
        self.local_samples = 0  # of views on this machine
        self.views = self.views_before = 0  # all, and those seen on other machines
        self.minutes = 0.0
        self.losses: dict[str, float] = {}
        self.per_s = 0.0
        self.mode: tuple[bool, bool] | None = None  # bf16, channels last
        committed = models / f"{pupil.name}.pt"
        if self.checkpoint.exists():
            self.load(self.checkpoint)
        elif committed.exists():
            self.load(committed)

    @property
    def checkpoint(self) -> Path:
        """Where the stable phase is kept."""
        return self.folder / "checkpoint.pt"

    def load(self, path: Path) -> None:
        """Go on from a checkpoint, of this machine or as committed."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["ema"])
        self.step, self.samples = state["step"], state["samples"]
        self.minutes = state.get("minutes", 0.0)
        self.views = self.views_before = state.get("views") or _views_of_card(path)
        if "optimiser" in state:  # the committed checkpoint leaves it out, for its size
            self.optimiser.load_state_dict(state["optimiser"])
            self.warm, self.local_samples = state["warm"], state["local_samples"]
            self.views_before = state["views_before"]

    def state(self) -> dict:
        """Everything that a later process goes on from."""
        return {
            "net": self.net.state_dict(),
            "ema": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "samples": self.samples,
            "local_samples": self.local_samples,
            "warm": self.warm,
            "views": self.views,
            "views_before": self.views_before,
            "minutes": round(self.minutes, 3),
            "seed": SEED,
        }

    def save(self, name: str = "checkpoint.pt") -> None:
        """Whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        save_checkpoint(self.folder / name, self.state())

    def learn(
        self,
        stream: Stream,
        minutes: float,
        *,
        decay: bool = False,
        stop: Callable[[], bool] = lambda: False,
        save_minutes: float = 2.0,
    ) -> None:
        """Steps for `minutes` of work; with `decay` at a rate that falls to nothing meanwhile,
        and then nothing is saved on the way. Ends early, and saved, when `stop` says so."""
        bf16, last = self.mode = self.mode or fastest_mode(self.pupil, stream)
        layout = _layout(self.net, last)
        self.net.to(memory_format=layout).train()
        totals: dict[str, float] = {}
        begun = saved = now = clock()
        first, drawn = self.step, self.samples
        self.views = self.views_before + len(stream)
        while now - begun < 60.0 * minutes and not stop():
            rate = self.pupil.rate * min(1.0, (self.warm + 1) / WARM_UP)
            if decay:
                rate *= max(0.01, 1.0 - ((now - begun) / (60.0 * minutes)) ** 0.5)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            x, batch = stream.batch()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                outputs = self.net(x.to(memory_format=layout))
            terms = self.pupil.losses(outputs, batch)
            stream.tell(batch, outputs)
            self.optimiser.zero_grad()
            torch.stack(list(terms.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), CLIP)
            self.optimiser.step()
            self.step, self.warm = self.step + 1, self.warm + 1
            self.samples, self.local_samples = self.samples + len(x), self.local_samples + len(x)
            # A falling rate averages by itself; a long memory would hold on to the stable phase.
            most = min(DECAY_AVERAGE, self.pupil.average) if decay else self.pupil.average
            kept = min(most, (1 + self.step) / (10 + self.step))
            follow(self.average, self.net, kept)
            for name, value in terms.items():
                totals[name] = totals.get(name, 0.0) + float(value.detach())
            self.minutes += (clock() - now) / 60.0
            now = clock()
            if not decay and now - saved > 60.0 * save_minutes:
                self.save()
                saved = now
        steps = max(1, self.step - first)
        self.losses = {name: round(value / steps, 4) for name, value in totals.items()}
        self.per_s = round((self.samples - drawn) / max(1e-9, now - begun), 1)
        self.net.eval()
        if not decay:
            self.save()


def _views_of_card(path: Path) -> int:
    """Views that a model shipped before the school has seen, from the card beside its weights."""
    card = path.with_suffix(".json")
    if not card.exists():
        return 0
    known = json.loads(card.read_text(encoding="utf-8"))["training"]
    return int(known.get("views") or known.get("pairs") or 0)


def _layout(net: torch.nn.Module, last: bool) -> torch.memory_format:
    """Of a network's tensors: its kernels have four axes in the plane and five in space."""
    if not last:
        return torch.contiguous_format
    space = any(p.dim() == 5 for p in net.parameters())
    return torch.channels_last_3d if space else torch.channels_last


def fastest_mode(pupil: Pupil, stream: Stream, tries: int = 2) -> tuple[bool, bool]:
    """(bf16, channels last) with which a step of a copy takes least time on this machine."""
    x, batch = stream.batch()
    spent: dict[tuple[bool, bool], float] = {}
    # Without units for it bf16 is emulated, which in space takes minutes to find out.
    in_space = any(p.dim() == 5 for p in pupil.net().parameters())
    tried = (True, False) if not in_space or cpu_flags() & BF16_FLAGS else (False,)
    for bf16 in tried:
        for last in (True, False):
            net = pupil.net()
            layout = _layout(net, last)
            net = net.to(memory_format=layout).train()
            times = []
            for _ in range(tries + 1):  # the first one prepares
                begun = clock()
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    outputs = net(x.to(memory_format=layout))
                torch.stack(list(pupil.losses(outputs, batch).values())).sum().backward()
                times.append(clock() - begun)
            spent[bf16, last] = min(times[1:])
    best = min(spent, key=lambda k: spent[k])
    words = {k: f"{'bf16' if k[0] else 'fp32'}{' channels last' if k[1] else ''}" for k in spent}
    told = ", ".join(f"{words[k]} {1e3 * v / len(x):.1f}" for k, v in spent.items())
    print(f"{pupil.name}: ms per sample: {told}; takes {words[best]}", flush=True)
    return best


def generator(pupil: Pupil, samples: int) -> np.random.Generator:
    """Draws that differ each time a course goes on."""
    return np.random.default_rng([SEED, samples, len(pupil.name)])
