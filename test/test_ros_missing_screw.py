# SPDX-License-Identifier: Apache-2.0
"""A screw that is left out on purpose: from the rod guidance over the page to the plan and the
record. The test plays the stereo tracker and the page."""

import json

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from ros_world import NAMESPACE, CameraWorld, navigation
from sensor_msgs.msg import TimeReference
from std_msgs.msg import String
from test_ros_display import Page
from test_ros_stereo import guidance

from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.results import key_values, status_fields
from spine_nav_display.ros.display_node import DisplayNode

pytestmark = pytest.mark.ros
WORLD = CameraWorld
STEADY = 3


def without(*gone):
    """The heads but those of these levels on the left."""
    return lambda rows: tuple(
        r for r in rows if (r.side, r.level) not in {("left", v) for v in gone}
    )


@pytest.fixture
def rods(world):
    """The rod guidance: `show(gone...)` a few pairs; `left()` what it says of that side."""

    class Rods:
        def __init__(self):
            self.node, self._screws, _, self.statuses = guidance(world, {"steady_frames": STEADY})

        def show(self, *gone, times=STEADY + 3):
            self._screws.send(times, rods=False, change=without(*gone))

        def left(self):
            newest = self.statuses[-1].status if self.statuses else ()
            return next((f for f in map(status_fields, newest) if f["side"] == "left"), {})

        def asked(self, *gone):
            """Shown until it is asked for them."""
            for _ in range(20):
                self.show(*gone)
                if set(self.left().get("question_levels", "").split(",")) == set(gone):
                    return self.left()["question_id"]
            raise AssertionError(self.left())

        def say(self, text):
            value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=text)
            request = SetParameters.Request(
                parameters=[Parameter(name="confirm_missing", value=value)]
            )
            return world.call(SetParameters, "rod_guidance/set_parameters", request).results[0]

    return Rods()


@pytest.fixture
def pages(world, case):
    """The display and pages on it: `pages()` opens one."""
    display = world.add(DisplayNode({"case": case, "port": 0}, NAMESPACE))
    opened = []

    def page():
        opened.append(Page(display.server.url))
        world.until(lambda: opened[-1].last("hello") and opened[-1].last("session"))
        return opened[-1]

    yield page
    for each in opened:
        each.close()


def question(page):
    return (page.last("bending") or {}).get("question")


def test_the_page_confirms_and_the_rod_is_planned_without_the_screw(world, rods, pages):
    page, events = pages(), world.listen(String, topics.DISPLAY_EVENTS)
    id_ = rods.asked("L3")
    world.until(lambda: question(page))
    shown = question(page)
    assert (shown["id"], shown["levels"], shown["side"]) == (id_, ["L3"], "left")
    assert "L3" in shown["text"]
    for told in page.last("bending")["sides"]:
        assert "--" not in told["text"] and "track_id" not in told["text"]
    page.act("confirm", question=id_)
    world.until(lambda: page.last("outcome"))
    assert page.last("outcome")["ok"], page.last("outcome")
    assert "no screw at L3 left" in page.last("outcome")["text"]
    for _ in range(20):
        rods.show("L3")
        if rods.left()["state"] == "planned":
            break
    assert rods.left()["state"] == "planned" and not rods.left().get("question_id")
    assert id_ in rods.left()["told"] and "no screw at L3 left on purpose" in rods.left()["told"]
    world.until(lambda: question(page) is None)
    world.until(lambda: any(json.loads(e.data)["what"] == "action" for e in events))


def test_no_keeps_the_refusal_and_is_not_asked_again(world, rods):
    id_ = rods.asked("L3")
    assert rods.say(f"{id_} no").successful
    rods.show("L3", times=4 * STEADY)
    world.until(lambda: id_ in rods.left()["told"])
    assert rods.left()["state"] == "refused" and "L3" in rods.left()["text"]
    assert not rods.left().get("question_id")
    assert not rods.say(f"{id_} yes").successful, "it was answered"
    assert rods.asked("L3", "L4") != id_, "the question has changed"


def test_an_old_question_and_nonsense_are_refused(world, rods):
    old = rods.asked("L3")
    new = rods.asked("L3", "L4")
    said = rods.say(f"{old} yes")
    assert not said.successful and new in said.reason
    for text in ("yes", new, f"{new} perhaps", "ROD-000000 yes"):
        assert not rods.say(text).successful
    rods.show("L3", "L4", times=3 * STEADY)
    assert rods.left()["state"] == "refused"
    assert rods.node.trigger_deactivate()
    assert not rods.say(f"{new} yes").successful


