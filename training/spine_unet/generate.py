# SPDX-License-Identifier: Apache-2.0
"""Render training or validation views; run it again to resume or to add more.

    python -m training.spine_unet.generate --split train --anatomies 2000

Writes DATA/views/SPLIT/<anatomy>/<view>.npz. An anatomy whose folder exists is done and skipped.
"""

from __future__ import annotations

import argparse
import shutil
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import open3d as o3d
import yaml

from spine_nav_common.core.landmarks import dorsal_centre
from spine_nav_common.core.types import LEVEL_CODE, Intrinsics, Mesh
from spine_nav_sim.core.anatomy import Anatomy, make_anatomy
from spine_nav_sim.core.anatomy_files import load_anatomy, load_vertebra
from spine_nav_sim.core.anatomy_vary import RESECTIONS, resect, stack_vertebra, vary_anatomy
from spine_nav_sim.core.scene import Rendered, SceneConfig
from spine_nav_sim.core.views import render_views
from training.spine_unet.dataset import View, save_view

LEVELS = ("T12", "L1", "L2", "L3", "L4", "L5", "S1")
WIDTH, HEIGHT = 400, 320
MAX_FACES = 14000
PIXEL_PITCH_M = (0.00085, 0.00110)
SPLITS = Path(__file__).parents[1] / "splits.yaml"


def scene_config(rng: np.random.Generator, distance_m: float) -> SceneConfig:
    """A scene to train on: any hardness, single levels too, a wider range than the demo's."""
    low = rng.uniform(300.0, 1500.0)
    return SceneConfig(
        n_exposed=(1, 6),
        hardness=float(rng.uniform(0.0, 1.0)),
        distance_m=(0.97 * distance_m, 1.03 * distance_m),
        pitch_deg=(0.0, 35.0),
        off_centre=0.4,
        deviation_deg=3.0,
        tissue_mm=float(rng.uniform(0.5, 4.0)),
        visible_area_mm2=(low, low + rng.uniform(500.0, 3000.0)),
        tool_busy=0.25,
        threads=1,
    )


def views_of(anatomy: Anatomy, rng: np.random.Generator, scenes: int, views: int) -> list[View]:
    """Views of an anatomy in `scenes` random operations of `views` frames each."""
    centres = {level: dorsal_centre(mesh) for level, mesh in anatomy.meshes.items()}
    out = []
    for _ in range(scenes):
        distance = float(rng.uniform(0.35, 0.75))
        f = distance / rng.uniform(*PIXEL_PITCH_M)
        camera = Intrinsics(WIDTH, HEIGHT, f, f, 0.5 * (WIDTH - 1), 0.5 * (HEIGHT - 1))
        config = scene_config(rng, distance)
        rendered = render_views(anatomy, rng, config, views=views, intrinsics=camera)
        out += [to_view(r, centres) for r in rendered]
    return out


def to_view(rendered: Rendered, centres_ct: dict[str, np.ndarray]) -> View:
    """Renderer's truth as training labels: instances numbered, landmarks in the camera frame."""
    levels = [k for k in rendered.T_camera_ct if rendered.visible_px.get(k, 0) > 0]
    number = np.zeros(256, np.uint8)
    for row, level in enumerate(levels):
        number[LEVEL_CODE[level]] = row + 1
    poses = [rendered.T_camera_ct[level] for level in levels]
    tissue = np.where(rendered.instance > 0, rendered.tissue_m, np.inf)
    return View(
        colour=rendered.colour,
        depth_m=rendered.depth_true_m,
        measured_m=rendered.depth_m,
        instance=number[rendered.instance],
        tissue_m=tissue.astype(np.float32),
        centre_m=np.array(
            [T[:3, :3] @ centres_ct[k] + T[:3, 3] for T, k in zip(poses, levels, strict=True)]
        ).reshape(-1, 3),
        cranial=np.array([T[:3, 2] for T in poses]).reshape(-1, 3),
        dorsal=np.array([T[:3, 1] for T in poses]).reshape(-1, 3),
        intrinsics=rendered.intrinsics,
    )


