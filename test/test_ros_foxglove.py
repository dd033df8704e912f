# SPDX-License-Identifier: Apache-2.0
"""The Foxglove bridge in a small ROS graph. Foxglove is played by a client that is written after its
WebSocket protocol (https://github.com/foxglove/ws-protocol), and reads CDR with rosbags."""

import asyncio
import json
import struct
import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")
pytest.importorskip("foxglove", reason="foxglove-sdk is not installed; run make setup")

import ros_support as support
from aiohttp import ClientSession, WSMsgType
from mcap.reader import make_reader
from rclpy.lifecycle import TransitionCallbackReturn
from ros_world import NAMESPACE, CameraWorld, navigation
from rosbags.interfaces import Nodetype
from rosbags.typesys import get_types_from_msg
from sensor_msgs.msg import CompressedImage

from spine_nav_bringup.live_options import LiveOptions, configure
from spine_nav_bringup.ros.case_server import CaseServer
from spine_nav_common.core.recording_writer import TYPES
from spine_nav_common.parameters import ParameterError
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import jpeg_message
from spine_nav_display.core.session_stream import ChunkFile, Item
from spine_nav_display.ros import foxglove_config
from spine_nav_display.ros.foxglove_node import FoxgloveBridge
from spine_nav_display.ros.session_topics import events

pytestmark = pytest.mark.ros
WORLD = CameraWorld
LAYOUT = Path(__file__).resolve().parents[1] / "config/foxglove_layout.json"


