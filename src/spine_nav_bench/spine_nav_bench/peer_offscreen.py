# SPDX-License-Identifier: Apache-2.0
"""Draws a scene that bench_overlay wrote with Open3D's OffscreenRenderer, over and over, on one core;
prints {"ms": [...]}: a process of its own, since it needs another Vulkan and may not end well."""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np


def main(path: str, pictures: int) -> int:
    """Each picture: the pose set anew, everything drawn over the camera's picture, read back."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import open3d as o3d
    from open3d.visualization import rendering

    data = np.load(path)
    height, width = data["colour"].shape[:2]
    renderer = rendering.OffscreenRenderer(width, height)
    renderer.scene.view.set_post_processing(False)  # as little as it can do
    renderer.scene.view.set_shadowing(False)
    bone = rendering.MaterialRecord()
    bone.shader, bone.base_color = "defaultLitTransparency", (0.25, 0.88, 0.47, 0.45)
    line = rendering.MaterialRecord()
    line.shader, line.line_width = "unlitLine", 3.0
    names = []
    for i in range(sum(k.startswith("vertices_") for k in data.files)):
        mesh = o3d.geometry.TriangleMesh(
            o3d.utility.Vector3dVector(data[f"vertices_{i}"]),
            o3d.utility.Vector3iVector(data[f"faces_{i}"]),
        )
        mesh.compute_vertex_normals()
        renderer.scene.add_geometry(f"bone {i}", mesh, bone)
        names.append(f"bone {i}")
    for kind in ("lines", "rods"):
        for i, points in enumerate(data[kind]):
            pairs = np.stack([np.arange(len(points) - 1), np.arange(1, len(points))], axis=1)
            strip = o3d.geometry.LineSet(
                o3d.utility.Vector3dVector(points), o3d.utility.Vector2iVector(pairs)
            )
            renderer.scene.add_geometry(f"{kind} {i}", strip, line)
            names.append(f"{kind} {i}")
    fx, fy, cx, cy = data["K"]
    pinhole = o3d.camera.PinholeCameraIntrinsic(width, height, fx, fy, cx, cy)
    renderer.setup_camera(pinhole, np.eye(4))
    times = []
    for k in range(pictures + 1):
        start = time.perf_counter()
        renderer.scene.set_background([0.0, 0.0, 0.0, 1.0], o3d.geometry.Image(data["colour"]))
        pose = data["T"].copy()
        pose[0, 3] += 1e-4 * k
        for name in names:
            renderer.scene.set_geometry_transform(name, pose)
        np.asarray(renderer.render_to_image())
        times.append((time.perf_counter() - start) * 1e3)
    print(json.dumps({"ms": times[1:]}), flush=True)
    os._exit(0)  # Filament does not always end


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], int(sys.argv[2])))
