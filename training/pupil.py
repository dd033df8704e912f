# SPDX-License-Identifier: Apache-2.0
"""What the school must know of a network to teach it: one `Pupil` per network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch


class Stream(Protocol):
    """Endless augmented batches from the views that exist now."""

    def __len__(self) -> int:
        """How many views there are now."""

    def batch(self) -> tuple[torch.Tensor, Any]:
        """The network's input and what `Pupil.losses` judges its answer by."""

    def tell(self, batch: Any, outputs: Any) -> None:
        """The network's answer to the last batch: what was hard may come again sooner."""


@dataclass(frozen=True)
class Material:
    """Rendered data of one kind. `make(folder, split, index, real)` renders unit `index` (all views
    of it or none) from the real surfaces in `real` and returns how many views it made; it raises
    ValueError where that unit cannot be made. made(folder): the units that are there. The first
    `validation_units` of the validation list make the exam.
    """

    folder: str
    make: Callable[[Path, str, int, Path], int]
    made: Callable[[Path], set[int]]
    count: Callable[[Path], int]
    validation_units: int
    training_units: int


@dataclass(frozen=True)
class Pupil:
    """One network. All errors are smaller-is-better; `targets` names those that count, each with
    the value at which the network has learnt enough. `judge(network, folder, limit)` takes a module
    in training or the path of an exported model. `publish(state, validation, models, command,
    history)` exports a checkpoint with its cards to the folder `models`.
    """

    name: str
    material: Material
    net: Callable[[], torch.nn.Module]
    stream: Callable[[Path, np.random.Generator], Stream]
    losses: Callable[[Any, Any], dict[str, torch.Tensor]]
    judge: Callable[[torch.nn.Module | Path, Path, int], dict]
    errors: Callable[[dict], dict[str, float]]
    targets: dict[str, float]
    publish: Callable[[dict, Path, Path, str, str], dict]
    weight: float = 1.0  # of its distance when turns are dealt; 0: taught only when asked for
    rate: float = 1e-3  # of the stable phase
    average: float = 0.999  # decay per step of the averaged weights
    enough: int = 1500  # views before the first step
    reuse: float = 40.0  # samples per view of a machine's own: beyond, more views come first
    exam: int = 60  # views or pairs of a validation in passing; graduation takes all
    refit: tuple[str, ...] = ()  # arguments of `python -m` after graduation; {data} is the folder
    gate: Callable[[Path, Path], list[str]] | None = None  # shipped, new model to objections
    # Where nothing is shipped: report of a method without a network, to be better than.
    peer: Callable[[Path], dict] | None = None  # of the validation folder
    prepare: Callable[[Path], Iterator[None]] | None = (
        None  # steps before a lesson, on the train folder
    )


def distance(errors: dict[str, float], targets: dict[str, float]) -> float:
    """Mean logarithm of error over target, none below its target counted as better than it."""
    ratios = [errors.get(name, float("nan")) / target for name, target in targets.items()]
    known = [r if np.isfinite(r) else 10.0 for r in ratios]  # nothing found at all
    return float(np.mean([np.log(max(r, 1.0)) for r in known]))
