# SPDX-License-Identifier: Apache-2.0
"""A folder of colour and depth PNGs in the layout of the TUM RGB-D benchmark."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import yaml

from spine_nav_common.core.errors import InputError
from spine_nav_common.core.png import read_depth_png, read_png
from spine_nav_common.core.types import Intrinsics, RgbdFrame

APART_NS = 20_000_000
"""Farther from each other in time, colour and depth are no pair."""
_CAMERA = "fx: 615.0, fy: 615.0, cx: 319.5, cy: 239.5, depth_scale: 5000 (units per metre)"


@dataclass(frozen=True)
class TumFolder:
    """Pairs of a folder: (stamp of colour in ns, colour file, depth file), by time; unpaired: colour
    images without depth; depth_scale: units per metre."""

    pairs: tuple[tuple[int, Path, Path], ...]
    unpaired: int
    camera: dict[str, float]
    depth_scale: float

    def frames(self) -> Iterator[RgbdFrame]:
        """Decoded one by one. Raises InputError: a picture that cannot be read, of another size."""
        size: tuple[int, ...] | None = None
        for stamp_ns, colour, depth in self.pairs:
            rgb, z = read_png(colour), read_depth_png(depth, 1.0 / self.depth_scale)
            size = size or rgb.shape[:2]
            if rgb.shape[:2] != size or z.shape != size:
                raise InputError(
                    colour, "size", f"{rgb.shape[:2]} with depth {z.shape} after {size}",
                    "depth must be aligned to colour, all of one size",
                )  # fmt: skip
            c = self.camera
            if not (c["cx"] < size[1] and c["cy"] < size[0]):
                raise InputError(
                    colour, "size", f"the camera's middle ({c['cx']:g}, {c['cy']:g}) lies outside"
                    f" {size[1]}x{size[0]} pixels",
                    "write the camera of pictures of this size",
                )  # fmt: skip
            intrinsics = Intrinsics(size[1], size[0], c["fx"], c["fy"], c["cx"], c["cy"])
            yield RgbdFrame(stamp_ns, rgb, z, intrinsics)


def read_tum(folder: Path) -> TumFolder:
    """Read associations.txt, or rgb.txt and depth.txt, and the camera's YAML (the one in the folder).

    Raises InputError: what is missing, with what it must hold.
    """
    folder = Path(folder)
    camera, scale = _camera(folder)
    associations = folder / "associations.txt"
    unpaired = 0
    if associations.is_file():
        rows = _rows(associations, 4)
        pairs = [(_ns(associations, r[0]), folder / r[1], folder / r[3]) for r in rows]
    else:
        colour, depth = (_listed(folder / name) for name in ("rgb.txt", "depth.txt"))
        times = [t for t, _ in depth]
        pairs = []
        for t, file in colour:
            i = bisect_left(times, t)
            near = min(
                (k for k in (i - 1, i) if 0 <= k < len(times)),
                key=lambda k: abs(times[k] - t),
                default=None,
            )
            if near is None or abs(times[near] - t) > APART_NS:
                unpaired += 1
            else:
                pairs.append((t, file, depth[near][1]))
    if not pairs:
        raise InputError(
            folder, "", "no colour image has a depth image within 20 ms", "check times"
        )
    lacking = [f for _, *both in pairs for f in both if not f.is_file()]
    if lacking:
        raise InputError(lacking[0], "", f"missing ({len(lacking)} files are)", "put it there")
    return TumFolder(tuple(sorted(pairs)), unpaired, camera, scale)


def _camera(folder: Path) -> tuple[dict[str, float], float]:
    files = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]) if folder.is_dir() else []
    if len(files) != 1:
        raise InputError(
            folder, "", f"{len(files)} YAML files of the camera, not one",
            f"write camera.yaml there with {_CAMERA}",
        )  # fmt: skip
    file = files[0]
    try:  # ORB-SLAM writes OpenCV's header and prefixes
        text = "\n".join(
            line for line in file.read_text(encoding="utf-8").splitlines() if line[:1] != "%"
        )
        document: Any = yaml.safe_load(text)
        values = {str(k).split(".")[-1]: v for k, v in document.items()}
        camera = {name: float(values[name]) for name in ("fx", "fy", "cx", "cy")}
        scale = float(
            values["depth_scale"] if "depth_scale" in values else values["DepthMapFactor"]
        )
        if not all(0.0 < v < math.inf for v in (*camera.values(), scale)):
            raise ValueError("a value is no positive number")
        if scale < 100.0:
            raise ValueError(f"depth_scale {scale:g}: units per metre, 1000 where depth is in mm")
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(file, "", f"no camera ({error})", f"write {_CAMERA}") from error
    bent = [n for n in ("k1", "k2", "k3", "p1", "p2") if values.get(n)]
    if bent:
        raise InputError(
            file, bent[0], "the pictures are distorted", "rectify them and set it to 0"
        )
    return camera, scale


def _listed(file: Path) -> list[tuple[int, Path]]:
    return sorted((_ns(file, t), file.parent / name) for t, name in _rows(file, 2))


def _rows(file: Path, columns: int) -> list[list[str]]:
    if not file.is_file():
        raise InputError(
            file,
            "",
            "missing",
            "write `time file` lines, or associations.txt with colour and depth",
        )
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = [line.replace(",", " ").split() for line in lines if line.strip() and line[0] != "#"]
    bad = next((r for r in rows if len(r) != columns), None)
    if bad is not None:
        raise InputError(
            file, " ".join(bad), f"not {columns} columns", "write `time file` per image"
        )
    return rows


def _ns(file: Path, text: str) -> int:
    try:
        ns = int(Decimal(text) * 1_000_000_000)
        if not 0 <= ns < 1 << 61:
            raise ValueError("neither before 1970 nor after 2043")
        return ns
    except (InvalidOperation, ValueError, OverflowError) as error:
        raise InputError(file, text, "is no time in seconds", "write seconds") from error
