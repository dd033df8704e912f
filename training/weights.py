# SPDX-License-Identifier: Apache-2.0
"""Weights on disk and their running average, alike for every network."""

from __future__ import annotations

from pathlib import Path

import torch

MODELS = Path(__file__).resolve().parents[1] / "models"


def save_checkpoint(path: Path, state: dict) -> None:
    """Write whole or not at all: a killed run must resume."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def half_precision(state: dict) -> dict:
    """What is committed as models/NAME.pt: both sets of weights at half size, no optimiser."""

    def halved(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {k: v.half() if v.dtype == torch.float32 else v for k, v in weights.items()}

    kept = {k: v for k, v in state.items() if k not in ("net", "ema", "optimiser")}
    return {**kept, "net": halved(state["net"]), "ema": halved(state["ema"])}


def follow(average: torch.nn.Module, net: torch.nn.Module, decay: float) -> None:
    """Move the averaged weights a step of 1 - decay towards the net's."""
    with torch.no_grad():
        kept, new = average.state_dict(), net.state_dict()
        floats = [k for k, v in kept.items() if v.dtype.is_floating_point]
        torch._foreach_lerp_([kept[k] for k in floats], [new[k] for k in floats], 1.0 - decay)
        for k in kept.keys() - set(floats):
            kept[k].copy_(new[k])