def test_two_pages_and_an_old_page(world, rods, pages):
    first, second = pages(), pages()
    old = rods.asked("L3")
    world.until(lambda: question(first) and question(second))
    new = rods.asked("L3", "L4")
    world.until(lambda: question(second)["id"] == new)
    first.act("confirm", question=old)  # as it stood there a moment before
    world.until(lambda: first.last("outcome"))
    assert not first.last("outcome")["ok"] and "has changed" in first.last("outcome")["text"]
    second.act("reject", question=new)
    world.until(lambda: second.last("outcome", {"ok": False})["ok"])
    first.act("confirm", question=new)
    world.until(lambda: len(first.heard["outcome"]) == 3)  # its own two, and the second page's
    assert not first.last("outcome")["ok"]
    rods.show("L3", "L4", times=3 * STEADY)
    assert rods.left()["state"] == "refused"


def test_a_rod_guidance_that_is_silent_asks_nothing_any_more(world, rods, pages):
    page = pages()
    id_ = rods.asked("L3")
    world.until(lambda: question(page))
    world.remove(rods.node)
    world.spin(0.1)

    def refused():
        page.act("confirm", question=id_)
        world.spin(0.2)
        return "nothing waits" in (page.last("outcome") or {}).get("text", "")

    world.until(refused)


def test_which_vertebra_is_which_is_asked_before_its_screws(world, case, rods, pages):
    _, navigator = navigation(world, case, register_after=0, ask=True)
    page = pages()
    world.until(lambda: page.last("session")["session"].partition("/")[2])
    id_ = rods.asked("L3")
    world.send(0)
    world.until(lambda: question(page) and (page.last("levels") or {}).get("question"))
    page.act("confirm", question=id_)
    world.until(lambda: page.last("outcome"))
    assert not page.last("outcome")["ok"] and "AAAA is asked now" in page.last("outcome")["text"]
    page.act("confirm", question="AAAA", stamp_ns=page.last("levels")["stamp_ns"])
    world.until(lambda: page.last("outcome")["ok"])
    assert navigator.pending is None and "planned" != rods.left()["state"]
    for index in range(1, 100):
        world.send(index)
        rods.show("L3", times=1)
        if not (page.last("levels") or {}).get("question"):
            break
    page.act("confirm", question=id_)
    world.until(lambda: "no screw at L3 left" in page.last("outcome")["text"])
    assert page.last("outcome")["ok"]


def test_what_is_not_of_our_form_ends_no_page_and_leaves_nothing_old_on_it(world, pages):
    """Anybody on the network may publish under these names."""

    def status(**fields):
        return DiagnosticArray(status=[DiagnosticStatus(values=key_values(fields))])

    page = pages()
    bending = world.node.create_publisher(DiagnosticArray, topics.BENDING_STATUS, qos.STATE)
    check = world.node.create_publisher(DiagnosticArray, topics.CHECK, qos.LATCHED)
    health = world.node.create_publisher(DiagnosticArray, topics.HEALTH, qos.LATCHED)
    clock = world.node.create_publisher(TimeReference, topics.CAMERA_CLOCK, qos.LATCHED)
    others = (bending, check, health, clock)
    world.until(lambda: all(p.get_subscription_count() for p in others))
    good = {"side": "left", "state": "refused", "text": "x", "question_id": "ROD-1"}
    bending.publish(status(**good))
    world.until(lambda: question(page))
    bending.publish(status(**good, steps_done="many"))
    world.until(lambda: page.last("bending")["sides"] == [])
    assert question(page) is None
    check.publish(status(state="failed"))  # of no level
    check.publish(status(level="L3", next="the first"))
    clock.publish(TimeReference(source="somebody else's"))
    health.publish(status(state="splendid"))
    world.until(lambda: page.last("health") and page.last("health")["state"] == "unknown")
    bending.publish(status(**good))
    world.until(lambda: question(page))
    page.act("confirm", question="ROD-1")
    world.until(lambda: page.last("outcome"))
    assert "rod guidance is not there" in page.last("outcome")["text"]
