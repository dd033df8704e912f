# SPDX-License-Identifier: Apache-2.0
"""The overlay: how long one picture takes on one core, beside Open3D's offscreen renderer drawing the
same scene in the same run, and how far what is drawn lies from the exact projection."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rod_bending_ar.core.cortex import Margins
from rod_bending_ar.core.extras import Extras, NextBend, PlacedScrew, ShownRod, ToolAxis, usable
from rod_bending_ar.core.forward import BendStep
from rod_bending_ar.core.lens import Lens
from rod_bending_ar.core.paint import Ink, Stroke
from rod_bending_ar.core.screw_check import Known, check_screw
from rod_bending_ar.core.silhouette import silhouette
from rod_bending_ar.overlay import draw_overlay
from spine_nav_common.core.geometry import exp_so3, perturb_about, transform, transform_points
from spine_nav_common.core.progress import Progress
from spine_nav_common.core.types import (
    Case,
    Intrinsics,
    LevelEstimate,
    Mesh,
    NavigationResult,
    Rejected,
    Status,
)
from spine_nav_sim.core.anatomy import make_anatomy

SIZE = (1280, 720)
SEED, VIEWS, PICTURES, PEER_PICTURES = 410_000, 8, 50, 3  # pictures beside each view
FINER = 8  # exact outlines are drawn on a grid this much finer
EXAMPLE_COVARIANCE = 1e-6 * np.diag([0.06, 0.2, 0.9, 60.0, 90.0, 20.0])  # m^2, rad^2
_FOCAL_PX, _DISTANCE_M = 920.0, 0.5
_BEHIND = np.array([[-1.0, 0, 0], [0, 0, -1], [0, -1, 0]])  # LPS seen from behind, head up
_VULKAN = Path("/usr/lib/chromium")  # Debian's chromium brings a Vulkan of the CPU
_STAMP_NS = 1_000_000_000
_BORDER_PX = 4  # an outline at the picture's border is the picture's


@dataclass(frozen=True)
class Scene:
    """One picture: camera with distortion, case, result, what stands beside it, image and depth."""

    lens: Lens
    case: Case
    result: NavigationResult
    extras: Extras
    colour: np.ndarray
    depth_m: np.ndarray

    def draw(self, strokes: list[Stroke] | None = None) -> np.ndarray:
        """The picture as the node draws it."""
        return draw_overlay(
            self.colour, self.lens, self.case, self.result, self.depth_m, stamp_ns=_STAMP_NS,
            age_ms=40.0, extras=self.extras, strokes=strokes,
        )  # fmt: skip


def make_scene(seed: int) -> Scene:
    """Five vertebrae with ten planned and ten placed screws, both rods, a bend and a tool, seen from
    a random direction through a lens with distortion."""
    rng = np.random.default_rng(seed)
    anatomy = make_anatomy(rng)
    case = Case(anatomy.name, "LPS", anatomy.meshes, tuple(anatomy.meshes), anatomy.plan, "")
    D = np.array([0.12, -0.25, 0.001, -0.0015, 0.08]) * rng.uniform(0.5, 1.5, 5)
    lens = Lens(Intrinsics(*SIZE, _FOCAL_PX, _FOCAL_PX, 640.0, 360.0), D)
    R = exp_so3(rng.normal(0.0, 0.15, 3)) @ exp_so3(np.array([0, 0, rng.uniform(-3, 3)])) @ _BEHIND
    middle = np.mean([m.vertices_m.mean(axis=0) for m in case.meshes.values()], axis=0)
    T = transform(R, np.array([*rng.uniform(-0.03, 0.03, 2), _DISTANCE_M]) - R @ middle)
    levels = tuple(
        LevelEstimate(
            v,
            Status.TRACKED,
            T,
            1e-6 * np.diag([0.1, 0.2, 0.9, 50.0, 80.0, 20.0]),
            transform_points(T, case.meshes[v].vertices_m.mean(axis=0)),
            float(rng.uniform(1.0, 3.0)),
        )
        for v in case.exposed_levels
    )
    result = NavigationResult(_STAMP_NS, levels)
    margins = Margins(case)
    extras = usable(example_extras(case, margins, rng), result)
    colour = rng.integers(40, 160, (SIZE[1] // 8, SIZE[0] // 8, 3), np.uint8)
    colour = cv2.resize(colour, SIZE, interpolation=cv2.INTER_CUBIC)
    depth = np.full(SIZE[::-1], 0.56, np.float32)
    for mesh in case.meshes.values():
        seen = silhouette(mesh, T, lens)
        if seen is not None:
            h, w = seen.mask.shape
            part = depth[seen.y0 : seen.y0 + h, seen.x0 : seen.x0 + w]
            part[seen.mask] = np.minimum(part[seen.mask], seen.depth_m[seen.mask])
    return Scene(lens, case, result, extras, colour, depth)


def example_extras(
    case: Case, margins: Margins, rng: np.random.Generator, stamp_ns: int = _STAMP_NS
) -> Extras:
    """Screws of one piece near their plan, rods through their heads, a bend and a tool."""
    screws = []
    for plan in case.plan:
        way = (plan.target_m - plan.entry_m) / np.linalg.norm(plan.target_m - plan.entry_m)
        out = -way + rng.normal(0.0, 0.04, 3)
        head = plan.entry_m - 0.012 * way + rng.normal(0.0, 1.5e-3, 3)
        check = check_screw(margins, plan, head, out, Known(1.5, 1.5, play_deg=0.0))
        out = out / np.linalg.norm(out)
        screws.append(PlacedScrew(plan.level, plan.side, head, out, 1.5, stamp_ns, check))
    rods = []
    for side in ("left", "right"):
        heads = np.array([s.head_m for s in screws if s.side == side])
        t = np.linspace(0.0, len(heads) - 1.0, 160)
        curve = np.stack([np.interp(t, np.arange(len(heads)), heads[:, k]) for k in range(3)], 1)
        rods += [
            ShownRod(case.exposed_levels[2], curve + (0.0, 0.002 * planned, 0.0), planned, stamp_ns)
            for planned in (False, True)
        ]
    bend = NextBend("left", "bending", "", BendStep(2, 61.5, -35.0, 18.0, 20.4), 3, stamp_ns)
    aim = case.plan[2]
    out = (aim.entry_m - aim.target_m) / np.linalg.norm(aim.entry_m - aim.target_m)
    out = out + rng.normal(0.0, 0.03, 3)
    out = out / np.linalg.norm(out)
    tool = ToolAxis(aim.level, aim.entry_m + rng.normal(0.0, 1e-3, 3), out, 0.8, stamp_ns, 1.5, 2.1)
    return Extras(margins, tuple(screws), tuple(rods), (bend,), tool)


def overlay_record(smoke: bool = False, progress: Progress | None = None) -> dict[str, Any]:
    """Times over one scene, errors over several."""
    views, pictures = (1, 5) if smoke else (VIEWS, PICTURES)
    scenes: list[Scene] = []
    ms: list[float] = []
    loops: list[float] = []
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        for k in range(views):  # pictures in between: the machine's speed changes by the second
            scenes.append(make_scene(SEED + k))
            ms += draw_ms(scenes[0], pictures, SEED + k)
            loops.append(loop_ms())
            if progress is not None:
                progress(k + 1, views, "scenes")
    finally:
        cv2.setNumThreads(before)
    peer = offscreen_ms(scenes[0], min(pictures, PEER_PICTURES))
    outline = np.concatenate([outline_errors_px(s) for s in scenes])
    marks = np.concatenate([mark_errors_px(s) for s in scenes])
    return {
        "size": list(SIZE),
        "seeds": [SEED + k for k in range(views)],
        "faces": [len(m.faces) for m in scenes[0].case.meshes.values()],
        "drawn": {"vertebrae": 5, "planned": 10, "placed": 10, "rods": 4, "bends": 1, "tools": 1},
        "draw_ms": spread(ms),
        "loop_ms": float(np.median(loops)),
        "loop_range_ms": [min(loops), max(loops)],
        "open3d_ms": None if isinstance(peer, Rejected) else spread(peer),
        "open3d_note": peer.reason if isinstance(peer, Rejected) else offscreen_words(),
        "outline_px": spread(outline),
        "marks_px": spread(marks),
        "raster_px": spread(raster_errors_px()),
    }  # fmt: skip


def loop_ms() -> float:
    """How fast this machine is just now: a loop of plain Python, whose time halves and doubles."""
    start, total = time.perf_counter(), 0
    for i in range(300_000):
        total += i * i
    return (time.perf_counter() - start) * 1e3


def spread(values: Sequence[float] | np.ndarray) -> dict[str, float | int]:
    """Median, p95, p99, most and count."""
    v = np.asarray(values, float)
    q = np.percentile(v, [50, 95, 99])
    return {
        "median": float(q[0]), "p95": float(q[1]), "p99": float(q[2]), "max": float(v.max()),
        "count": len(v),
    }  # fmt: skip


def draw_ms(scene: Scene, pictures: int, seed: int = SEED) -> list[float]:
    """Wall time of each picture, after everything is warm. The poses are other ones in every
    picture, by what a hand moves a camera: nothing is kept that a live picture would not have."""
    rng = np.random.default_rng(seed)
    scenes = [_moved(scene, rng) for _ in range(pictures)]
    for _ in range(3):
        scene.draw()
    times = []
    for moved in scenes:
        start = time.perf_counter()
        moved.draw()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def _moved(scene: Scene, rng: np.random.Generator) -> Scene:
    """The same seen from up to some millimetres and a degree beside."""
    xi = np.concatenate([rng.normal(0.0, 2e-3, 3), rng.normal(0.0, 0.01, 3)])
    levels = tuple(
        replace(e, T_camera_ct=perturb_about(e.T_camera_ct, xi, np.array([0.0, 0.0, _DISTANCE_M])))
        for e in scene.result.levels
        if e.T_camera_ct is not None
    )
    return replace(scene, result=replace(scene.result, levels=levels))


def mark_errors_px(scene: Scene) -> np.ndarray:
    """Entry rings and target dots: the middle of each drawn ring from OpenCV's projection."""
    strokes: list[Stroke] = []
    scene.draw(strokes)
    middles = np.array([s.points[:-1].mean(axis=0) for s in strokes if _closed(s)])
    T = scene.result.levels[0].T_camera_ct
    assert T is not None
    ends = np.array([q for p in scene.case.plan for q in (p.entry_m, p.target_m)])
    exact = exact_px(scene.lens, transform_points(T, ends))
    away = np.linalg.norm(exact[:, None] - middles[None], axis=2).min(axis=1)
    return away[_inside(exact)]


