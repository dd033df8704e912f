# SPDX-License-Identifier: Apache-2.0
"""Fixed thread counts, so that a second run on the same machine gives the same bytes."""

from __future__ import annotations

import os

_NUMERIC = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def fix_threads(openmp: int = 1) -> None:
    """Set the thread counts of numeric libraries; call it before they are imported.

    BLAS stays at one thread (the matrices here are small, and its reductions depend on the
    count); `openmp` is for the peers of the bench, which use OpenMP in Open3D.
    """
    for name in _NUMERIC:
        os.environ[name] = "1"
    os.environ["OMP_NUM_THREADS"] = str(openmp)


def fix_opencv_threads(count: int = 1) -> None:
    """Set OpenCV's own thread pool; it does not read the environment."""
    import cv2

    cv2.setNumThreads(count)
