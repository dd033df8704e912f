# SPDX-License-Identifier: Apache-2.0
"""Which anatomy seeds belong to training, calibration and judgement (splits.yaml)."""

from __future__ import annotations

import itertools
from pathlib import Path

import yaml

SPLITS_FILE = Path(__file__).parent.parent / "splits.yaml"


def anatomy_seeds(name: str, file: Path = SPLITS_FILE) -> range:
    """Seeds of the list `name` (train, calibrate or judge) for `make_anatomy`.

    Raises:
        ValueError: an unknown list, a range that is not [first, end), or lists that overlap.
    """
    table = yaml.safe_load(file.read_text(encoding="utf-8"))
    ranges: dict[str, range] = {}
    for key, value in table.items():
        if not (
            isinstance(value, list)
            and len(value) == 2
            and all(type(v) is int for v in value)
            and 0 <= value[0] < value[1]
        ):
            raise ValueError(f"{file}: {key}: {value!r} is no range; write [first, end)")
        ranges[key] = range(*value)
    ordered = sorted(ranges.items(), key=lambda item: item[1].start)
    for (a, first), (b, second) in itertools.pairwise(ordered):
        if second.start < first.stop:
            raise ValueError(f"{file}: {a} and {b} overlap; a seed may stand in one list only")
    if name not in ranges:
        raise ValueError(f"{file}: no list {name!r}; choose from {', '.join(ranges)}")
    return ranges[name]
