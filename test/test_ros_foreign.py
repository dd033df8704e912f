# SPDX-License-Identifier: Apache-2.0
"""Images of a driver that runs with DDS as it comes: what is lost of them is named, and by whom."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

import ros_support as support
from diagnostic_msgs.msg import DiagnosticArray
from ros_world import NAMESPACE

from spine_nav_bringup.ros.supervisor import Supervisor
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.runtime import PROFILE
from spine_registration.ros.navigation import NavigationNode

pytestmark = pytest.mark.ros
DRIVER = Path(__file__).with_name("foreign_driver.py")
ASK = f"from spine_nav_bringup.doctor import check_graph; print(check_graph({NAMESPACE!r}, 60.0).found)"


@pytest.fixture
def driver():
    process = subprocess.Popen([sys.executable, DRIVER])
    yield process
    process.kill()
    process.wait()


def navigation(case, **values):
    given = {"case": case, "max_stamp_age_ms": 60_000.0, **values}
    return NavigationNode(given, NAMESPACE, support.fake_loader([]))


def test_images_that_a_foreign_driver_loses_are_named_in_health_with_the_remedy(
    world, case, driver
):
    health = world.listen(DiagnosticArray, topics.HEALTH, qos.LATCHED)
    node = world.add(navigation(case), active=False)
    world.add(Supervisor({"nodes": ("navigation",)}, NAMESPACE), active=False)
    world.until(lambda: health and "images are lost" in health[-1].status[0].message, 120.0)
    assert node.pairer._pairs.first_count, "some arrive, and the stamps of those tell"
    told = health[-1].status[0].message
    assert "of the last" in told and "by its stamps" in told
    assert f"FASTRTPS_DEFAULT_PROFILES_FILE={PROFILE}" in told and "image_reliability" in told
    # As a user asks: from a process of its own. In a thread of this one its node may be collected
    # while the world spins, and a worker of pytest died twice here.
    asked = subprocess.Popen([sys.executable, "-c", ASK], stdout=subprocess.PIPE, text=True)
    world.until(lambda: asked.poll() is not None)
    assert "images are lost" in asked.communicate()[0]


def test_a_reliable_subscription_gets_images_that_are_sent_again(world, case, driver):
    node = world.add(navigation(case, image_reliability="reliable"))
    world.until(lambda: node.counts["processed"] > 5, 120.0)
    (colour,) = world.node.get_subscriptions_info_by_topic(node.config.colour_topic)
    assert colour.qos_profile.reliability is qos.SENSOR_OUT.reliability
    (info,) = world.node.get_subscriptions_info_by_topic(node.config.info_topic)
    assert info.qos_profile.reliability is qos.SENSOR_IN.reliability
