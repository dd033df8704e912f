# SPDX-License-Identifier: Apache-2.0
"""`ros2 bag play` of a recording drives the navigation, under the recording's own clock.

    ros2 launch spine_nav_bringup bag.launch.py case:=CASE recording:=BAG

The bag starts when the supervisor says that every node is active, so that no frame is missed. At
its end what was received is worked off first; then the launch ends.
"""

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    RegisterEventHandler,
    Shutdown,
)
from launch.event_handlers import OnProcessIO
from launch.events.process import ProcessIO
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

READY = "all nodes are active"
CLOCK_HZ = "100"  # a coarser clock would round the latency


def generate_launch_description() -> LaunchDescription:
    finish = Node(
        package="spine_nav_bringup",
        executable="finish",
        namespace=LaunchConfiguration("namespace"),
        output="both",
        on_exit=[Shutdown(reason="the bag is at its end, and all that was received is computed")],
    )
    play = ExecuteProcess(
        cmd=[
            "ros2", "bag", "play", LaunchConfiguration("recording"), "--clock", CLOCK_HZ,
            "--rate", LaunchConfiguration("rate"),
        ],
        output="both",
        on_exit=[finish],
    )  # fmt: skip
    started = []

    def on_ready(event: ProcessIO) -> ExecuteProcess | None:
        if started or READY not in event.text.decode(errors="replace"):
            return None
        started.append(True)
        return play

    navigation = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(
            PathJoinSubstitution(
                [FindPackageShare("spine_nav_bringup"), "launch", "spinenav.launch.py"]
            )
        ),
        launch_arguments={
            "case": LaunchConfiguration("case"),
            "source": "ros",
            "scene": LaunchConfiguration("scene"),
            "namespace": LaunchConfiguration("namespace"),
            "camera": LaunchConfiguration("camera"),
            "params_file": LaunchConfiguration("params_file"),
            "display": LaunchConfiguration("display"),
            "session": LaunchConfiguration("session"),
            "use_sim_time": "true",
        }.items(),
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument("case", default_value="", description="folder of the case"),
            DeclareLaunchArgument("recording", description="rosbag2 folder or file"),
            DeclareLaunchArgument("rate", default_value="1.0", description="speed of the bag"),
            DeclareLaunchArgument("scene", default_value="", description="rgbd, stereo or both"),
            DeclareLaunchArgument("namespace", default_value="spine"),
            DeclareLaunchArgument("camera", default_value="", description="prefix of the topics"),
            DeclareLaunchArgument("params_file", default_value="", description="parameters"),
            DeclareLaunchArgument("display", default_value="false", description="serve the page"),
            DeclareLaunchArgument("session", default_value="", description="folder for a record"),
            RegisterEventHandler(OnProcessIO(on_stdout=on_ready, on_stderr=on_ready)),
            navigation,
        ]
    )
