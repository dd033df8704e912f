# SPDX-License-Identifier: Apache-2.0
"""Virtual patients' bones (`spine_nav_sim.core.ct_bones`) as the CT network's data.

    python -m training.ct_unet.generate --split train --units 4     # resumes; times each

A unit is DATA/ct/SPLIT/<index>.npz. Anatomies are of the school's lists (splits.yaml).
The real CTs are for testing alone, and so are the meshes that were made of them.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from spine_nav_sim.core.ct_bones import Bones, make_bones
from training.spine_unet.generate import MAKE, split_list

VIEWS = 24  # samples that a unit is good for before it counts as used once


def save_unit(path: Path, unit: Bones) -> None:
    """Whole or not at all; not compressed, since reading speed counts."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(
            file, distance=unit.distance, who=unit.who, origin_mm=unit.origin_mm,
            centres_mm=unit.centres_mm, levels=np.array(unit.levels), ribs=unit.ribs,
            typical=np.array(unit.typical),
        )  # fmt: skip
    part.rename(path)


def load_unit(path: Path) -> Bones:
    """Read what `save_unit` wrote."""
    with np.load(path) as data:
        return Bones(
            data["distance"], data["who"], data["origin_mm"], data["centres_mm"],
            tuple(str(v) for v in data["levels"]), data["ribs"], bool(data["typical"]),
        )  # fmt: skip


def find_units(folder: Path) -> list[Path]:
    """All units below a folder, in a fixed order."""
    return sorted(folder.glob("[0-9]*.npz"))


def own_split(split: str) -> dict:
    """The school's list without what was made of the real CTs."""
    listed = split_list(split)
    if "meshes" not in listed:
        return listed
    return {**listed, "meshes": [m for m in listed["meshes"] if not m["path"].startswith("ct_")]}


def make_unit(folder: Path, split: str, index: int, real: Path) -> int:
    """Write unit `index`; returns the samples that it stands for. Raises ValueError."""
    listed = own_split(split)
    _, anatomy = MAKE[split](index, listed, real)
    rng = np.random.default_rng([listed["seeds"][0] + index, 3])
    save_unit(folder / f"{index:05d}.npz", make_bones(anatomy.meshes, rng))
    return VIEWS


def units_made(folder: Path) -> set[int]:
    """Indices of the units that are there."""
    return {int(p.stem) for p in find_units(folder)}


def main() -> None:
    """Generate until the asked number of units exists."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--split", choices=tuple(MAKE), required=True)
    p.add_argument("--units", type=int, default=100)
    p.add_argument("--first", type=int, default=0)
    p.add_argument("--real", type=Path, default=Path("../shared/data"), help="real surfaces")
    p.add_argument("--data", type=Path, default=Path("training/data"))
    args = p.parse_args()
    folder = args.data / "ct" / args.split
    folder.mkdir(parents=True, exist_ok=True)
    there = units_made(folder)
    for index in range(args.first, args.first + args.units):
        if index in there:
            continue
        begun = time.perf_counter()
        try:
            make_unit(folder, args.split, index, args.real)
        except ValueError as error:
            print(f"{index:05d}: skipped: {error}", flush=True)
            continue
        print(f"{index:05d}: {time.perf_counter() - begun:.1f} s", flush=True)


if __name__ == "__main__":
    main()