class Foxglove:
    """Subscribes to the topics that it is told; `heard`: messages of each, decoded by their type."""

    def __init__(self, port, wanted=()):
        self.channels, self.heard = {}, {}
        self._port, self._wanted, self._ids = port, set(wanted), {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))
        self._thread.start()

    async def _run(self):
        self._ended = asyncio.Event()
        async with ClientSession() as session:
            socket = await session.ws_connect(
                f"ws://127.0.0.1:{self._port}/",
                protocols=("foxglove.sdk.v1",),
                max_msg_size=1 << 24,
            )
            ended = asyncio.ensure_future(self._ended.wait())
            reading = asyncio.ensure_future(self._read(socket))
            await asyncio.wait((ended, reading), return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()  # whatever went wrong
            reading.cancel()

    async def _read(self, socket):
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                values = json.loads(message.data)
                for channel in values.get("channels", ()) if values["op"] == "advertise" else ():
                    self.channels[channel["topic"]] = channel
                    if channel["topic"] in self._wanted:
                        id_ = len(self._ids)
                        self._ids[id_] = channel
                        told = {"id": id_, "channelId": channel["id"]}
                        await socket.send_str(
                            json.dumps({"op": "subscribe", "subscriptions": [told]})
                        )
            elif message.data[0] == 1:
                (id_,) = struct.unpack("<I", message.data[1:5])
                channel = self._ids[id_]
                data = TYPES.deserialize_cdr(message.data[13:], channel["schemaName"])
                self.heard.setdefault(channel["topic"], []).append(data)

    def of(self, topic):
        return self.heard.get(topic, [])

    def close(self):
        if not self._thread.is_alive():
            return
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()


@pytest.fixture
def bridge(world, case):
    node = world.add(FoxgloveBridge({"case": case, "port": 0, "picture_port": 0}, NAMESPACE))
    opened = []

    def client(*wanted, pictures=False):
        opened.append(Foxglove(node.servers[pictures].port, wanted))
        return opened[-1]

    node.client = client
    yield node
    for each in opened:
        each.close()


STATUS = "/spine/registration/status"


def test_a_status_arrives_as_it_was_published_and_only_while_somebody_looks(world, case, bridge):
    navigation(world, case, register_after=0)
    world.spin(0.5)
    assert not any(t.subscription for t in bridge._topics)
    client = bridge.client(STATUS, "/spine/registration/L3/pose")
    asked = {STATUS, "/spine/registration/L3/pose"}
    world.until(lambda: asked <= {t.what.name for t in bridge._topics if t.subscription})
    for index in range(100):  # what was sent before the topics had found each other is lost
        world.send(index)
        world.spin(0.1)
        if asked <= client.heard.keys():
            break
    fields = {v.key: v.value for v in client.of(STATUS)[-1].status[1].values}
    assert fields["level"] == "L3" and fields["status"] == "tracked"
    pose = client.of("/spine/registration/L3/pose")[-1].pose.pose
    assert pose.position.z == pytest.approx(0.5)
    client.close()
    world.until(lambda: not any(t.subscription for t in bridge._topics))


def test_who_comes_late_gets_what_is_latched(world, case, bridge):
    topic = f"/spine/{topics.PLAN_STATE}"
    world.add(CaseServer({"case": case}, NAMESPACE))
    first = bridge.client(topic)
    world.until(lambda: first.of(topic))
    second = bridge.client(topic)
    world.until(lambda: second.of(topic))
    assert json.loads(second.of(topic)[-1].data)["version"] == 0


def test_pictures_are_on_the_second_server_alone(world, bridge):
    topic = f"/spine/{topics.OVERLAY_COMPRESSED}"
    words, all_ = bridge.client(topic, STATUS), bridge.client(topic, STATUS, pictures=True)
    world.until(lambda: STATUS in words.channels and STATUS in all_.channels)
    world.until(lambda: topic in all_.channels)
    assert topic not in words.channels
    overlay = world.node.create_publisher(
        CompressedImage, topics.OVERLAY_COMPRESSED, qos.SENSOR_OUT
    )
    world.until(overlay.get_subscription_count)
    data = np.random.default_rng(0).bytes(50_000)
    overlay.publish(jpeg_message(data, support.START_NS, "camera"))
    world.until(lambda: all_.of(topic))
    assert bytes(all_.of(topic)[-1].data) == data


def test_every_topic_of_the_layout_is_served_with_its_type(world, bridge):
    client = bridge.client(pictures=True)
    layout = json.loads(LAYOUT.read_text())
    panels = layout["configById"]
    pictures = {v["imageMode"]["imageTopic"] for k, v in panels.items() if k.startswith("Image!")}
    assert pictures == {
        f"{NAMESPACE}/{topic}"
        for topic in (topics.OVERLAY_COMPRESSED, topics.SCREW_OVERLAY_COMPRESSED)
    }
    wanted = set(pictures)
    wanted |= set(panels["3D!guidance"]["topics"])
    wanted |= {v["topicPath"] for k, v in panels.items() if k.startswith("RawMessages!")}
    wanted |= {panels["DiagnosticSummary!health"]["topicToRender"]}
    world.until(lambda: wanted <= client.channels.keys())
    for topic in pictures:
        assert client.channels[topic]["schemaName"] == "sensor_msgs/msg/CompressedImage"
    assert placed(layout["layout"]) == panels.keys()
    for channel in client.channels.values():
        assert channel["encoding"] == "cdr" and channel["schemaEncoding"] == "ros2msg"
        assert_complete(channel["schema"], channel["schemaName"])


def placed(tree):
    """The panels that stand somewhere in a layout."""
    if isinstance(tree, str):
        return {tree}
    return placed(tree["first"]) | placed(tree["second"])


def assert_complete(schema, name):
    """A viewer that knows no ROS reads a message by its schema alone: all that it is made of is
    there. Sessions' files have the schemas of the same function."""
    defined = get_types_from_msg(schema, name)
    assert name in defined
    for fields in defined.values():
        for _, (kind, detail) in fields[1]:
            while kind in (Nodetype.ARRAY, Nodetype.SEQUENCE):
                kind, detail = detail[0]
            assert kind is Nodetype.BASE or detail in defined, f"{name} lacks {detail}"


def test_a_sessions_files_are_read_by_their_schemas_alone(tmp_path):
    path = tmp_path / "events.mcap"
    file = ChunkFile(path)
    kinds = [
        f"{w.kind.__module__.split('.')[0]}/msg/{w.kind.__name__}"
        for w in events("/spine", ("L2",))
    ]
    file.write([Item(f"/{i}", kind, i + 1, b"\0\1\0\0") for i, kind in enumerate(kinds)])
    file.finish()
    with path.open("rb") as stream:
        summary = make_reader(stream).get_summary()
    assert {s.name for s in summary.schemas.values()} == set(kinds)
    assert len(summary.channels) == len(kinds)
    for schema in summary.schemas.values():
        assert schema.encoding == "ros2msg"
        assert_complete(schema.data.decode(), schema.name)
    assert {c.message_encoding for c in summary.channels.values()} == {"cdr"}


def test_a_bridge_that_would_be_open_to_others_refuses_to_start(world, case):
    node = world.add(FoxgloveBridge({"host": "0.0.0.0"}, NAMESPACE), active=False)
    assert node.trigger_configure() is TransitionCallbackReturn.FAILURE
    assert "allow_network" in node.problem


def test_live_refuses_it_where_the_library_is_missing(tmp_path, case, monkeypatch):
    options = LiveOptions(case, "virtual", tmp_path, foxglove=True, foxglove_port=0)
    assert configure(options)[1]["foxglove"]["picture_port"] == 0
    monkeypatch.setattr(foxglove_config.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ParameterError, match="pip install"):
        configure(options)
