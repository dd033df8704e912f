# SPDX-License-Identifier: Apache-2.0
"""Render stereo pairs with screws and rods; run it again to resume or to add more.

    python -m training.screw_finder.generate --split train --scenes 2000

Writes DATA/pairs/SPLIT/<scene>_<view>.npz (see `to_arrays`). A scene whose first view exists is skipped.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import OrderedDict
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from spine_nav_sim.core.anatomy import Anatomy
from spine_nav_sim.core.implants import FAMILIES_SCHOOL
from spine_nav_sim.core.planning import plan_screws
from spine_nav_sim.core.scene import SceneConfig, place_lamps
from spine_nav_sim.core.sensor import random_colour_sensor
from spine_nav_sim.core.stereo_config import StereoConfig
from spine_nav_sim.core.stereo_layout import make_stereo_scene, remount_cameras
from spine_nav_sim.core.stereo_scene import OTHER_METAL, StereoRendered, StereoScene
from training.spine_unet.generate import split_list, training_anatomy, validation_anatomy

SIZES = (*((640, 480),) * 5, (848, 480), (800, 600))
# Long arms hide how deep the saddle lies: what the networks err in most is what they see most.
FAMILIES_TAUGHT = (*FAMILIES_SCHOOL, "reduction", "reduction", "mixed", "mixed")
TOWERS_TAUGHT = 0.16


def stereo_config(rng: np.random.Generator, families: tuple[str, ...] | None) -> StereoConfig:
    """A wider range than the demo's: any hardness, turned heads, near and far."""
    hardness = float(rng.uniform(0.0, 1.0))
    scene = SceneConfig(
        n_exposed=(2, 5),
        hardness=hardness,
        seconds=4.0,
        distance_m=(0.33, 0.72),
        pitch_deg=(0.0, 38.0),
        off_centre=0.3,
        visible_area_mm2=(900.0, 3400.0),
        tissue_mm=3.0,
        resect_share=0.0,
        tool_busy=0.2,
        pushes=False,
        shadows=0.6,
        wound_step_m=0.002,
        threads=1,
    )
    return StereoConfig(
        scene=scene,
        sizes=SIZES,
        filled=(0.3, 0.95),
        hfov_deg=(32.0, 80.0),
        baseline_m=(0.045, 0.125),
        screws=(3, 10),
        beside_entry_mm=(4.0, 24.0),
        placed_deg=5.0,
        standoff_mm=(1.5, 9.0),
        families=families,
        covered_share=0.2 + 0.3 * hardness,
        towers_share=0.08,
        pooled_share=0.2,
        cross_link_share=0.3,
    )


def grey(picture: np.ndarray) -> np.ndarray:
    """(H, W) uint8: a network that knows no colour cannot hang on to one."""
    return picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)


def to_arrays(pair: StereoRendered) -> dict[str, np.ndarray]:
    """What a training sample holds; pixels (u, v), metres in the nominal left optical frame.

    left, right (H, W) uint8; K = (fx, fy, cx, cy); baseline_m; head_m, axis (N, 3);
    head_left_px, head_right_px (N, 2) where the saddle point truly lies in each picture;
    head_seen_left, head_seen_right (N,) 0 to 1; rod_m, rod_tangent (M, 3); rod_id (M,);
    rod_left_px, rod_right_px (M, 2); rod_seen_left, rod_seen_right (M,) bool; rod_radius_m (M,).
    """
    k, heads, rods = pair.intrinsics, pair.heads, pair.rods

    def stack(values: list, width: int) -> np.ndarray:
        return np.concatenate([np.reshape(v, (-1, width)) for v in values] or
                              [np.zeros((0, width))])  # fmt: skip

    tangents = [np.gradient(r.centreline_m, axis=0) for r in rods]
    tangents = [t / np.linalg.norm(t, axis=1, keepdims=True) for t in tangents]
    numbers = [np.full(len(r.centreline_m), i) for i, r in enumerate(rods)]
    return {
        "left": grey(pair.left),
        "right": grey(pair.right),
        "K": np.array([k.fx, k.fy, k.cx, k.cy]),
        "baseline_m": np.array(pair.baseline_m),
        "head_m": stack([h.head_m for h in heads], 3),
        "axis": stack([h.axis for h in heads], 3),
        "head_left_px": stack([h.left_px for h in heads], 2),
        "head_right_px": stack([h.right_px for h in heads], 2),
        "head_visible_px": np.array([h.visible_px for h in heads]),
        "head_seen_left": np.array([h.seen[0] for h in heads]),
        "head_seen_right": np.array([h.seen[1] for h in heads]),
        "rod_m": stack([r.centreline_m for r in rods], 3),
        "rod_tangent": stack(tangents, 3),
        "rod_id": np.concatenate([*numbers, np.zeros(0, int)]).astype(int),
        "rod_left_px": stack([r.left_px for r in rods], 2),
        "rod_right_px": stack([r.right_px for r in rods], 2),
        "rod_seen_left": np.concatenate([*(r.seen_left for r in rods), np.zeros(0, bool)]) > 0,
        "rod_seen_right": np.concatenate([*(r.seen_right for r in rods), np.zeros(0, bool)]) > 0,
        "rod_radius_m": np.concatenate(
            [*(np.full(len(r.centreline_m), r.radius_m) for r in rods), np.zeros(0)]
        ),
    }


