# SPDX-License-Identifier: Apache-2.0
"""The register of the school: a network joins by one entry."""

from __future__ import annotations

from training.ct_unet.pupil import PUPIL as CT_UNET
from training.pupil import Pupil
from training.screw_finder.pupil import MONO
from training.screw_finder.pupil import PUPIL as SCREW_FINDER
from training.screw_refiner.pupil import HEAD, ROD
from training.spine_unet.pupil import PUPIL as SPINE_UNET

PUPILS: dict[str, Pupil] = {p.name: p for p in (SPINE_UNET, SCREW_FINDER, HEAD, ROD, MONO, CT_UNET)}
