# SPDX-License-Identifier: Apache-2.0
"""What `spinenav live` was asked for, and the checked parameters of each node that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from spine_nav_common.core.calibrations import calibrations
from spine_nav_common.core.graph import EXTRAS, NODES, USE_CASES, use_case_values
from spine_nav_common.core.recorded_messages import load_remap
from spine_nav_common.core.recorded_scenes import open_scenes
from spine_nav_common.parameters import ParameterError, load_file, parse_assignment
from spine_nav_common.ros.topics import (
    COLOUR,
    COLOUR_INFO,
    DEFAULT_NAMESPACE,
    DEPTH,
    LEFT,
    LEFT_INFO,
    OWN_DEPTH,
    OWN_DEPTH_INFO,
    RIGHT,
    RIGHT_INFO,
)
from spine_nav_display.core.binding import check_display
from spine_nav_display.ros.foxglove_config import check_foxglove
from spine_nav_display.ros.openigtlink_config import check_openigtlink

SOURCES = (
    "realsense[:SERIAL or recorded file], pair:DEVICE, VIDEO or FOLDER, stereo, ros, replay:RECORDING or"
    " virtual"
)
_NAMED = {"replay": True, "pair": True, "realsense": False}  # source to whether it must be named
COMPUTING = {"navigation": "rgbd", "stereo_tracker": "stereo"}  # node to the scene it works on
_TOPICS = {  # parameter of a node to the contract's name of its topic
    "navigation": {"colour_topic": COLOUR, "depth_topic": DEPTH, "info_topic": COLOUR_INFO},
    "overlay": {"colour_topic": COLOUR, "depth_topic": DEPTH, "info_topic": COLOUR_INFO},
    "display": {"info_topic": COLOUR_INFO},
    "depth_aligner": {
        "depth_topic": OWN_DEPTH,
        "depth_info_topic": OWN_DEPTH_INFO,
        "info_topic": COLOUR_INFO,
    },
    "stereo_tracker": {
        "left_topic": LEFT,
        "right_topic": RIGHT,
        "left_info_topic": LEFT_INFO,
        "right_info_topic": RIGHT_INFO,
    },
    "stereo_overlay": {
        "left_topic": LEFT,
        "left_info_topic": LEFT_INFO,
        "right_info_topic": RIGHT_INFO,
    },
}


@dataclass(frozen=True)
class LiveOptions:
    """What `spinenav live` was asked for. `assignments` are `node.name=value`. case: None only where
    no RGB-D camera is there. names: canonical topic to that of the driver that was found on the graph,
    which told says."""

    case: Path | None
    source: str
    out: Path
    config: Path | None = None
    assignments: tuple[str, ...] = ()
    model: Path | None = None
    models: Path | None = None
    backend: str | None = None
    remap: Path | None = None
    calibration: tuple[Path, ...] = ()
    namespace: str = DEFAULT_NAMESPACE
    use_sim_time: bool = False
    seconds: float | None = None
    seed: int = 0
    display: bool = False
    port: int | None = None
    openigtlink: bool = False
    igtl_port: int | None = None
    foxglove: bool = False
    foxglove_port: int | None = None
    safety: bool = False
    session: Path | None = None
    depth_aligner: bool = False
    names: Mapping[str, str] | None = None
    told: tuple[str, ...] = ()


def configure(options: LiveOptions) -> tuple[str, dict[str, dict[str, Any]]]:
    """Use case and checked values per node. Raises ParameterError, RecordingError."""
    kind, _, recording = options.source.partition(":")
    if (
        kind not in USE_CASES
        or (recording and kind not in _NAMED)
        or (not recording and _NAMED.get(kind))
    ):
        raise ParameterError(f"--source: '{options.source}' is no source; give {SOURCES}")
    case = {"case": str(options.case)} if options.case else {}
    own: dict[str, dict[str, Any]] = {
        "navigation": {**case},
        "case_server": {**case},
        "overlay": {**case},
        "stereo_tracker": {**case},
        "rod_guidance": {**case},
        "stereo_overlay": {},
        "display": {**case, "snapshots": str(options.out / "snapshots")},
        "openigtlink": {**case},
        "foxglove": {**case},
        "safety": {**case},
        "camera_source": {},
        "depth_aligner": {},
    }
    if options.port is not None:
        own["display"]["port"] = options.port
    for node, port, second in (
        ("openigtlink", options.igtl_port, "image_port"),
        ("foxglove", options.foxglove_port, "picture_port"),
    ):
        if port is not None:
            own[node] |= {"port": port, second: port + 1 if port else 0}
    if options.model is not None:
        own["navigation"]["model"] = str(options.model)
    if options.calibration:
        depth, _ = calibrations(
            options.calibration, date.today()
        )  # refused now rather than by a node
        if depth is not None:
            own["navigation"]["depth_calibration"] = str(depth.path)
        edges = [str(f) for f in options.calibration if depth is None or f != depth.path]
        for node in ("stereo_tracker", "overlay", "display", "depth_aligner") if edges else ():
            own[node]["calibration"] = ",".join(edges)
    if options.models is not None:
        own["stereo_tracker"]["models"] = str(options.models)
    if options.backend:
        for node in COMPUTING:
            own[node]["backend"] = options.backend
    names = load_remap(options.remap) if options.remap else dict(options.names or {})
    scenes: tuple[str, ...] | None = None
    if kind == "virtual":
        own["camera_source"] |= {**case, "seed": options.seed}
        if options.seconds is not None:
            own["camera_source"]["seconds"] = float(options.seconds)
    if kind == "pair":
        own["camera_source"]["pair"] = recording
    if kind == "realsense" and recording:
        played = Path(recording).suffix in (".db3", ".bag")
        own["camera_source"]["recording" if played else "serial"] = recording
    if kind == "replay":
        own["camera_source"]["recording"] = recording
        scenes = _playable(recording, names)  # refused now rather than by a node
        if options.remap is not None:
            own["camera_source"]["remap"] = str(options.remap)
    else:
        for node, given in _TOPICS.items():
            own[node] |= {k: names[v] for k, v in given.items() if v in names}
        if options.depth_aligner:  # what it sends is heard, whatever the driver calls its own
            for node in ("navigation", "overlay"):
                own[node].pop("depth_topic", None)
    file = load_file(options.config, NODES) if options.config else {}
    assigned: dict[str, dict[str, Any]] = {}
    for text in options.assignments:
        name, value = parse_assignment(text)
        node, _, parameter = name.partition(".")
        if node not in NODES or not parameter:
            raise ParameterError(f"--set {text}: give NODE.NAME=VALUE, NODE of {', '.join(NODES)}")
        assigned.setdefault(node, {})[parameter] = value
    if options.depth_aligner and kind != "ros":
        raise ParameterError(
            f"--align-depth: {options.source} gives depth that is aligned; it is for --source ros"
        )
    extras = [n for n in EXTRAS if getattr(options, n)]
    values = use_case_values(kind, file, own, assigned, scenes=scenes, extras=extras)
    if "display" in values:
        check_display(values["display"])  # refused now rather than by a node
    if "openigtlink" in values:
        if "navigation" not in values:
            raise ParameterError(
                f"--openigtlink: {options.source} has no RGB-D camera, and what is sent to 3D Slicer"
                " are the vertebrae that one sees"
            )
        check_openigtlink(values["openigtlink"])
    if "foxglove" in values:
        check_foxglove(values["foxglove"])
    if "safety" in values and "navigation" not in values:
        raise ParameterError(
            f"--safety: {options.source} has no RGB-D camera, and screws are watched by the vertebrae"
            " that one sees"
        )
    if not options.case and "navigation" in values:
        raise ParameterError(
            f"--source {options.source}: an RGB-D camera needs --case; only a stereo pair goes"
            " without"
        )
    if "camera_source" in values and "navigation" in values:
        values["camera_source"].setdefault("listeners", 2)  # the navigation and the recorder
    if options.use_sim_time:
        for node in values.values():
            node["use_sim_time"] = True
    return kind, values


def _playable(recording: str, remap: dict[str, str]) -> tuple[str, ...]:
    """Which of `rgbd` and `stereo` of a recording can be used. Raises RecordingError for none."""
    return tuple(open_scenes(recording, remap).recordings)
