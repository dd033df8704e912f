# SPDX-License-Identifier: Apache-2.0
"""The commands that the bench measures. They stand above this package, which is handed them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


class Outcome(Protocol):
    """End of a run: the content of its summary.json, and its exit code."""

    @property
    def summary(self) -> dict[str, Any]: ...

    @property
    def exit_code(self) -> int: ...


Replay = Callable[..., Outcome]  # (recording, case, out, *, segmenter)
FindScrews = Callable[..., Outcome]  # (recording, out, *, case, core, watch)
# (case, source, out, assignments, port of the surgeon's page: None = no page, session: folder of the
# record, None = none), through the nodes
Live = Callable[..., Outcome]


@dataclass(frozen=True)
class Commands:
    """`spinenav replay`, `spinenav screws` and `spinenav live` as functions."""

    replay: Replay
    find_screws: FindScrews
    live: Live
