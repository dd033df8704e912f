# SPDX-License-Identifier: Apache-2.0
"""The display's node in a small ROS graph: the test plays camera, navigation and page."""

import asyncio
import json
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

from aiohttp import ClientSession, WSMsgType
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseArray, PoseWithCovarianceStamped
from rclpy.lifecycle import TransitionCallbackReturn
from ros_world import NAMESPACE, CameraWorld, navigation
from sensor_msgs.msg import CompressedImage, TimeReference
from std_msgs.msg import String

from spine_nav_bringup.live_options import LiveOptions, configure
from spine_nav_common.core.case import load_case
from spine_nav_common.core.implant_outputs import ScrewRow
from spine_nav_common.core.types import LevelEstimate, NavigationResult, Rejected, Status
from spine_nav_common.parameters import ParameterError
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import header, jpeg_message
from spine_nav_common.ros.implants import Implants
from spine_nav_common.ros.results import key_values
from spine_nav_display.pictures import unpack
from spine_nav_display.ros.display_node import DisplayNode
from spine_nav_display.ros.tool_watch import ToolWatch

pytestmark = pytest.mark.ros
WORLD = CameraWorld
OPTICAL = "camera_color_optical_frame"
JPEG = b"\xff\xd8 no picture, and passed on as it is"


class Page:
    """A page in a thread of its own: `heard` is every message by kind, `pictures` all pictures."""

    def __init__(self, url):
        self.url, self.heard, self.pictures = url, {}, []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))
        self._thread.start()

    async def _run(self):
        self._ended = asyncio.Event()
        async with ClientSession() as session:
            self._control = await session.ws_connect(f"{self.url}control")
            self._video = await session.ws_connect(f"{self.url}video")
            readers = [asyncio.ensure_future(r) for r in (self._read(), self._look())]
            await self._ended.wait()
            for reader in readers:
                reader.cancel()

    async def _read(self):
        async for message in self._control:
            values = json.loads(message.data)
            self.heard.setdefault(values["kind"], []).append(values)

    async def _look(self):
        async for message in self._video:
            if message.type is WSMsgType.BINARY:
                words, jpeg = unpack(message.data)
                self.pictures.append((words, jpeg))
                await self._video.send_str(json.dumps({"shown": words["n"]}))

    def last(self, kind, default=None):
        return self.heard.get(kind, [default])[-1]

    def show(self, name):
        text = json.dumps({"show": name})
        asyncio.run_coroutine_threadsafe(self._video.send_str(text), self._loop).result()

    def act(self, action, **values):
        given = {
            "kind": "act",
            "action": action,
            "n": 1,
            "session": self.last("session")["session"],
        }
        text = json.dumps({**given, **values})
        asyncio.run_coroutine_threadsafe(self._control.send_str(text), self._loop).result()

    def close(self):
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()


@pytest.fixture
def display(world, case):
    node = world.add(DisplayNode({"case": case, "port": 0, "silence_ms": 900.0}, NAMESPACE))
    opened = []

    def page():
        opened.append(Page(node.server.url))
        world.until(lambda: opened[-1].last("hello") and opened[-1].last("session"))
        return opened[-1]

    node.page = page
    yield node
    for each in opened:
        each.close()


def levels(page):
    told = page.last("levels")
    return {e["level"]: e for e in told["levels"]} if told else {}


def test_a_tracked_level_reaches_the_page_and_leaves_it_when_the_navigation_is_silent(
    world, case, display
):
    navigation(world, case, register_after=0)
    page = display.page()
    stamp = world.send(0)
    world.until(lambda: levels(page).get("L3", {}).get("T"))
    told = page.last("levels")
    assert told["stamp_ns"] == str(stamp)
    assert levels(page)["L3"]["T"][11] == 0.5 and levels(page)["L3"]["tre_mm"] == 1.25
    world.until(lambda: page.last("levels")["levels"][0]["status"] == "lost")
    assert all(e["T"] is None and e["reason"] for e in levels(page).values())


