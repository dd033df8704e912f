# SPDX-License-Identifier: Apache-2.0
"""How well two pictures tell a camera that stood still from one that moved by one or two vertebrae.

    python -m training.calibration.stood_still --scenes 40

Renders operations of the list `train`, each with a camera on a stand: a picture, another one three
seconds later (instruments and hands pass), and those of the camera moved along the spine. What
counts is `core/picture.py`, by the true place of the levels.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import numpy as np

from spine_nav_bench.bench_scenes import scene_config
from spine_nav_common.core.geometry import transform_points
from spine_nav_sim.core.anatomy import make_anatomy
from spine_nav_sim.core.motion import still
from spine_nav_sim.core.operation import ALL_LEVELS
from spine_nav_sim.core.scene import make_scene
from spine_nav_sim.core.splits import anatomy_seeds
from spine_registration.core.picture import WIDTH, correlations, stood_still, thumbnail

STEPS = (1, -1, 2, -2)
_FIRST, _SEED, _LATER_S = 700, 991, 3.0


def look(i: int) -> tuple[bool, list[bool]]:
    """Whether scene `i` is taken for still: unmoved, and moved by each of STEPS vertebrae."""
    seed = anatomy_seeds("train")[_FIRST + i]
    anatomy = make_anatomy(np.random.default_rng(seed), ALL_LEVELS, f"virtual-{seed}")
    config = replace(scene_config(i), bump=False)
    scene = make_scene(anatomy, np.random.default_rng([_SEED, seed]), config)
    T_camera_world = scene.camera_path.T_camera_world(0.0)
    scene = replace(scene, camera_path=still(T_camera_world), _still={})
    rest = scene.poses(0.0)
    centre = {
        v: transform_points(rest[v], m.vertices_m.mean(axis=0)) for v, m in anatomy.meshes.items()
    }
    exposed = [v for v in ALL_LEVELS if v in scene.exposed]
    chain = np.array(
        [centre[v] for v in (exposed if len(exposed) > 1 else ALL_LEVELS) if v in centre]
    )
    c = scene.intrinsics

    def pixels(points: np.ndarray) -> np.ndarray:
        return (points[:, :2] / points[:, 2:] * (c.fx, c.fy) + (c.cx, c.cy)) * (WIDTH / c.width)

    wound, step = (
        pixels(np.array([centre[v] for v in exposed])),
        np.diff(pixels(chain), axis=0).mean(axis=0),
    )
    before = thumbnail(scene.render(0.0).colour)
    told = []
    for k in (0, *STEPS):
        T = np.eye(4)
        T[:3, 3] = k * np.diff(chain, axis=0).mean(axis=0)
        moved = replace(scene, camera_path=still(T @ T_camera_world), _still={})
        now = thumbnail(moved.render(_LATER_S).colour)
        told.append(stood_still(before, now, wound, step))
        place, shifted = correlations(before, now, wound, step)
        print(
            f"{i} {config.camera} moved by {k}: {place:.2f} in place, {shifted:.2f} shifted",
            flush=True,
        )
    return told[0], told[1:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--scenes", type=int, default=40)
    looks = [look(i) for i in range(parser.parse_args().scenes)]
    known = sum(unmoved for unmoved, _ in looks)
    deceived = sum(sum(moved) for _, moved in looks)
    print(f"{known} of {len(looks)} cameras that stood still are known to have; {deceived} of"
          f" {len(STEPS) * len(looks)} that moved are taken for still")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
