# SPDX-License-Identifier: Apache-2.0
"""What the CPU is and can do."""

from __future__ import annotations

import platform
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