def test_a_picture_is_passed_on_as_it_came_and_asked_for_only_while_a_page_is_open(world, display):
    overlay = world.node.create_publisher(
        CompressedImage, topics.OVERLAY_COMPRESSED, qos.SENSOR_OUT
    )
    world.spin(0.5)
    assert overlay.get_subscription_count() == 0
    page = display.page()
    world.until(overlay.get_subscription_count)
    stamps = []

    def sure():  # one that this machine delivers late may be of any clock
        stamps.append(str(time.time_ns() - 80_000_000))
        overlay.publish(jpeg_message(JPEG, int(stamps[-1]), "camera"))
        return any(words["age_sure"] for words, _ in page.pictures)

    world.until(sure)
    words, jpeg = next(p for p in page.pictures if p[0]["age_sure"])
    assert jpeg == JPEG and words["stamp_ns"] in stamps and words["age_ms"] >= 80.0
    page.close()
    world.until(lambda: overlay.get_subscription_count() == 0)


def test_a_picture_of_another_clock_than_the_cameras_has_no_age(world, display):
    """As the supervisor's, which wipes what a dead overlay has left while a recording is replayed."""
    page = display.page()
    overlay = world.node.create_publisher(
        CompressedImage, topics.OVERLAY_COMPRESSED, qos.SENSOR_OUT
    )
    clock = world.node.create_publisher(TimeReference, topics.CAMERA_CLOCK, qos.LATCHED)
    began = TimeReference(header=header(time.time_ns(), ""), source="recording 1.0")
    began.time_ref = header(4_000_000_000, "").stamp
    clock.publish(began)

    def of_the_camera():
        overlay.publish(jpeg_message(JPEG, 4_000_000_000, "camera"))
        return page.pictures and page.pictures[-1][0]["age_sure"]

    world.until(of_the_camera)
    wiped = time.time_ns()
    overlay.publish(jpeg_message(JPEG, wiped, ""))
    world.until(lambda: page.pictures[-1][0]["stamp_ns"] == str(wiped))
    words, _ = page.pictures[-1]
    assert words["age_ms"] is None and not words["age_sure"]


def test_a_picture_that_no_page_shows_is_not_asked_for(world, display):
    names = {"rgbd": topics.OVERLAY_COMPRESSED, "stereo": topics.SCREW_OVERLAY_COMPRESSED}
    cameras = {
        name: world.node.create_publisher(CompressedImage, topic, qos.SENSOR_OUT)
        for name, topic in names.items()
    }
    page = display.page()
    for name in names:  # both are heard until the page knows that it can choose
        world.until(cameras[name].get_subscription_count)
        cameras[name].publish(jpeg_message(JPEG, time.time_ns(), "camera"))
        world.until(lambda n=name: n in page.last("pictures", {"names": []})["names"])
    world.until(lambda: cameras["stereo"].get_subscription_count() == 0)
    assert cameras["rgbd"].get_subscription_count() == 1
    page.show("stereo")
    world.until(cameras["stereo"].get_subscription_count)
    assert not any(w["name"] == "stereo" for w, _ in page.pictures), "none that is long gone"
    cameras["stereo"].publish(jpeg_message(JPEG, time.time_ns(), "camera"))
    world.until(lambda: page.pictures and page.pictures[-1][0]["name"] == "stereo")
    world.until(lambda: cameras["rgbd"].get_subscription_count() == 0)


def test_a_confirmation_reaches_the_hypothesis_that_the_page_showed(world, case, display):
    _, navigator = navigation(world, case, register_after=0, ask=True)
    events = world.listen(String, topics.DISPLAY_EVENTS)
    page = display.page()
    world.send(0)
    world.until(lambda: (page.last("levels") or {}).get("question"))
    question = page.last("levels")["question"]
    assert question["id"] == "AAAA" and question["text"].startswith("L2 to L3")
    navigator.pending_id = "BBBB"  # the core asks something else by now
    page.act("confirm", question="AAAA")
    world.until(lambda: page.last("outcome"))
    assert not page.last("outcome")["ok"], "the core's own check counts too"
    navigator.pending_id = "AAAA"
    page.act("confirm", question="AAAA", stamp_ns=page.last("levels")["stamp_ns"])
    world.until(lambda: page.last("outcome")["ok"])
    assert navigator.pending is None
    world.until(lambda: len(events) >= 2)
    noted = [json.loads(e.data) for e in events]
    told = [(n["action"], n["ok"], n["question"]) for n in noted if n["what"] == "action"]
    assert told == [("confirm", False, "AAAA"), ("confirm", True, "AAAA")]


