# SPDX-License-Identifier: Apache-2.0
"""Parameters of the camera node, and the source that they name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spine_nav_common.parameters import ParameterError, param
from spine_perception.sources import FrameSource


@dataclass(frozen=True)
class CameraSourceConfig:
    """Parameters of the camera node."""

    source: str = param(
        "virtual", "where frames come from", choices=("virtual", "replay", "realsense", "pair")
    )
    camera: str = param("/camera/camera", "prefix of the camera's topics")
    stereo_camera: str = param("/stereo", "replay: prefix of the stereo pair's topics")
    frame_id: str = param("camera_color_optical_frame", "optical frame, where the source has none")
    wait_for_subscriber: bool = param(True, "replay and virtual start when somebody listens")
    listeners: int = param(
        1, "how many must listen to the colour's camera_info first; a recorder is one more", "",
        1, 20,
    )  # fmt: skip
    exit_at_end: bool = param(False, "end the process a second after the last frame")
    publish_clock: bool = param(False, "publish /clock; done anyhow where use_sim_time is set")
    case: str = param("", "virtual: folder of the case that is operated on")
    seed: int = param(0, "virtual: seed of the scene", low=0)
    seconds: float = param(10.0, "virtual: length; 0 = without end", "s", 0.0, 3600.0)
    prerender: bool = param(True, "virtual: render all frames before the first is published")
    recording: str = param("", "replay: rosbag2 folder, .mcap or .db3; realsense: file to play")
    remap: str = param("", "replay: YAML file, the topic looked for: the topic in the recording")
    scenes: tuple[str, ...] = param(
        ("rgbd", "stereo"), "replay: what to play of that which the recording holds"
    )
    rate: float = param(1.0, "replay: speed", "x", 0.05, 20.0)
    loop: bool = param(False, "replay: begin again at the end")
    serial: str = param("", "realsense: serial number; empty = the only camera")
    emitter: str = param(
        "default", "realsense: the depth camera's pattern", choices=("default", "on", "off")
    )
    exposure_us: int = param(
        0, "realsense: exposure of the depth camera; 0 = automatic", "us", 0, 200_000
    )
    pair: str = param(
        "",
        "pair: device number or video side by side, two with a comma, or folder of left/, right/",
    )
    left_calibration: str = param(
        "",
        "pair: YAML of `spinenav calibrate stereo`, or ROS camera_calibration's of the left camera",
    )
    right_calibration: str = param("", "pair: ROS camera_calibration's of the right camera")
    width: int = param(640, "realsense: image width", "px", 320, 1920)
    height: int = param(480, "realsense: image height", "px", 240, 1080)
    fps: int = param(15, "realsense, virtual, pair: frames per second", "Hz", 1, 90)


def make_source(config: CameraSourceConfig) -> FrameSource:
    """The source that the parameters name. Raises with file, field and remedy."""
    if config.source == "replay":
        from spine_perception.sources.recorded import Recorded

        if not config.recording:
            raise ParameterError("source replay: 'recording' is empty; name a recording")
        remap = Path(config.remap) if config.remap else None
        return Recorded(Path(config.recording), remap, config.loop, config.scenes)
    if config.source == "realsense":
        from spine_perception.sources.realsense import RealSense
        from spine_perception.sources.realsense_device import Wanted

        file = Path(config.recording) if config.recording else None
        asked = (config.serial, config.width, config.height, config.fps)
        return RealSense(Wanted(*asked, config.emitter, config.exposure_us), file)
    if config.source == "pair":
        from spine_perception.sources.pair import StereoPair

        return StereoPair(
            config.pair, config.left_calibration, config.right_calibration, config.fps
        )
    from spine_perception.sources.virtual import Virtual

    if not config.case:
        raise ParameterError("source virtual: 'case' is empty; name the folder of a case")
    return Virtual(Path(config.case), config.seed, config.fps, config.seconds, config.prerender)
