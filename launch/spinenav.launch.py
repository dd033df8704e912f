# SPDX-License-Identifier: Apache-2.0
"""The navigation on a ROS 2 machine; `spinenav live` starts the same graph where launch is absent.

ros2 launch spine_nav_bringup spinenav.launch.py case:=CASE source:=realsense
ros2 launch spine_nav_bringup spinenav.launch.py case:=CASE source:=replay recording:=BAG
ros2 launch spine_nav_bringup spinenav.launch.py case:=CASE source:=ros camera:=/or/camera
ros2 launch spine_nav_bringup spinenav.launch.py case:=CASE source:=stereo stereo_camera:=/or/pair
ros2 launch spine_nav_bringup spinenav.launch.py case:=CASE source:=realsense display:=true session:=DIR
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    LogInfo,
    OpaqueFunction,
    SetEnvironmentVariable,
    Shutdown,
    TimerAction,
)
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from spine_nav_bringup.live_options import LiveOptions
from spine_nav_bringup.live_session import RECORDER, recorder_of_launch
from spine_nav_common.core.graph import EXTRAS, SCENES, USE_CASE_SCENES
from spine_nav_common.core.restart import GIVEN_UP, WRONG_INPUT, Backoff
from spine_nav_common.ros.runtime import dds_environment

ARGUMENTS = {
    "case": ("", "folder of the case (case.yaml, meshes, plan); only a stereo pair goes without"),
    "source": ("virtual", "virtual, replay, realsense, pair, or ros or stereo (others publish)"),
    "scene": ("", "rgbd, stereo or rgbd,stereo; empty = all that the source has"),
    "recording": (
        "",
        "rosbag2 folder or file, for source:=replay; device, video or folder, for pair",
    ),
    "camera": ("", "prefix of the camera's topics; empty = as in the parameters file"),
    "stereo_camera": ("", "prefix of the stereo pair's topics; empty = as in the parameters file"),
    "namespace": ("spine", "namespace of all nodes"),
    "tf_prefix": ("", "before the names of the vertebrae's frames, where two instances run"),
    "use_sim_time": ("false", "follow /clock"),
    "params_file": ("", "parameters; empty = config/<source>.yaml of this package"),
    "model": ("", "ONNX network; empty = the one that is shipped"),
    "models": ("", "folder of the stereo networks; empty = those that are shipped"),
    "display": (
        "false",
        "serve the surgeon's page, at 127.0.0.1:8760 unless parameters say otherwise",
    ),
    "depth_aligner": (
        "false",
        "align depth of a camera of its own (depth/image_rect_raw), for source:=ros",
    ),
    "openigtlink": (
        "false",
        "serve 3D Slicer, at 127.0.0.1:18944 (pictures: 18945) unless parameters say otherwise",
    ),
    "foxglove": (
        "false",
        "serve Foxglove, at ws://127.0.0.1:8765 (with pictures: 8766) unless parameters say otherwise",
    ),
    "safety": (
        "false",
        "watch the planned screws by the poses' covariance: planning/safety, service replan",
    ),
    "session": ("", "folder for the record of the session, which is new; empty = no record"),
    "exit_at_end": ("false", "end the launch after the last frame of a recording"),
    "log_level": ("info", "of all nodes"),
}
END_S = "20"  # a loaded machine takes seconds to unload Open3D; launch's default is 5
TOPICS = {
    "colour_topic": "color/image_raw",
    "depth_topic": "aligned_depth_to_color/image_raw",
    "info_topic": "color/camera_info",
}
ALIGNER_TOPICS = {
    "depth_topic": "depth/image_rect_raw",
    "depth_info_topic": "depth/camera_info",
    "info_topic": "color/camera_info",
    "aligned_topic": "aligned_depth_to_color/image_raw",
}
STEREO_TOPICS = {
    "left_topic": "left/image_rect",
    "right_topic": "right/image_rect",
    "left_info_topic": "left/camera_info",
    "right_info_topic": "right/camera_info",
}


def nodes(context: LaunchContext) -> list:
    """The node actions, once the arguments are known."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    source, camera = given["source"], given["camera"].rstrip("/")
    if source not in USE_CASE_SCENES:
        raise RuntimeError(f"source:={source}: give {', '.join(USE_CASE_SCENES)}")
    held = USE_CASE_SCENES[source]
    scenes = given["scene"].split(",") if given["scene"] else list(held)
    if not set(scenes) <= set(held):
        raise RuntimeError(f"scene:={given['scene']}: source {source} has {','.join(held)}")
    if "rgbd" in scenes and not given["case"]:
        raise RuntimeError(
            f"source:={source} has an RGB-D camera and needs case:=FOLDER; only scene:=stereo or"
            " source:=stereo goes without"
        )
    if source in ("replay", "pair") and not given["recording"]:
        raise RuntimeError(f"source:={source} needs recording:=FOLDER_OR_FILE")
    file = given["params_file"] or PathJoinSubstitution(
        [FindPackageShare("spine_nav_bringup"), "config", f"{source}.yaml"]
    )
    sim_time = {"use_sim_time": given["use_sim_time"].lower() == "true"}
    topics = {name: f"{camera}/{topic}" for name, topic in TOPICS.items()} if camera else {}
    aligner_topics = {n: f"{camera}/{t}" for n, t in ALIGNER_TOPICS.items()} if camera else {}
    display_topics = {k: v for k, v in topics.items() if k == "info_topic"}
    pair = given["stereo_camera"].rstrip("/")
    stereo_topics = {n: f"{pair}/{t}" for n, t in STEREO_TOPICS.items()} if pair else {}
    left_topics = {n: t for n, t in stereo_topics.items() if n != "right_topic"}
    case = {"case": text(given["case"])}
    frames = {"tf_prefix": text(given["tf_prefix"])} if given["tf_prefix"] else {}
    models = {"models": text(given["models"])} if given["models"] else {}
    ends = given["exit_at_end"].lower() == "true"
    model = {"model": text(given["model"])} if given["model"] else {}

    def node(package: str, executable: str, *values: dict | Path) -> Node:
        restart = Backoff()

        def make() -> Node:
            return Node(
                package=package,
                executable=executable,
                name=executable,
                namespace=given["namespace"],
                parameters=[*([file] if executable != "supervisor" else []), sim_time, *values],
                arguments=["--ros-args", "--log-level", given["log_level"]],
                output="both",
                sigterm_timeout=END_S,
                on_exit=ended,
            )

        def ended(event: ProcessExited, context: LaunchContext) -> list:
            """A process that ends is started again, unless that was its last word."""
            if context.is_shutdown:
                return []
            reason = last_word(executable, event.returncode, ends)
            if reason:
                return [Shutdown(reason=reason)]
            wait_s = restart.next_s()
            told = LogInfo(msg=f"{executable} has ended; started again in {wait_s:g} s")
            return [told, TimerAction(period=wait_s, actions=[make()])]

        return make()

    graph = {  # node to its package and values
        "navigation": ("spine_registration", case, model, topics, frames),
        "case_server": ("spine_nav_bringup", case, frames),
        "overlay": ("rod_bending_ar", case, topics),
        "stereo_tracker": ("stereo_screw_tracker", case, models, stereo_topics),
        "rod_guidance": ("rod_bending_ar", case),
        "stereo_overlay": ("rod_bending_ar", left_topics),
        "depth_aligner": ("spine_perception", aligner_topics),
        "display": ("spine_nav_display", case, display_topics),
        "openigtlink": ("spine_nav_display", case),
        "foxglove": ("spine_nav_display", case),
        "safety": ("spine_planning", case),
    }
    names = [name for scene in scenes for name in SCENES[scene]]
    names += [name for name in EXTRAS if given[name].lower() == "true"]
    actions = [node(graph[name][0], name, *graph[name][1:]) for name in names]
    if given["session"]:  # it starts before the others and ends after them
        path = file if isinstance(file, str) else file.perform(context)
        written = {"navigation": topics, "overlay": topics, "stereo_tracker": stereo_topics}
        options = options_of(given, source, path)
        actions.insert(
            0, node("spine_nav_display", RECORDER, recorder_of_launch(options, scenes, written))
        )
        names.insert(0, RECORDER)
    if source not in ("ros", "stereo"):
        where = "pair" if source == "pair" else "recording"
        own = {where: text(given["recording"])} if given["recording"] else {}
        own |= case if source == "virtual" else {}
        own |= {"camera": camera} if camera else {}
        own |= {"stereo_camera": pair} if pair else {}
        own |= {"scenes": scenes} if source == "replay" else {}
        actions.append(node("spine_perception", "camera_source", own, {"exit_at_end": ends}))
        names.append("camera_source")
    actions.append(
        node("spine_nav_bringup", "supervisor", {"nodes": names, "exit_on_failure": True})
    )
    return actions


