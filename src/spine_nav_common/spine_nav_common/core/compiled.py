# SPDX-License-Identifier: Apache-2.0
"""Inner loops compiled by numba: single-threaded, free of the GIL, deterministic."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numba
from numba.core import caching

_FunctionCache: Any = caching.FunctionCache


class _Cache(_FunctionCache):
    """A file that cannot be read (damaged, or naming types of another version) costs a compilation;
    numba's own lets the error through, and nothing starts until somebody deletes the file."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # noqa: BLE001 - unpickling raises whatever the bytes lead to
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(Exception):  # as above, where the index could not be written anew
            super().save_overload(sig, data)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call; kept on disk beside the source, in the user's cache where that is
    not writable, and not at all where neither is (each start then compiles anew)."""
    compile_: Callable[..., Any] = numba.njit
    # error_model: divisions follow IEEE, without a check of each divisor.
    out: Any = compile_(nogil=True, error_model="numpy")(function)
    with suppress(RuntimeError):  # numba finds no place for its cache
        make: Callable[..., Any] = _Cache
        out._cache = make(function)
    dispatcher: Callable[..., Any] = out
    return dispatcher
