# SPDX-License-Identifier: Apache-2.0
"""A measured centreline read as "these steps, each a little wrong".

A centreline from stereo wobbles by most of a millimetre over stretches of a few centimetres; a rod
that was bent in k places cannot. Fitting the steps' errors keeps what bends explain and drops the
rest, as long as it does explain the measurement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import least_squares

from .forward import BendStep, arc_positions_mm, fit_rigid, point_at, replay_steps

# Design choices: what a hand usually gets wrong. The tails are long: a real mistake costs little
# more than a small one, so it is not shrunk.
_FEED_MM, _ROTATE_DEG, _BEND_DEG = 1.2, 1.5, 1.2
_WOBBLE_MM = 40.0  # stretch over which a measured centreline's errors hang together
_POINTS = 40
_UNEXPLAINED = 1.5  # residual over stated error above which the fit is not believed


def explained(
    curve_mm: np.ndarray, steps: Sequence[BendStep], die_radius_mm: float, sigma_mm: float
) -> np.ndarray:
    """The rod (M, 3), caudal first, that the steps with small errors make, laid on the curve.

    The curve itself comes back where no such rod explains it within its standard error sigma_mm.
    """
    arc = arc_positions_mm(curve_mm)
    length = float(arc[-1])
    where = np.linspace(0.0, length, _POINTS)
    seen = point_at(curve_mm, arc, where)
    weight = math.sqrt(max(length / _WOBBLE_MM, 1.0) / _POINTS) / max(sigma_mm, 0.05)
    scale = np.tile([_FEED_MM, _ROTATE_DEG, _BEND_DEG], len(steps))
    if steps:
        scale[1] = 1e-6  # the first bend has no direction to turn from

    def rod(errors: np.ndarray) -> np.ndarray:
        wrong = (errors * scale).reshape(-1, 3)
        made = [
            replace(s, feed_mm=s.feed_mm + f, rotate_deg=s.rotate_deg + r, bend_deg=s.bend_deg + b)
            for s, (f, r, b) in zip(steps, wrong, strict=True)
        ]
        made = [s if s.bend_deg >= 0.0 else replace(s, bend_deg=0.0) for s in made]
        return replay_steps(made, length, die_radius_mm)

    def laid(errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        model = rod(errors)
        at = point_at(model, arc_positions_mm(model), where)
        T = fit_rigid(at, seen)
        return at @ T[:3, :3].T + T[:3, 3], model @ T[:3, :3].T + T[:3, 3]

    def cost(errors: np.ndarray) -> np.ndarray:
        usual = np.sign(errors) * np.sqrt(np.log1p(errors**2))  # Cauchy
        return np.concatenate([(laid(errors)[0] - seen).ravel() * weight, usual])

    try:
        errors = np.zeros(3 * len(steps))
        if steps:
            errors = least_squares(cost, errors, diff_step=1e-3, x_scale=1.0, max_nfev=20).x
        at, model = laid(errors)
    except ValueError:  # errors so large that bends overlap: no small error of these steps
        return curve_mm
    rms = float(np.sqrt(((at - seen) ** 2).mean()))
    return model if rms <= _UNEXPLAINED * max(sigma_mm, 0.1) else curve_mm