class Anatomies:
    """A few planned spines kept: making one takes seconds, one serves several operations."""

    def __init__(self, make, split: dict, data: Path, per: int) -> None:
        self._make, self._split, self._data, self._per = make, split, data, per
        self._kept: OrderedDict[int, Anatomy] = OrderedDict()

    def of_scene(self, index: int) -> Anatomy:
        """The spine of a scene; raises ValueError where it cannot be made or planned."""
        number = index // self._per
        if number not in self._kept:
            _, anatomy = self._make(number, self._split, self._data)
            if not anatomy.plan:
                anatomy = replace(anatomy, plan=plan_screws(anatomy.meshes))
            self._kept[number] = anatomy
            while len(self._kept) > 2:
                self._kept.popitem(last=False)
        return self._kept[number]


def without_screws(stereo: StereoScene) -> StereoScene:
    """The operation before the first screw: tools may lie about, and nothing is to be found."""
    stereo.scene.casters.clear()
    tools = tuple(i for i in stereo.implants if i.owner == OTHER_METAL and i.level is None)
    return replace(stereo, screws=(), rods=(), implants=tools)


def views_of(
    anatomy: Anatomy,
    rng: np.random.Generator,
    views: int,
    families: tuple[str, ...] | None,
    empty: bool = False,
    towers: float | None = None,
) -> list[dict[str, np.ndarray]]:
    """`views` pairs of one new operation, each with its own cameras, lamps and sensor.

    towers: share of the free heads that carry one; None: `stereo_config`'s.
    """
    config = stereo_config(rng, families)
    if towers is not None:
        config = replace(config, towers_share=towers)
    stereo = make_stereo_scene(anatomy, rng, config)
    if empty:
        stereo = without_screws(stereo)
    out = []
    for _ in range(views):
        scene = stereo.scene
        scene.lamps = place_lamps(scene.T_world_wound, scene.wound, rng)
        scene.colour_sensor = random_colour_sensor(rng, config.scene.hardness)
        scene.cast_shadows = bool(rng.uniform() < config.scene.shadows)
        remount_cameras(stereo, rng, config)
        out.append(to_arrays(stereo.render(float(rng.uniform(0.0, 4.0)))))
    return out


PER_ANATOMY = {"train": 4, "validation": 2}  # operations
VIEWS = {"train": 4, "validation": 2}  # pairs per operation
MAKE = {"train": training_anatomy, "validation": validation_anatomy}


@cache
def anatomies(split: str, real: Path) -> Anatomies:
    """The spines of a list."""
    return Anatomies(MAKE[split], split_list(split), real, PER_ANATOMY[split])


def units_made(folder: Path) -> set[int]:
    """The operations that have been rendered to `folder`."""
    return {int(p.name.split("_")[0]) for p in folder.glob("[0-9]*_0.npz")}


def make_unit(
    folder: Path,
    split: str,
    index: int,
    real: Path,
    *,
    views: int = 0,
    families: tuple[str, ...] | None = None,
    empty: bool = False,
) -> int:
    """Render operation `index` to files in `folder`; returns the number of pairs.

    Raises ValueError where the anatomy or its operation cannot be made.
    """
    rng = np.random.default_rng([split_list(split)["seeds"][0] + index, 3])
    spine = anatomies(split, real).of_scene(index)
    taught = split == "train"
    families = families or (FAMILIES_TAUGHT if taught else None)
    towers = TOWERS_TAUGHT if taught else None
    pairs = views_of(spine, rng, views or VIEWS[split], families, empty, towers)
    folder.mkdir(parents=True, exist_ok=True)
    for i, arrays in reversed(list(enumerate(pairs))):  # view 0 last: it says "done"
        part = folder / f".{index:05d}_{i}.part.npz"
        np.savez_compressed(part, **arrays)
        os.replace(part, folder / f"{index:05d}_{i}.npz")
    return len(pairs)


def main() -> None:
    """Generate until the asked number of scenes exists."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--split", choices=tuple(MAKE), required=True)
    p.add_argument("--scenes", type=int, default=1000)
    p.add_argument("--first", type=int, default=0, help="index of the first scene")
    p.add_argument("--views", type=int, default=0, help="pairs per operation; default: the list's")
    p.add_argument(
        "--families", nargs="*", default=None, help="screw families; default: training's"
    )
    p.add_argument("--empty", action="store_true", help="operations before the first screw")
    p.add_argument("--real", type=Path, default=Path("../shared/data"), help="real surfaces")
    p.add_argument("--data", type=Path, default=Path("training/data"), help="where pairs go")
    args = p.parse_args()
    cv2.setNumThreads(1)
    folder = args.data / "pairs" / args.split
    families = tuple(args.families) if args.families else None
    start, made = time.perf_counter(), 0
    there = units_made(folder)
    for index in range(args.first, args.first + args.scenes):
        if index in there:
            continue
        try:
            made += make_unit(
                folder, args.split, index, args.real,
                views=args.views, families=families, empty=args.empty,
            )  # fmt: skip
        except ValueError as error:
            print(f"{index:05d}: skipped: {error}", flush=True)
            continue
        print(f"{index:05d}: {made / (time.perf_counter() - start):.2f} pairs/s", flush=True)


if __name__ == "__main__":
    main()
