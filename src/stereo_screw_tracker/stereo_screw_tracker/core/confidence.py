# SPDX-License-Identifier: Apache-2.0
"""One probability that a place is a screw head, from two networks that looked at it.

The finder knows the surroundings, the refiner the close view; each is fooled by other things. A
logistic model joins them; its three numbers are fitted by training/calibration/stereo_fit_confidence.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

FILE = Path(__file__).parent.parent / "confidence.json"
_LEAST = 1e-4  # no network is surer than this of anything


@dataclass(frozen=True)
class ConfidenceModel:
    """logit p = offset + refiner * logit(refiner's confidence) + finder * logit(finder's score)."""

    offset: float
    refiner: float
    finder: float


def load_confidence_model(path: Path | None = None) -> ConfidenceModel:
    """The fitted numbers that the package ships, or those of another fit.

    Raises:
        ValueError: no JSON object, a number is missing or not finite, or a weight is negative.
    """
    file = path or FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        model = ConfidenceModel(**{f.name: float(content[f.name]) for f in fields(ConfidenceModel)})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{file}: no fitted numbers ({error}); run python -m training.calibration.stereo_fit_confidence"
        ) from error
    values = [model.offset, model.refiner, model.finder]
    if not np.isfinite(values).all() or min(model.refiner, model.finder) < 0.0:
        raise ValueError(
            f"{file}: {values}: weights must be finite and not negative; run "
            "training/calibration/stereo_fit_confidence.py"
        )
    return model


def joint_confidence(model: ConfidenceModel, refiner: float, finder: float) -> float:
    """Probability of a head, 0 to 1, from the refiner's confidence and the finder's score."""
    z = model.offset + model.refiner * logit(refiner) + model.finder * logit(finder)
    return float(1.0 / (1.0 + np.exp(-z)))


def logit(p: float | np.ndarray) -> np.ndarray:
    """Log odds, kept finite."""
    p = np.clip(p, _LEAST, 1.0 - _LEAST)
    return np.asarray(np.log(p / (1.0 - p)))
