# SPDX-License-Identifier: Apache-2.0
"""A recording of a run for Foxglove: camera, overlay, TF, vertebrae, trajectories and status.

Every message holds the whole state, so that jumping in time shows nothing stale: a level that is
not tracked has no TF and no marker.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rod_bending_ar.core.annotation import STATUS_COLOUR
from rod_bending_ar.overlay import STUB_M, draw_overlay
from spine_nav_common.core.geometry import q_xyzw_from_rotation
from spine_nav_common.core.recording_writer import RecordingWriter
from spine_nav_common.core.run import Progress
from spine_nav_common.core.types import (
    Case,
    LevelEstimate,
    Mesh,
    NavigationResult,
    RgbdFrame,
    Status,
)

MESH_FACES = 500
JPEG_QUALITY = 88
CAMERA = "/camera/camera/color"
LEVELS = {Status.TRACKED: 0, Status.OCCLUDED: 1, Status.REGISTERING: 1, Status.SEARCHING: 1}
MARKER = "visualization_msgs/msg/Marker"
ADD, DELETE_ALL = 0, 3
LINE_LIST, SPHERE, TEXT, TRIANGLES = 5, 2, 9, 11


def simplify(mesh: Mesh, faces: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (N, 3) metres and triangles (M, 3) of the mesh with at most about `faces` faces."""
    if len(mesh.faces) <= faces:
        return mesh.vertices_m, np.asarray(mesh.faces)
    import open3d as o3d  # heavy; only where a mesh is really decimated

    full = o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(mesh.vertices_m), o3d.utility.Vector3iVector(mesh.faces)
    )
    small = full.simplify_quadric_decimation(faces)
    return np.asarray(small.vertices), np.asarray(small.triangles)


def write_foxglove(
    folder: Path,
    case: Case,
    frames: Iterable[tuple[RgbdFrame, NavigationResult | None]],
    progress: Progress | None = None,
) -> Path:
    """Write a rosbag2 folder (MCAP) of frames and their results; returns the folder."""
    with RecordingWriter(folder) as writer:
        scribe = _Scribe(writer, case)
        for i, (frame, result) in enumerate(frames, start=1):
            scribe.camera(frame, result)
            if result is not None:
                scribe.state(frame, result)
            if progress is not None:
                progress(i, None, "")
    return folder


