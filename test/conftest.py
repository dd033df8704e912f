# SPDX-License-Identifier: Apache-2.0
"""What the system tests share, whatever the import mode: modules (ros_support), fixtures of ROS."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def ros():
    """ROS in this process, in a domain of its own."""
    import rclpy
    import ros_support

    from spine_nav_common.ros.runtime import prepare_environment

    ros_support.own_domain()
    prepare_environment()
    rclpy.init()
    yield
    rclpy.try_shutdown()


@pytest.fixture
def world(request, ros):
    """The rest of the world: of the module's own kind (`WORLD`), else without a camera."""
    from ros_world import World

    world = getattr(request.module, "WORLD", World)()
    yield world
    world.close()


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Folder of a case of two levels."""
    import ros_support

    return str(ros_support.write_small_case(tmp_path_factory.mktemp("small") / "case"))