def test_register_and_pause_reach_the_navigation(world, case, display):
    node, navigator = navigation(world, case, register_after=0)
    page = display.page()
    world.until(
        lambda: (
            display._requests._register.service_is_ready()
            and display._requests._pause.service_is_ready()
        )
    )
    page.act("register")
    world.until(lambda: navigator.requests == 1)
    page.act("pause")
    world.until(lambda: page.last("paused")["paused"])
    assert node.paused
    page.act("resume")
    world.until(lambda: not page.last("paused")["paused"])
    assert not node.paused


def test_without_a_navigation_an_answer_says_so(world, display):
    page = display.page()
    page.act("register")
    world.until(lambda: page.last("outcome"))
    assert not page.last("outcome")["ok"] and "not there" in page.last("outcome")["text"]


def test_a_restarted_navigation_begins_a_new_session(world, case, display):
    node, _ = navigation(world, case, register_after=0, ask=True)
    page = display.page()
    world.until(lambda: page.last("session")["session"].partition("/")[2])
    world.send(0)
    world.until(lambda: (page.last("levels") or {}).get("question"))
    old = page.last("session")["session"]
    world.remove(node)
    _, navigator = navigation(world, case, register_after=0, ask=True)
    world.until(lambda: page.last("session")["session"] != old)
    world.send(1)
    world.until(lambda: (page.last("levels") or {}).get("question"))
    page.act("confirm", question="AAAA", session=old)
    world.until(lambda: page.last("outcome"))
    assert not page.last("outcome")["ok"] and "started again" in page.last("outcome")["text"]
    assert navigator.pending is not None


def test_a_screw_is_compared_by_the_pose_of_its_own_moment(display):
    """Hand-held cameras move on while a pair is computed: a later pose has the bone elsewhere."""
    asked, told = [], []

    def check(row, levels, stamp_ns, T):
        asked.append((stamp_ns, levels["L2"].T_camera_ct[0, 3]))
        return Rejected("asked")

    display._checks = SimpleNamespace(
        case=display._case, check=check, ready=True, margins=lambda *_: {}
    )
    display.server.publish = lambda kind, values: told.append((kind, values))
    status = DiagnosticArray(header=header(1, "camera_color_optical_frame"))

    def result(ms, x_m, state=Status.TRACKED):
        T = np.eye(4)
        T[0, 3] = x_m
        pose = T if state is Status.TRACKED else None
        levels = (LevelEstimate("L2", state, pose, predicted_tre_mm=1.0),)
        display._on_result(NavigationResult(ms * 1_000_000, levels, {}), status)

    def reason(ms):
        row = ScrewRow(ms * 1_000_000, 1, np.zeros(3), np.eye(3)[2], 1.0, 1.0, "L2", "left")
        display._on_implants(Implants(row.stamp_ns, (row,)), status)
        kind, values = told[-1]
        assert kind == "implants"
        return values["screws"][0]["check_reason"]

    result(1000, 0.0)
    result(1200, 0.02)
    assert reason(1000) == "asked" and asked == [(1_000_000_000, 0.0)]
    assert reason(1100) == "no pose of the same moment" and len(asked) == 1
    result(1300, 0.0, Status.LOST)
    assert reason(1200) == "L2 is not tracked" and len(asked) == 1


def tool_message(case, stamp_ns, off_m, sigma_m=5e-4):
    """A tool that points at the planned entry of L2 left from `off_m` beside it, 0.5 m away."""
    entry = next(p.entry_m for p in case.plan if (p.level, p.side) == ("L2", "left"))
    message = PoseWithCovarianceStamped(header=header(stamp_ns, OPTICAL))
    p = message.pose.pose.position
    p.x, p.y, p.z = (float(v) for v in entry + (off_m, 0.0, 0.5))
    turn = message.pose.pose.orientation  # z of the tool along +y of the mesh: out of the bone
    turn.x, turn.w = float(-np.sqrt(0.5)), float(np.sqrt(0.5))
    message.pose.covariance = (sigma_m**2 * np.eye(6)).ravel().tolist()
    return message