def write_anatomy(folder: Path, views: list[View]) -> None:
    """All views of an anatomy, or none."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for index, view in enumerate(views):
        save_view(part / f"{index:03d}.npz", view)
    part.rename(folder)


def training_anatomy(index: int, split: dict, data: Path) -> tuple[str, Anatomy]:
    """Anatomy number `index` of the training list and what it was made of."""
    rng = np.random.default_rng([index, 7])
    draw = rng.integers(100)
    kind, anatomy = "parametric", None
    for source in split["meshes"]:
        draw -= source["share"]
        if draw < 0:
            kind = source["path"].split("/")[0]
            anatomy = _deformed(data / source["path"], bool(source.get("single")), rng)
            break
    if anatomy is None:
        anatomy = make_anatomy(np.random.default_rng(split["seeds"][0] + index), LEVELS)
    if rng.integers(100) < split["resected"]:
        level = str(rng.choice([k for k in anatomy.meshes if k != "S1"]))
        mesh = resect(anatomy.meshes[level], rng, str(rng.choice(RESECTIONS)))
        anatomy = replace(anatomy, meshes={**anatomy.meshes, level: mesh})
    return kind, anatomy


@cache
def _meshes(folder: Path) -> Anatomy:
    anatomy = load_anatomy(folder)
    return replace(anatomy, meshes={k: _light(m) for k, m in anatomy.meshes.items()})


def _light(mesh: Mesh) -> Mesh:
    """At most MAX_FACES triangles: finer surfaces cost rendering time and show no more."""
    if len(mesh.faces) <= MAX_FACES:
        return mesh
    fine = o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(mesh.vertices_m), o3d.utility.Vector3iVector(mesh.faces)
    )
    coarse = fine.simplify_quadric_decimation(MAX_FACES)
    return Mesh(np.asarray(coarse.vertices), np.asarray(coarse.triangles, np.int32))


def _deformed(folder: Path, single: bool, rng: np.random.Generator) -> Anatomy:
    if not single:
        return vary_anatomy(_meshes(folder), rng)
    files = sorted(folder.glob("*.ply"))
    _, mesh = load_vertebra(files[rng.integers(len(files))])
    chains = (("T12", "L1", "L2", "L3"), ("L1", "L2", "L3", "L4"), ("L2", "L3", "L4", "L5"))
    return vary_anatomy(stack_vertebra(_light(mesh), rng, chains[rng.integers(len(chains))]), rng)


def validation_anatomy(index: int, split: dict, data: Path) -> tuple[str, Anatomy]:
    """Every third is the undeformed mean shape, in a new operation; the others are parametric."""
    if index % 3 == 2:
        return "undeformed", _meshes(data / split["undeformed"])
    return "parametric", make_anatomy(np.random.default_rng(split["seeds"][0] + index), LEVELS)


MAKE = {"train": training_anatomy, "validation": validation_anatomy}
SCENES_VIEWS = {"train": (3, 8), "validation": (1, 4)}  # operations per anatomy, frames of each


@cache
def split_list(split: str) -> dict:
    """The seeds and surfaces of a list in splits.yaml."""
    return yaml.safe_load(SPLITS.read_text(encoding="utf-8"))[split]


def units_made(folder: Path) -> set[int]:
    """The anatomies that have been rendered to `folder`."""
    return {int(p.name.split("_")[0]) for p in folder.glob("[0-9]*_*")}


def make_unit(folder: Path, split: str, index: int, real: Path, scenes_views=None) -> int:
    """Render anatomy `index` to a folder of its own below `folder`; returns the number of views.

    Raises ValueError where the anatomy or its operation cannot be made.
    """
    seeds = split_list(split)
    kind, anatomy = MAKE[split](index, seeds, real)
    rng = np.random.default_rng([seeds["seeds"][0] + index, 1])
    views = views_of(anatomy, rng, *(scenes_views or SCENES_VIEWS[split]))
    write_anatomy(folder / f"{index:05d}_{kind}", views)
    return len(views)


def main() -> None:
    """Generate until the asked number of anatomies exists."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--split", choices=tuple(MAKE), required=True)
    p.add_argument("--anatomies", type=int, default=1000)
    p.add_argument("--first", type=int, default=0, help="index of the first anatomy")
    p.add_argument("--real", type=Path, default=Path("../shared/data"), help="real surfaces")
    p.add_argument("--data", type=Path, default=Path("training/data"), help="where views go")
    args = p.parse_args()
    cv2.setNumThreads(1)
    start, made = time.perf_counter(), 0
    folder = args.data / "views" / args.split
    there = units_made(folder)
    for index in range(args.first, args.first + args.anatomies):
        if index in there:
            continue
        try:
            made += make_unit(folder, args.split, index, args.real)
        except ValueError as error:
            print(f"{index:05d}: skipped: {error}", flush=True)
            continue
        print(f"{index:05d}: {made / (time.perf_counter() - start):.2f} views/s", flush=True)


if __name__ == "__main__":
    main()
