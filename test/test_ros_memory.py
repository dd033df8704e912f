# SPDX-License-Identifier: Apache-2.0
"""What a navigation that died leaves to the next one, and what it does not."""

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

import ros_support as support
from ros_world import NAMESPACE, CameraWorld, navigation
from std_srvs.srv import SetBool, Trigger

from spine_registration.core.memory import from_json, to_json
from spine_registration.memory_file import MemoryFile, memory_path

pytestmark = pytest.mark.ros
WORLD = CameraWorld


@pytest.fixture
def file(ros):
    path = memory_path(NAMESPACE)
    path.unlink(missing_ok=True)
    yield path
    path.unlink(missing_ok=True)


def send(world, node, *indices):
    """Frames one by one, each after the result of the last."""
    for index in indices:
        before = node.counts["processed"]
        world.send(index)
        world.until(lambda before=before: node.counts["processed"] > before)


def left_by_a_dead_one(world, case, file, **modes):
    """The file of a node whose process ended without a word."""
    node, _ = navigation(world, case, **modes)
    send(world, node, 0, 1)
    text = file.read_text()
    world.remove(node)
    return text


def test_what_a_dead_navigation_knew_reaches_the_next(world, case, file):
    text = left_by_a_dead_one(world, case, file, register_after=0)
    assert not file.exists(), "a clean end leaves nothing"
    file.write_text(text)
    node, navigator = navigation(world, case, {"keep_s": 7.0})
    send(world, node, 2)
    assert [within for _, within in navigator.recalled] == [7.0]
    assert to_json(navigator.recalled[0][0]) == text
    send(world, node, 3)
    assert len(navigator.recalled) == 1


def test_only_its_user_reads_it(world, case, file):
    node, _ = navigation(world, case)
    send(world, node, 0)
    assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("text", ["", "{", '{"version": 0}'])
def test_a_damaged_file_is_told_and_not_used(world, case, file, text):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    node, navigator = navigation(world, case)
    send(world, node, 0, 1)
    assert navigator.recalled == []
    assert from_json(file.read_text(), len(support.LEVELS)), "a whole one has taken its place"
    assert node.counts["faults"] == 0


def test_poses_of_another_clock_are_not_handed_on(world, case, file):
    text = left_by_a_dead_one(world, case, file)
    clock = from_json(text, len(support.LEVELS)).clock
    file.write_text(text.replace(f'"clock": "{clock}"', '"clock": "sensor"'))
    node, navigator = navigation(world, case)
    send(world, node, 2)
    assert navigator.recalled[0][0].shown is None


def test_a_new_registration_takes_it_from_the_disk_at_once(world, case, file):
    node, _ = navigation(world, case)
    send(world, node, 0)
    assert file.exists()
    assert world.call(Trigger, "register", Trigger.Request()).success
    assert not file.exists()


def test_an_answer_is_kept_with_the_next_frame(world, case, file):
    node, _ = navigation(world, case, ask=True)
    send(world, node, 0)
    file.unlink()
    assert world.call(SetBool, "confirm_level", SetBool.Request(data=False)).success
    send(world, node, 1)
    assert file.exists()


def test_a_disk_that_cannot_be_written_costs_the_memory_alone(world, case, file, monkeypatch):
    monkeypatch.setattr(MemoryFile, "write", lambda self, memory: 1 / 0)
    node, _ = navigation(world, case)
    send(world, node, 0, 1)
    assert node.counts["faults"] == 0 and "nothing is kept" in node._memory.problem
