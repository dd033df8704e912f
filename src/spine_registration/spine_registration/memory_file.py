# SPDX-License-Identifier: Apache-2.0
"""The file in which a navigation keeps its memory (core/memory.py) for the process after it.

A clean end removes it: what lies there is of a process that died. It holds a thumbnail of the
wound, so that nobody but the user can read it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from .core.memory import Memory, from_json, to_json

PERIOD_S = 0.5


def memory_path(namespace: str) -> Path:
    """$XDG_STATE_HOME/spinenav or ~/.local/state/spinenav; one file per ROS domain and namespace."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    domain = os.environ.get("ROS_DOMAIN_ID") or "0"
    name = "_".join(filter(None, ("navigation", domain, *namespace.split("/"))))
    return Path(base) / "spinenav" / f"{name}.json"


class MemoryFile:
    """Written every half second, and at once where something changed; a disk that cannot be written
    costs the memory and nothing else. `problem` says so, "" = none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = float("-inf")
        self._about: object = None
        self.problem = ""

    def read(self, levels: int) -> Memory | None:
        """What a process that died has left for a case of so many levels; None = nothing to use."""
        try:
            return from_json(self._path.read_text(encoding="utf-8"), levels)
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001 - damaged in whatever way, or of another case
            self.problem = f"{self._path}: not used ({' '.join(str(error).split())})"
            return None

    def due(self, about: object) -> bool:
        """Whether to write now. about: what must not wait when it changes."""
        changed, self._about = about != self._about, about
        return changed or time.monotonic() - self._written >= PERIOD_S

    def write(self, memory: Memory) -> None:
        """Atomic: a reader sees the whole file or the one before."""
        self._written = time.monotonic()
        part = self._path.with_suffix(f".{os.getpid()}.part")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(part, "w", encoding="utf-8", opener=_for_me) as stream:
                stream.write(to_json(memory))
            part.replace(self._path)
            self.problem = ""
        except OSError as error:
            self.problem = f"{self._path}: not written ({error}); after a restart levels are asked"
        finally:
            part.unlink(missing_ok=True)

    def remove(self) -> None:
        """Nothing is left for anybody."""
        self._path.unlink(missing_ok=True)


def _for_me(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
