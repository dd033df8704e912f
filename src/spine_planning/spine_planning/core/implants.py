# SPDX-License-Identifier: Apache-2.0
"""The screws that lie in the tray: diameters and lengths that a plan may use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from spine_nav_common.core.errors import PlanError

_DIAMETER_MM, _LENGTH_MM = (3.0, 12.0), (15.0, 120.0)


@dataclass(frozen=True)
class Implants:
    """Pedicle screws: diameters_mm and lengths_mm, ascending; every pair of them exists."""

    diameters_mm: tuple[float, ...] = (4.5, 5.0, 5.5, 6.0, 6.5, 7.0, 7.5)
    lengths_mm: tuple[float, ...] = (30.0, 35.0, 40.0, 45.0, 50.0, 55.0)


def load_implants(path: Path) -> Implants:
    """From YAML: `diameters_mm` and `lengths_mm`, each a list, or {from, to, step}.

    Raises PlanError.
    """
    try:
        document: Any = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PlanError(path, "", f"not readable as YAML ({error})", "correct the file") from error
    if not isinstance(document, dict) or set(document) != {"diameters_mm", "lengths_mm"}:
        raise PlanError(
            path, "", "it must hold diameters_mm and lengths_mm, and nothing else",
            "write diameters_mm: [5.5, 6.5] and lengths_mm: {from: 30, to: 55, step: 5}",
        )  # fmt: skip
    return Implants(
        _sizes(path, "diameters_mm", document["diameters_mm"], _DIAMETER_MM),
        _sizes(path, "lengths_mm", document["lengths_mm"], _LENGTH_MM),
    )


def _sizes(path: Path, field: str, value: Any, limits: tuple[float, float]) -> tuple[float, ...]:
    try:
        if isinstance(value, dict):
            low, high, step = (float(value[k]) for k in ("from", "to", "step"))
            if not (step > 0.0 and high >= low and (high - low) / step < 1000.0):
                raise ValueError("from, to and step give no sizes")
            sizes = [low + i * step for i in range(int((high - low) / step + 1e-6) + 1)]
        else:
            sizes = sorted({float(v) for v in value})
        if not sizes or not np.isfinite(sizes).all():
            raise ValueError("no sizes")
    except (TypeError, ValueError, KeyError) as error:
        raise PlanError(
            path, field, f"{value!r} gives no sizes", "write a list, or {from: 30, to: 55, step: 5}"
        ) from error
    if not (limits[0] <= sizes[0] and sizes[-1] <= limits[1]):
        raise PlanError(
            path, field, f"{sizes[0]:g} to {sizes[-1]:g} mm",
            f"a pedicle screw measures {limits[0]:g} to {limits[1]:g} mm there; write millimetres",
        )  # fmt: skip
    return tuple(sizes)
