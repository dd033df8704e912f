# SPDX-License-Identifier: Apache-2.0
"""Bone segmentation of an RGB-D frame (network inference lands here; see colour_segmenter)."""

from .colour_segmenter import ColourSegmenter
from .segmentation import RoiHint, Segmentation, SegmentsFrames

__all__ = ["ColourSegmenter", "RoiHint", "Segmentation", "SegmentsFrames"]
