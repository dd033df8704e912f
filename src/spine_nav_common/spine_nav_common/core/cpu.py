# SPDX-License-Identifier: Apache-2.0
"""What the CPU is and can do."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
TELLING = ("avx2", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "bf16")
"""Flags that decide how fast a network runs."""


def _field(names: tuple[str, ...], cpuinfo: Path) -> str:
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in names:
            return value.strip()
    return ""


@cache
def cpu_flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """Feature flags of the first CPU; empty where the system does not tell."""
    return frozenset(_field(("flags", "Features"), cpuinfo).split())


def cpu_name(cpuinfo: Path = CPUINFO) -> str:
    """The CPU's model."""
    return _field(("model name",), cpuinfo) or platform.processor() or platform.machine()


def _process_seconds(pid: int) -> float:
    """CPU time of another process; 0 where it is gone or the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0


class CoresUsed:
    """Cores that this process and `pids` keep busy from now on."""

    def __init__(self, pids: Iterable[int] = ()) -> None:
        self._start = time.monotonic()
        self._own = time.process_time()
        self._others = {pid: _process_seconds(pid) for pid in pids}

    def cores(self, pids: Iterable[int] = ()) -> float:
        """CPU seconds per second so far; pids: as now (a restarted process counts from 0)."""
        spent = time.process_time() - self._own
        for pid in pids:
            spent += max(0.0, _process_seconds(pid) - self._others.get(pid, 0.0))
        return spent / max(1e-9, time.monotonic() - self._start)
