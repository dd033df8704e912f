# SPDX-License-Identifier: Apache-2.0
"""The navigation on a ROS 2 machine; `spinenav live` starts the same graph where launch is absent.

ros2 launch spine_nav_bringup spinenav.launch.py case:=CASE source:=realsense
ros2 launch spine_nav_bringup spinenav.launch.py case:=CASE source:=replay recording:=BAG
ros2 launch spine_nav_bringup spinenav.launch.py case:=CASE source:=ros camera:=/or/camera
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable, Shutdown
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

ARGUMENTS = {
    "case": (None, "folder of the case (case.yaml, meshes, plan)"),
    "source": ("virtual", "virtual, replay, realsense, or ros (others publish the camera)"),
    "recording": ("", "rosbag2 folder or file, for source:=replay"),
    "camera": ("", "prefix of the camera's topics; empty = as in the parameters file"),
    "namespace": ("spine", "namespace of all nodes"),
    "use_sim_time": ("false", "follow /clock"),
    "params_file": ("", "parameters; empty = config/<source>.yaml of this package"),
    "model": ("", "ONNX network; empty = the one that is shipped"),
    "exit_at_end": ("false", "end the launch after the last frame of a recording"),
    "log_level": ("info", "of all nodes"),
}
END_S = "20"  # a loaded machine takes seconds to unload Open3D; launch's default is 5
TOPICS = {
    "colour_topic": "color/image_raw",
    "depth_topic": "aligned_depth_to_color/image_raw",
    "info_topic": "color/camera_info",
}


def nodes(context: LaunchContext) -> list:
    """The node actions, once the arguments are known."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    source, camera = given["source"], given["camera"].rstrip("/")
    if source not in ("virtual", "replay", "realsense", "ros"):
        raise RuntimeError(f"source:={source}: give virtual, replay, realsense or ros")
    if source == "replay" and not given["recording"]:
        raise RuntimeError("source:=replay needs recording:=FOLDER_OR_FILE")
    file = given["params_file"] or PathJoinSubstitution(
        [FindPackageShare("spine_nav_bringup"), "config", f"{source}.yaml"]
    )
    sim_time = {"use_sim_time": given["use_sim_time"].lower() == "true"}
    topics = {name: f"{camera}/{topic}" for name, topic in TOPICS.items()} if camera else {}
    overlay_topics = {k: v for k, v in topics.items() if k != "depth_topic"}
    case = {"case": text(given["case"])}
    model = {"model": text(given["model"])} if given["model"] else {}

    def node(package: str, executable: str, *values: dict, **options) -> Node:
        return Node(
            package=package,
            executable=executable,
            name=executable,
            namespace=given["namespace"],
            parameters=[*([file] if executable != "supervisor" else []), sim_time, *values],
            arguments=["--ros-args", "--log-level", given["log_level"]],
            output="both",
            sigterm_timeout=END_S,
            **options,
        )

    actions = [
        node("spine_registration", "navigation", case, model, topics),
        node("spine_nav_bringup", "case_server", case),
        node("spine_nav_bringup", "overlay", case, overlay_topics),
    ]
    names = ["navigation", "case_server", "overlay"]
    if source != "ros":
        own = {"recording": text(given["recording"])} if given["recording"] else {}
        own |= case if source == "virtual" else {}
        own |= {"camera": camera} if camera else {}
        ends = given["exit_at_end"].lower() == "true"
        over = [Shutdown(reason="the recording is at its end")] if ends else None
        actions.append(
            node("spine_perception", "camera_source", own, {"exit_at_end": ends}, on_exit=over)
        )
        names.append("camera_source")
    actions.append(
        node(
            "spine_nav_bringup",
            "supervisor",
            {"nodes": names, "exit_on_failure": True},
            on_exit=[Shutdown(reason="the supervisor has ended")],
        )
    )
    return actions


def text(value: str) -> ParameterValue:
    """A string even where it looks like a number."""
    return ParameterValue(value, value_type=str)


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(name, description=about)
        if default is None
        else DeclareLaunchArgument(name, default_value=default, description=about)
        for name, (default, about) in ARGUMENTS.items()
    ]
    # One thread per numerical library: the nodes share the cores.
    threads = SetEnvironmentVariable("OMP_NUM_THREADS", "1")
    return LaunchDescription([*declared, threads, OpaqueFunction(function=nodes)])