def _closed(stroke: Stroke) -> bool:
    return len(stroke.points) > 8 and bool(np.allclose(stroke.points[0], stroke.points[-1]))


def _inside(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(((pixels >= _BORDER_PX) & (pixels < np.array(SIZE) - _BORDER_PX)).all(axis=1))


def exact_px(lens: Lens, points_m: np.ndarray) -> np.ndarray:
    """OpenCV's projection (N, 2) of points (N, 3) in the camera's frame."""
    k = lens.pinhole
    K = np.array([[k.fx, 0.0, k.cx], [0.0, k.fy, k.cy], [0.0, 0.0, 1.0]])
    none = np.zeros(3)
    return cv2.projectPoints(points_m, none, none, K, lens.distortion)[0].reshape(-1, 2)


def raster_errors_px(count: int = 200) -> np.ndarray:
    """How far a drawn dot's centroid lies from where it was to be drawn, at random places."""
    rng = np.random.default_rng(SEED)
    errors = []
    for _ in range(count):
        image = np.zeros((40, 40, 3), np.uint8)
        at = 20.0 + rng.uniform(-0.5, 0.5, 2)
        ink = Ink()
        ink.dot(at, 3.0, (255, 255, 255))
        ink.flush(image)
        weight = image[..., 0].astype(float)
        y, x = np.indices(weight.shape)
        middle = np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()
        errors.append(float(np.linalg.norm(middle - at)))
    return np.array(errors)


def outline_errors_px(scene: Scene) -> np.ndarray:
    """Every half pixel along the drawn outlines: how far the outline of the whole, unthinned mesh,
    projected vertex by vertex by OpenCV onto a finer grid, is away."""
    errors = []
    for estimate in scene.result.levels:
        T = estimate.T_camera_ct
        assert T is not None
        alone = NavigationResult(_STAMP_NS, (estimate,))
        strokes: list[Stroke] = []
        case = Case(
            "one", "LPS", {estimate.level: scene.case.meshes[estimate.level]}, (estimate.level,),
            (), "",
        )  # fmt: skip
        draw_overlay(scene.colour, scene.lens, case, alone, strokes=strokes)
        lines = [dense(s.points) for s in strokes if _closed(s)]
        if not lines:
            continue
        drawn = np.concatenate(lines)
        drawn = drawn[_inside(drawn)]
        away, corner = exact_border(scene.case.meshes[estimate.level], T, scene.lens)
        cells = np.round((drawn - corner + 0.5) * FINER - 0.5).astype(int)
        good = ((cells >= 0) & (cells < np.array(away.shape[::-1]))).all(axis=1)
        errors.append(away[cells[good, 1], cells[good, 0]] / FINER)
    return np.concatenate(errors)


def dense(points: np.ndarray) -> np.ndarray:
    """A polyline's points every half pixel."""
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    at = np.arange(0.0, arc[-1], 0.5)
    return np.stack([np.interp(at, arc, points[:, k]) for k in (0, 1)], axis=1)


def exact_border(mesh: Mesh, T: np.ndarray, lens: Lens) -> tuple[np.ndarray, np.ndarray]:
    """Distance (h, w) in finer cells to the outer borders of the mesh's exact image, and the pixel
    of the first cell's corner. Holes do not count, as they are not drawn."""
    pixels = exact_px(lens, transform_points(T, mesh.vertices_m))
    corner = np.floor(pixels.min(axis=0)) - 3.0
    size = np.ceil((pixels.max(axis=0) - corner + 4.0) * FINER).astype(int)
    image = np.zeros(size[::-1], np.uint8)
    cells = np.round(((pixels - corner + 0.5) * FINER - 0.5) * 16).astype(np.int32)
    for face in mesh.faces:
        cv2.fillConvexPoly(image, cells[face], 255, cv2.LINE_8, 4)
    contours, _ = cv2.findContours(image, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    border = np.full(size[::-1], 255, np.uint8)
    cv2.drawContours(border, contours, -1, 0, 1)
    return cv2.distanceTransform(border, cv2.DIST_L2, 5), corner


def offscreen_words() -> str:
    """What the peer is drawn by."""
    return "Filament on SwiftShader (a Vulkan of the CPU), one core, read back"


def offscreen_ms(scene: Scene, pictures: int) -> list[float] | Rejected:
    """Open3D's OffscreenRenderer on the same meshes, planned screws and rods, in a process of its
    own on one core; or why it does not run here."""
    environment = dict(os.environ)
    if (_VULKAN / "libvulkan.so.1").exists():
        environment["LD_LIBRARY_PATH"] = str(_VULKAN)
        environment["VK_ICD_FILENAMES"] = str(_VULKAN / "vk_swiftshader_icd.json")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scene.npz"
        _write(scene, path)
        command = [sys.executable, "-m", "spine_nav_bench.peer_offscreen", path, str(pictures)]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=300, check=False
            )
        except subprocess.TimeoutExpired:
            return Rejected("it did not end in 300 s")
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            return [float(v) for v in json.loads(line)["ms"]]
    said = (done.stderr or done.stdout).strip().splitlines()
    return Rejected(said[-1] if said else f"ended with {done.returncode}")


def _write(scene: Scene, path: Path) -> None:
    T = scene.result.levels[0].T_camera_ct
    assert T is not None
    arrays: dict[str, Any] = {"T": T, "colour": scene.colour}
    k = scene.lens.pinhole
    arrays["K"] = np.array([k.fx, k.fy, k.cx, k.cy])
    for i, mesh in enumerate(scene.case.meshes.values()):
        arrays[f"vertices_{i}"], arrays[f"faces_{i}"] = mesh.vertices_m, mesh.faces
    arrays["lines"] = np.array([(p.entry_m, p.target_m) for p in scene.case.plan])
    arrays["rods"] = np.array([r.curve_m for r in scene.extras.rods])
    np.savez(path, **arrays)
