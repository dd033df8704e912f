# SPDX-License-Identifier: Apache-2.0
"""A whole virtual operation seen by both cameras of one rig: opened, screws placed, rods laid in."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from spine_nav_common.core.case import write_case
from spine_nav_common.core.errors import InputError
from spine_nav_common.core.geometry import invert
from spine_nav_common.core.recording_writer import RecordingWriter
from spine_nav_common.core.static_frames import StaticTransform
from spine_nav_common.core.types import Case, RgbdFrame, StereoFrame
from spine_nav_sim.core import operation
from spine_nav_sim.core import sensor as sensors
from spine_nav_sim.core.anatomy import Anatomy
from spine_nav_sim.core.motion import CameraPath, SpineMotion, rigid
from spine_nav_sim.core.render import Solid
from spine_nav_sim.core.scene_props import Prop
from spine_nav_sim.core.scene_render import Rendered, Scene
from spine_nav_sim.core.stereo_config import StereoConfig
from spine_nav_sim.core.stereo_layout import make_stereo_scene
from spine_nav_sim.core.stereo_scene import FIRST_ROD, OTHER_METAL, StereoRendered, StereoScene

CAMERA = "d415"
HARDNESS = 0.35
ABOVE_M, NOD_RAD = (
    0.035,
    0.07,
)  # the colour camera sits above the pair's middle and nods to the wound
RGBD_HZ = 15.0
METAL = np.array([0.42, 0.41, 0.40])


# As one would mount it: 10 cm baseline across the spine, because two eyes do not tell the depth of a
# rod that runs along the line between them, 45 cm above the wound, which fills the picture's height.
# The rods have the overhang that is planned (`rod_bending_ar.core.plan.RodOrder`), so that they can
# be the planned rods.
MOUNTED = StereoConfig(
    scene=replace(
        StereoConfig().scene, distance_m=(0.43, 0.47), roll_deg=(80.0, 100.0), off_centre=0.1
    ),
    sizes=((640, 480),),
    filled=(0.55, 0.6),
    baseline_m=(0.1, 0.1),
    screws=(10, 10),
    missing_share=0.0,
    rods="seated",
    one_rod_share=0.0,
    overhang_m=(0.01, 0.01),
)
SCENE = replace(
    MOUNTED,
    scene=replace(
        MOUNTED.scene,
        exposed=("L2", "L3", "L4"),
        fps=5.0,
        hardness=HARDNESS,
        tool_passes=False,
    ),
)


@dataclass(frozen=True)
class Stages:
    """When the operation goes on, as shares of its time: screws are placed, rods are laid in."""

    screws: float = 0.35
    rods: float = 0.7


@dataclass(frozen=True)
class Mounted:
    """The path of a camera that is fixed to another: T_camera_base (4, 4)."""

    base: CameraPath
    T_camera_base: np.ndarray

    def T_camera_world(self, t_s: float) -> np.ndarray:
        """(4, 4) pose at `t_s` seconds."""
        return np.asarray(self.T_camera_base @ self.base.T_camera_world(t_s))

    @property
    def moves(self) -> bool:
        """Whether the pose depends on time."""
        return self.base.moves


@dataclass(frozen=True)
class MetalProp:
    """An implant as the RGB-D camera's scene draws it: there from `since_s` on, moving with its
    vertebra."""

    solid: Solid
    level: str | None
    T_part: np.ndarray
    since_s: float
    motion: SpineMotion
    T_world_wound: np.ndarray
    albedo: np.ndarray
    gloss: float = 0.9
    sharpness: float = 60.0
    passes: tuple[bool, ...] = (True,)  # it does not rest: drawn anew in each frame

    def pose(self, t_s: float) -> np.ndarray | None:
        """T_wound_prop at `t_s`, None before it is placed."""
        if t_s < self.since_s:
            return None
        T = (
            self.T_part
            if self.level is None
            else self.motion.T_world_ct(self.level, t_s) @ self.T_part
        )
        return np.asarray(invert(self.T_world_wound) @ T)


@dataclass
class Rig:
    """Both cameras over one operation. T_colour_left (4, 4): points of the left camera in the colour
    camera's frame."""

    rgbd: Scene
    stereo: StereoScene
    T_colour_left: np.ndarray
    screws_s: float
    rods_s: float

    def pair(self, t_s: float) -> StereoRendered:
        """The stereo pair at `t_s` seconds, with the metal that is there by then."""
        return self._stereo_at(t_s).render(t_s)

    def _stereo_at(self, t_s: float) -> StereoScene:
        stereo = self.stereo
        if t_s >= self.rods_s:
            return stereo
        kept = [i for i in stereo.implants if t_s >= self.screws_s and not _is_rod(i.owner)]
        screws = stereo.screws if t_s >= self.screws_s else ()
        scene = stereo.scene if t_s >= self.screws_s else replace(stereo.scene, casters=[])
        return replace(stereo, scene=scene, screws=screws, rods=(), implants=tuple(kept))