def options_of(given: dict[str, str], source: str, config: str) -> LiveOptions:
    """What `spinenav live` would be asked for, as far as a record is concerned."""

    def path(name: str) -> Path | None:
        return Path(given[name]) if given[name] else None

    session = Path(given["session"])
    return LiveOptions(
        path("case"),
        f"{source}:{given['recording']}" if source in ("replay", "pair") else source,
        session,
        Path(config),
        model=path("model"),
        models=path("models"),
        use_sim_time=given["use_sim_time"].lower() == "true",
        session=session,
    )


def last_word(executable: str, code: int, ends: bool) -> str:
    """Why the launch ends with this process, or "" where the process is started again."""
    if code == WRONG_INPUT:
        return f"{executable} was given something wrong: see its last line"
    if executable == "supervisor" and code == GIVEN_UP:
        return "the supervisor has lost a node that the operation needs"
    if executable == "camera_source" and ends and code in (0, 1):
        return "the recording is at its end"
    return ""


def text(value: str) -> ParameterValue:
    """A string even where it looks like a number."""
    return ParameterValue(value, value_type=str)


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=about)
        for name, (default, about) in ARGUMENTS.items()
    ]
    # One thread per numerical library, since the nodes share the cores; images pass whole to and
    # from every process that is started here.
    settings = {"OMP_NUM_THREADS": "1", **dds_environment()}
    environment = [SetEnvironmentVariable(name, value) for name, value in settings.items()]
    return LaunchDescription([*declared, *environment, OpaqueFunction(function=nodes)])