class _Scribe:
    """Turns results into messages of rosbags' types."""

    def __init__(self, writer: RecordingWriter, case: Case) -> None:
        self._writer, self._case = writer, case
        self._m = writer.message
        self._meshes = {level: self._triangles(level) for level in case.exposed_levels}
        self._shown: tuple[str, ...] | None = None

    def _triangles(self, level: str) -> list[Any]:
        vertices, faces = simplify(self._case.meshes[level], MESH_FACES)
        return [self._point(p) for p in vertices[faces].reshape(-1, 3)]

    def _point(self, p: np.ndarray) -> Any:
        return self._m("geometry_msgs/msg/Point", x=float(p[0]), y=float(p[1]), z=float(p[2]))

    def _vector(self, x: float, y: float, z: float) -> Any:
        return self._m("geometry_msgs/msg/Vector3", x=float(x), y=float(y), z=float(z))

    def _rotation(self, R: np.ndarray) -> Any:
        x, y, z, w = (float(v) for v in q_xyzw_from_rotation(R))
        return self._m("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)

    def _pose(self, T: np.ndarray) -> Any:
        return self._m(
            "geometry_msgs/msg/Pose",
            position=self._point(T[:3, 3]),
            orientation=self._rotation(T[:3, :3]),
        )

    def _jpeg(self, image: np.ndarray) -> np.ndarray:
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].ravel()

    def camera(self, frame: RgbdFrame, result: NavigationResult | None) -> None:
        """Camera image, camera_info and overlay, as JPEG."""
        picture = draw_overlay(
            frame.colour, frame.intrinsics, self._case, result, frame.depth_m,
            stamp_ns=frame.stamp_ns,
        )  # fmt: skip
        header = self._writer.header(frame.stamp_ns, frame.frame_id)
        kind = "sensor_msgs/msg/CompressedImage"
        for topic, image in (
            (f"{CAMERA}/image_raw/compressed", frame.colour),
            ("/spine/overlay/image/compressed", picture),
        ):
            message = self._m(kind, header=header, format="jpeg", data=self._jpeg(image))
            self._writer.write(topic, kind, message, frame.stamp_ns)
        self._writer.write_camera_info(f"{CAMERA}/camera_info", frame)

    def state(self, frame: RgbdFrame, result: NavigationResult) -> None:
        """TF, vertebra poses, status, and markers of one frame."""
        stamp_ns = frame.stamp_ns
        header = self._writer.header(stamp_ns, frame.frame_id)
        live = [e for e in result.levels if e.status is Status.TRACKED]
        transforms = [
            self._m(
                "geometry_msgs/msg/TransformStamped",
                header=header,
                child_frame_id=f"vertebra_{e.level}",
                transform=self._m(
                    "geometry_msgs/msg/Transform",
                    translation=self._vector(*e.T_camera_ct[:3, 3]),
                    rotation=self._rotation(e.T_camera_ct[:3, :3]),
                ),
            )
            for e in live
        ]
        self._put("/tf", "tf2_msgs/msg/TFMessage", stamp_ns, transforms=transforms)
        self._put(
            "/spine/registration/vertebra_poses", "geometry_msgs/msg/PoseArray", stamp_ns,
            header=header, poses=[self._pose(e.T_camera_ct) for e in live],
        )  # fmt: skip
        self._status(stamp_ns, header, result, [e.level for e in live])
        shown = tuple(e.level for e in live)
        if shown != self._shown:
            self._shown = shown
            markers = [self._marker(header, "", 0, DELETE_ALL, 0)]
            markers += [self._bone(stamp_ns, level) for level in shown]
            self._markers("/spine/vertebrae", stamp_ns, markers)
        markers = [self._marker(header, "", 0, DELETE_ALL, 0)]
        for estimate in live:
            markers += self._trajectories(stamp_ns, estimate)
        self._markers("/spine/guidance/trajectories", stamp_ns, markers)

    def _put(self, topic: str, kind: str, stamp_ns: int, **fields: Any) -> None:
        self._writer.write(topic, kind, self._m(kind, **fields), stamp_ns)

    def _status(
        self, stamp_ns: int, header: Any, result: NavigationResult, live: list[str]
    ) -> None:
        entries = []
        for e in result.levels:
            values = {
                "level": e.level,
                "status": e.status.value,
                "reason": e.reason,
                "predicted_tre_mm": "" if e.predicted_tre_mm is None else str(e.predicted_tre_mm),
                "pose_index": str(live.index(e.level) if e.level in live else -1),
            }
            entries.append(
                self._m(
                    "diagnostic_msgs/msg/DiagnosticStatus",
                    level=LEVELS.get(e.status, 2),
                    name=f"registration: {e.level}",
                    message=e.reason or e.status.value,
                    hardware_id="",
                    values=[
                        self._m("diagnostic_msgs/msg/KeyValue", key=k, value=v)
                        for k, v in values.items()
                    ],
                )
            )
        kind = "diagnostic_msgs/msg/DiagnosticArray"
        self._put("/spine/registration/status", kind, stamp_ns, header=header, status=entries)

    def _markers(self, topic: str, stamp_ns: int, markers: list[Any]) -> None:
        self._put(topic, "visualization_msgs/msg/MarkerArray", stamp_ns, markers=markers)

    def _colour(self, rgb: tuple[int, int, int], alpha: float = 1.0) -> Any:
        r, g, b = (c / 255.0 for c in rgb)
        return self._m("std_msgs/msg/ColorRGBA", r=r, g=g, b=b, a=alpha)

    def _marker(
        self, header: Any, namespace: str, number: int, action: int, kind: int, **given: Any
    ) -> Any:
        texture = self._m(
            "sensor_msgs/msg/CompressedImage", header=self._writer.header(0, ""), format="",
            data=np.zeros(0, np.uint8),
        )  # fmt: skip
        fields: dict[str, Any] = {
            "header": header, "ns": namespace, "id": number, "type": kind, "action": action,
            "pose": self._pose(np.eye(4)), "scale": self._vector(1.0, 1.0, 1.0),
            "color": self._colour((255, 255, 255)),
            "lifetime": self._m("builtin_interfaces/msg/Duration", sec=0, nanosec=0),
            "frame_locked": True, "points": [], "colors": [], "texture_resource": "",
            "texture": texture, "uv_coordinates": [], "text": "", "mesh_resource": "",
            "mesh_file": self._m(
                "visualization_msgs/msg/MeshFile", filename="", data=np.zeros(0, np.uint8)
            ),
            "mesh_use_embedded_materials": False,
        }  # fmt: skip
        return self._m(MARKER, **{**fields, **given})

    def _bone(self, stamp_ns: int, level: str) -> Any:
        header = self._writer.header(stamp_ns, f"vertebra_{level}")
        return self._marker(
            header, level, 0, ADD, TRIANGLES, points=self._meshes[level],
            color=self._colour((232, 221, 200), 0.9),
        )  # fmt: skip

    def _trajectories(self, stamp_ns: int, estimate: LevelEstimate) -> list[Any]:
        """Per planned screw: axis, entry with its 95 % bound as a sphere, and the number."""
        header = self._writer.header(stamp_ns, f"vertebra_{estimate.level}")
        bound_m = 1e-3 * (estimate.predicted_tre_mm or 0.0)
        green = self._colour(STATUS_COLOUR[Status.TRACKED], 0.5)
        markers = []
        for i, plan in enumerate(p for p in self._case.plan if p.level == estimate.level):
            axis = (plan.entry_m - plan.target_m) / np.linalg.norm(plan.entry_m - plan.target_m)
            namespace = f"{plan.level}_{plan.side}"
            line = [self._point(plan.target_m), self._point(plan.entry_m + STUB_M * axis)]
            at_entry, at_end = np.eye(4), np.eye(4)
            at_entry[:3, 3] = plan.entry_m
            at_end[:3, 3] = plan.entry_m + 1.2 * STUB_M * axis
            size = self._vector(2 * bound_m, 2 * bound_m, 2 * bound_m)
            markers += [
                self._marker(
                    header, namespace, 3 * i, ADD, LINE_LIST, points=line,
                    scale=self._vector(0.001, 0.0, 0.0), color=self._colour((90, 235, 255)),
                ),
                self._marker(
                    header, namespace, 3 * i + 1, ADD, SPHERE, pose=self._pose(at_entry),
                    scale=size, color=green,
                ),
                self._marker(
                    header, namespace, 3 * i + 2, ADD, TEXT, pose=self._pose(at_end),
                    scale=self._vector(0.0, 0.0, 0.006),
                    text=f"{plan.level} {plan.side[0].upper()} {1e3 * bound_m:.1f} mm",
                ),
            ]  # fmt: skip
        return markers