def _is_rod(owner: int) -> bool:
    return FIRST_ROD <= owner < OTHER_METAL


def make_rig(
    anatomy: Anatomy,
    rng: np.random.Generator,
    config: StereoConfig,
    seconds: float,
    stages: Stages | None = None,
) -> Rig:
    """An operation over `anatomy` with seated rods, seen by a stereo and an RGB-D camera (D415).

    Raises ValueError for what `make_stereo_scene` refuses.
    """
    stages = stages or Stages()
    config = replace(config, scene=replace(config.scene, seconds=seconds), rods="seated")
    stereo = make_stereo_scene(anatomy, rng, config)
    scene = stereo.scene
    nod = rigid(np.array([NOD_RAD, 0.0, 0.0]), np.zeros(3), np.zeros(3))
    beside = np.eye(4)
    beside[:3, 3] = (-0.5 * stereo.baseline_m, ABOVE_M, 0.0)
    T_colour_left = np.asarray(nod @ beside)
    model = sensors.CAMERAS[CAMERA]
    distance_m = float(np.mean(config.scene.distance_m or model.mount_m))
    screws_s, rods_s = stages.screws * seconds, stages.rods * seconds
    metal = [
        MetalProp(
            i.solid, i.level, i.T_part, rods_s if _is_rod(i.owner) else screws_s,
            scene.motion, scene.T_world_wound, METAL,
        )
        for i in stereo.implants
    ]  # fmt: skip
    props: list[Prop] = [*scene.props, *metal]  # type: ignore[list-item]  # of the same shape
    rgbd = replace(
        scene,
        config=replace(scene.config, fps=RGBD_HZ, camera=CAMERA),
        intrinsics=sensors.camera_intrinsics(model, 640, 480, rng),
        camera_path=Mounted(scene.camera_path, T_colour_left),  # type: ignore[arg-type]
        camera_model=model,
        depth_noise=sensors.random_depth_noise(rng, model, HARDNESS, distance_m),
        props=props,
        casters=[],
        _still={},
    )
    return Rig(rgbd, stereo, T_colour_left, screws_s, rods_s)


def simulate_rig(
    out_dir: Path,
    anatomy: Anatomy | Path | None = None,
    seed: int = 0,
    seconds: float = 12.0,
    config: StereoConfig | None = None,
    stages: Stages | None = None,
    progress: operation.Progress | None = None,
) -> Rig:
    """Write out_dir/case, recording (MCAP, with the rig on /tf_static) and truth.json, as `simulate`.

    The stamps of both cameras are of one clock. truth.json's frames are of the RGB-D camera, its
    screws and rods of the left one. Raises InputError for an output that exists, a scene that is
    refused.
    """
    out_dir = Path(out_dir)
    operation.refuse(out_dir, seconds)
    rng = np.random.default_rng(seed)
    anatomy = operation.anatomy_of(anatomy, rng, seed)
    try:
        rig = make_rig(anatomy, rng, config or SCENE, seconds, stages)
    except ValueError as error:
        raise InputError("simulate", "rig", str(error), "choose another seed") from error
    exposed = rig.stereo.exposed
    write_case(
        out_dir / "case", Case(anatomy.name, "LPS", anatomy.meshes, exposed, anatomy.plan, "")
    )
    truth = operation.truth_document(anatomy, exposed)
    jobs: list[tuple[float, bool]] = [
        (float(t), wide)
        for wide, hz in ((True, RGBD_HZ), (False, rig.stereo.scene.config.fps))
        for t in operation.times(seconds, hz)
    ]
    jobs.sort(key=lambda job: (job[0], not job[1]))
    with RecordingWriter(out_dir / "recording") as writer:
        fixed = StaticTransform(
            StereoFrame.frame_id, RgbdFrame.frame_id, invert(rig.T_colour_left), "rig"
        )
        writer.write_static([fixed], operation.START_NS)
        for done, frame in enumerate(operation.render_all(_Both(rig), jobs), 1):
            stamp_ns = operation.stamp(frame.t_s)
            if isinstance(frame, Rendered):
                writer.write_rgbd(frame.to_frame(stamp_ns))
                truth["frames"].append(operation.truth_frame(frame, stamp_ns))
            else:
                writer.write_stereo(frame.to_frame(stamp_ns))
                truth["screws"] += operation.truth_screws(frame, stamp_ns)
                truth["rods"] += operation.truth_rods(frame, stamp_ns)
            if progress is not None:
                progress(done, len(jobs), "")
    (out_dir / "truth.json").write_text(json.dumps(truth) + "\n", encoding="utf-8")
    return rig


class _Both:
    """Either camera's frame at a time: (seconds, whether the RGB-D camera's)."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    def render(self, job: tuple[float, bool]) -> Rendered | StereoRendered:
        t_s, wide = job
        return self._rig.rgbd.render(t_s) if wide else self._rig.pair(t_s)
