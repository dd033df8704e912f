# SPDX-License-Identifier: Apache-2.0
"""What the tests of the navigator share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import registration_support as support

from spine_nav_common.core.types import RgbdFrame, Status
from spine_registration.core.config import NavigatorConfig

CONFIG = NavigatorConfig(hold_s=0.41)
HOLD_FRAMES = 6  # of 15 Hz
POSED = (Status.TRACKED, Status.OCCLUDED)


def statuses(result):
    return [e.status for e in result.levels]


def worst_tre_mm(model, result, truth):
    """Largest TRE of the levels that are shown as tracked."""
    shown = {e.level: e.T_camera_ct for e in result.levels if e.status is Status.TRACKED}
    k = [model.levels.index(v) for v in shown]
    part = support.part_model(model, tuple(shown))
    return support.tre_mm(part, np.array(list(shown.values())), truth[k]).max()


def dark(frame: RgbdFrame) -> RgbdFrame:
    return replace(frame, colour=np.zeros_like(frame.colour))


def blind(frame: RgbdFrame) -> RgbdFrame:
    return replace(frame, depth_m=np.full_like(frame.depth_m, np.nan))


def zero_depth(frame: RgbdFrame) -> RgbdFrame:
    return replace(frame, depth_m=np.zeros_like(frame.depth_m))
