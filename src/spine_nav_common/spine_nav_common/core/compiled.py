# SPDX-License-Identifier: Apache-2.0
"""Inner loops compiled by numba: single-threaded, free of the GIL, deterministic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call; kept on disk beside the source, in the user's cache where that is
    not writable, and not at all where neither is (each start then compiles anew)."""
    compile_: Callable[..., Any] = numba.njit
    # error_model: divisions follow IEEE, without a check of each divisor.
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        out: Callable[..., Any] = compile_(cache=True, **options)(function)
    except RuntimeError:  # numba finds no place for its cache
        out = compile_(**options)(function)
    return out