def test_a_tool_is_told_by_the_overlays_own_rules(case):
    T = np.eye(4)
    T[2, 3] = 0.5

    def result(stamp_ns, status=Status.TRACKED):
        held = status is Status.TRACKED
        level = LevelEstimate("L2", status, T if held else None, predicted_tre_mm=1.0)
        return NavigationResult(stamp_ns, (level,))

    watch, loaded = ToolWatch((), "tool/pose", 150.0, 2.5), load_case(case)
    assert watch.words(result(0), OPTICAL, loaded) is None, "no tool was ever heard"
    watch.hear(tool_message(loaded, 0, 0.002))
    told = watch.words(result(0), OPTICAL, loaded)
    assert (told["level"], told["side"]) == ("L2", "left")
    assert told["entry_mm"] == pytest.approx(2.0, abs=0.01) and told["angle_deg"] < 0.1
    # the pose says nothing of the vertebra's own turn: its bound alone and the tip's are in it
    assert told["entry95_mm"] >= round(np.hypot(1.0, 0.5 * 2.7955), 2) and told["angle95_deg"] > 0.0
    assert "200 ms before" in watch.words(result(200_000_000), OPTICAL, loaded)["reason"]
    watch.hear(tool_message(loaded, 200_000_000, 0.002, sigma_m=2e-3))
    assert "reason" in watch.words(result(200_000_000), OPTICAL, loaded), "known too badly"
    watch.hear(tool_message(loaded, 200_000_000, 0.040))
    assert "no tracked plan" in watch.words(result(200_000_000), OPTICAL, loaded)["reason"]
    watch.hear(tool_message(loaded, 300_000_000, 0.002))
    lost = watch.words(result(300_000_000, Status.LOST), OPTICAL, loaded)
    assert "no level" in lost["reason"]


def test_the_traffic_light_is_the_supervisors(world, display):
    page = display.page()
    health = world.node.create_publisher(DiagnosticArray, topics.HEALTH, qos.LATCHED)
    values = key_values({"state": "unsafe", "navigation": "no camera frames"})
    status = DiagnosticStatus(
        name="spinenav", message="navigation: no camera frames", values=values
    )
    health.publish(DiagnosticArray(header=header(1, ""), status=[status]))
    world.until(lambda: page.last("health"))
    assert page.last("health")["state"] == "unsafe"
    assert page.last("health")["reasons"] == ["navigation: no camera frames"]


def test_a_status_that_cannot_be_read_shows_nothing(world, case, display):
    page = display.page()
    statuses = world.node.create_publisher(DiagnosticArray, topics.STATUS, qos.RESULT)
    poses = world.node.create_publisher(PoseArray, topics.VERTEBRA_POSES, qos.RESULT)
    world.until(lambda: statuses.get_subscription_count() and poses.get_subscription_count())
    top = header(7, "camera")
    poses.publish(PoseArray(header=top))
    statuses.publish(DiagnosticArray(header=top, status=[DiagnosticStatus(name="nonsense")]))
    world.until(lambda: levels(page))
    assert all(
        e["status"] == "lost" and "cannot be read" in e["reason"] for e in levels(page).values()
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"host": "0.0.0.0"}, "token_file"),
        ({"token_file": "/nowhere"}, "cannot be read"),
        ({"tls_key": "/nowhere"}, "tls_certificate is missing"),
    ],
)
def test_a_display_that_would_be_open_to_others_refuses_to_start(world, case, values, words):
    node = world.add(DisplayNode({"case": case, "port": 0, **values}, NAMESPACE), active=False)
    assert node.trigger_configure() is TransitionCallbackReturn.FAILURE
    assert words in node.problem


def test_live_refuses_it_before_any_process_starts(tmp_path, case):
    options = LiveOptions(case, "virtual", tmp_path, assignments=("display.host=0.0.0.0",))
    assert "display" not in configure(options)[1]
    shown = LiveOptions(
        case, "virtual", tmp_path, assignments=("display.host=0.0.0.0",), display=True
    )
    with pytest.raises(ParameterError, match="token_file"):
        configure(shown)
    _, values = configure(LiveOptions(case, "virtual", tmp_path, display=True, port=0))
    assert values["display"]["port"] == 0
    assert list(values)[-1] == "camera_source", "who consumes comes first"
