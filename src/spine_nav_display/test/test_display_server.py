# SPDX-License-Identifier: Apache-2.0
"""The display's server, asked by clients that the test plays: no browser, no ROS."""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession, ClientWebSocketResponse, WSServerHandshakeError

from spine_nav_common.parameters import ParameterError
from spine_nav_display.core.binding import Exposure
from spine_nav_display.core.questions import Question, Taken
from spine_nav_display.pictures import unpack
from spine_nav_display.rehearsal import Feed
from spine_nav_display.server import Limits

ASKED = Question("K7QX", "L2 to L4?", ("L2", "L3", "L4"), 11)


def served(scenario: Callable[[Feed, ClientSession], Awaitable[None]], **given: Any) -> Feed:
    """Runs a scenario against a server."""

    async def run() -> None:
        async with ClientSession() as session:
            await asyncio.wait_for(scenario(feed, session), 30.0)

    with Feed(**given) as feed:
        asyncio.run(run())
    return feed


class Page:
    """A page's control connection."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self.socket = socket
        self.session = ""

    @classmethod
    async def open(cls, feed: Feed, session: ClientSession) -> Page:
        page = cls(await session.ws_connect(f"{feed.server.url}control"))
        hello = await page.until("hello")
        page.session = hello["session"]
        return page

    async def until(self, kind: str, *more: str) -> dict[str, Any]:
        while True:
            message = json.loads(await self.socket.receive_str())
            if message["kind"] in (kind, *more):
                return message

    async def act(self, action: str, **values: Any) -> dict[str, Any]:
        given = {"session": self.session, **values}
        await self.socket.send_str(json.dumps({"kind": "act", "action": action, "n": 1, **given}))
        return await self.until("outcome")


def test_every_answer_forbids_third_parties() -> None:
    async def scenario(feed: Feed, session: ClientSession) -> None:
        for path in ("", "page.js", "vendor/three.module.min.js", "case.json", "nowhere"):
            async with session.get(feed.server.url + path) as answer:
                policy = answer.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy and "connect-src 'self'" in policy
                assert "unsafe" not in policy and "http" not in policy and "*" not in policy
                assert answer.status == (404 if path == "nowhere" else 200)
        socket = await session.ws_connect(f"{feed.server.url}control")
        assert "Content-Security-Policy" in socket._response.headers

    served(scenario)


def test_a_path_that_climbs_out_finds_nothing() -> None:
    async def scenario(feed: Feed, session: ClientSession) -> None:
        for path in ("../server.py", "%2e%2e/server.py", "vendor/SOURCE.md"):
            async with session.get(f"{feed.server.url}{path}") as answer:
                assert answer.status == 404

    served(scenario)


def test_a_foreign_page_in_the_same_browser_is_refused() -> None:
    async def scenario(feed: Feed, session: ClientSession) -> None:
        for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
            async with session.get(feed.server.url, headers=headers) as answer:
                assert answer.status == 403
            for room in ("control", "video"):
                with pytest.raises(WSServerHandshakeError, match="403"):
                    await session.ws_connect(f"{feed.server.url}{room}", headers=headers)

    served(scenario)


def test_a_token_is_asked_for_everywhere() -> None:
    token = "0123456789abcdef"

    async def scenario(feed: Feed, session: ClientSession) -> None:
        url = feed.server.url
        for path in ("", "case.json", "?token=wrong"):
            async with session.get(url + path) as answer:
                assert answer.status == 401
        with pytest.raises(WSServerHandshakeError, match="401"):
            await session.ws_connect(f"{url}control")
        async with session.get(f"{url}?token={token}", allow_redirects=False) as answer:
            assert answer.status == 302 and answer.headers["Location"] == "/"
            cookie = answer.headers["Set-Cookie"]
            assert all(w in cookie for w in ("HttpOnly", "Secure", "SameSite=Strict"))
        async with session.get(url, headers={"Cookie": f"spinenav={token}"}) as answer:
            assert answer.status == 200

    served(scenario, exposure=Exposure(port=0, token=token))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of our own and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl; apt-get install openssl runs this")
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


def test_with_tls_nothing_is_said_in_the_clear(pair: tuple[Path, Path]) -> None:
    async def scenario(feed: Feed, session: ClientSession) -> None:
        assert feed.server.url.startswith("https://")
        trusted = ssl.create_default_context(cafile=str(pair[0]))
        async with session.get(feed.server.url, ssl=trusted) as answer:
            assert answer.status == 200
        socket = await session.ws_connect(f"{feed.server.url}control", ssl=trusted)
        assert json.loads(await socket.receive_str())["kind"] == "hello"
        with pytest.raises(ClientError):
            await session.get(feed.server.url.replace("https", "http"))

    served(scenario, exposure=Exposure("127.0.0.1", 0, "", *pair))


def test_a_key_of_another_certificate_is_a_wrong_parameter(pair: tuple[Path, Path]) -> None:
    wrong = Feed(exposure=Exposure("127.0.0.1", 0, "", pair[0], pair[0]))
    with pytest.raises(ParameterError, match="tls_certificate"):
        wrong.server.start()


def test_a_port_that_is_taken_is_a_wrong_parameter() -> None:
    with Feed() as first:
        second = Feed(exposure=Exposure(port=first.server.port))
        with pytest.raises(ParameterError, match="--port"):
            second.server.start()


def test_a_page_gets_all_that_is_known_and_a_late_one_too() -> None:
    async def scenario(feed: Feed, session: ClientSession) -> None:
        feed.all()
        for _ in range(2):
            page = await Page.open(feed, session)
            wanted = {"session", "levels", "health", "implants", "bending", "camera", "pictures"}
            while wanted:
                wanted.discard((await page.until(*wanted))["kind"])

    served(scenario)


def test_an_answer_reaches_the_core_with_its_question_and_everybody_is_told() -> None:
    async def scenario(feed: Feed, session: ClientSession) -> None:
        one, two = [await Page.open(feed, session) for _ in range(2)]
        feed.levels(question=ASKED)
        await one.until("levels")
        told = await one.act("confirm", question="K7QX", stamp_ns="11")
        assert told["ok"] and "L2, L3, L4 confirmed by page 1" in told["text"]
        assert (await two.until("outcome"))["text"] == told["text"]
        refused = await two.act("reject", question="K7QX", stamp_ns="11")
        assert not refused["ok"] and "page 1 was first" in refused["text"]

    feed = served(scenario)
    ((action, taken),) = feed.asked
    assert action == "confirm" and isinstance(taken, Taken) and taken.answer.question == "K7QX"
    noted = [n for n in feed.heard if n["what"] == "action"]
    assert [(n["page"], n["ok"], n["question"]) for n in noted] == [
        ("1", True, "K7QX"), ("2", False, "K7QX"),
    ]  # fmt: skip


def test_of_two_answers_at_once_the_first_wins_while_the_core_still_thinks() -> None:
    async def scenario(feed: Feed, session: ClientSession) -> None:
        feed.reply = None
        one, two = [await Page.open(feed, session) for _ in range(2)]
        feed.levels(question=ASKED)
        await one.until("levels")
        given = {"kind": "act", "action": "confirm", "n": 1, "session": one.session}
        await one.socket.send_str(json.dumps({**given, "question": "K7QX"}))
        while not feed.pending:
            await asyncio.sleep(0.01)
        refused = await two.act("confirm", question="K7QX")
        assert not refused["ok"] and "was first" in refused["text"]
        feed.pending[0].set_result((False, "another hypothesis is asked by now"))
        told = await one.until("outcome")
        assert not told["ok"] and "another hypothesis" in told["text"]
        feed.reply = (True, "")
        assert (await two.act("confirm", question="K7QX"))["ok"], "it is open again"

    assert len(served(scenario).asked) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda feed: feed.levels(question=Question("B2B2", "?", (), 1)), "has changed"),
        (lambda feed: feed.levels(), "nothing waits"),
        (lambda feed: (feed.server.begin("second"), feed.levels(question=ASKED)), "started again"),
    ],
)
def test_an_answer_to_what_is_asked_no_more_never_reaches_the_core(
    change: Callable[[Feed], Any], words: str
) -> None:
    async def scenario(feed: Feed, session: ClientSession) -> None:
        page = await Page.open(feed, session)
        feed.levels(question=ASKED)
        await page.until("levels")
        change(feed)
        await page.until("levels")
        refused = await page.act("confirm", question="K7QX")
        assert not refused["ok"] and words in refused["text"]

    assert served(scenario).asked == []


def test_after_a_restart_an_old_page_registers_nothing_either() -> None:
    async def scenario(feed: Feed, session: ClientSession) -> None:
        page = await Page.open(feed, session)
        feed.server.begin("second")
        await page.until("session")
        for action in ("register", "pause", "resume", "snapshot"):
            assert not (await page.act(action))["ok"]
        page.session = "second"
        assert (await page.act("register"))["ok"]

    assert [a for a, _ in served(scenario).asked] == ["register"]


def test_a_page_that_shows_no_pictures_misses_no_word() -> None:
    async def scenario(feed: Feed, session: ClientSession) -> None:
        page = await Page.open(feed, session)
        video = await session.ws_connect(f"{feed.server.url}video", max_msg_size=0)
        for number in range(300):
            feed.picture()
            feed.levels()
            if number % 10 == 0:
                told = await page.act("register")
                assert told["ok"]
        first, _ = unpack(await video.receive_bytes())
        with pytest.raises(asyncio.TimeoutError):
            await video.receive_bytes(timeout=0.3)  # one is under way, and not acknowledged
        await video.send_str(json.dumps({"shown": first["n"]}))
        newest, _ = unpack(await video.receive_bytes())
        assert (first["n"], newest["n"]) == (1, 300)

    assert len(served(scenario).asked) == 30


def test_a_page_that_never_reads_is_dropped_and_the_others_go_on() -> None:
    async def scenario(feed: Feed, session: ClientSession) -> None:
        page = await Page.open(feed, session)
        _reader, writer = await asyncio.open_connection("127.0.0.1", feed.server.port, limit=1)
        host = f"127.0.0.1:{feed.server.port}"
        writer.write(
            f"GET /control HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        await writer.drain()
        while feed.server.pages < 2:
            await asyncio.sleep(0.01)
        while feed.server.pages == 2:  # events that it never takes
            assert (await page.act("register"))["ok"]
            feed.server.publish("bulk", {"x": "y" * 200_000})
        assert (await page.act("register"))["ok"]
        writer.close()

    served(scenario)


def test_nonsense_closes_its_own_connection_alone() -> None:
    async def scenario(feed: Feed, session: ClientSession) -> None:
        page = await Page.open(feed, session)
        for bad in ("not json", "[1]", json.dumps({"kind": "ping", "t": "x" * 5000})):
            socket = await session.ws_connect(f"{feed.server.url}control")
            await socket.send_str(bad)
            while not (await socket.receive()).type.name.startswith("CLOS"):
                pass
        unknown = await page.act("format_disk")
        assert not unknown["ok"] and "nothing that this page can ask" in unknown["text"]
        await page.socket.send_str(json.dumps({"kind": "ping", "t": [1]}))
        assert (await page.until("pong"))["t"] == 0

    assert served(scenario).asked == []


def test_a_pong_tells_for_how_long_the_graph_was_not_heard() -> None:
    async def scenario(feed: Feed, session: ClientSession) -> None:
        page = await Page.open(feed, session)

        async def core_ms() -> float:
            await page.socket.send_str(json.dumps({"kind": "ping", "t": 1.0}))
            return (await page.until("pong"))["core_ms"]

        while await core_ms() < 200:
            await asyncio.sleep(0.02)
        feed.tick()
        assert await core_ms() < 200

    served(scenario)


def test_ten_pages_get_one_packing_of_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    import spine_nav_display.server as module

    packed: list[int] = []
    real = module.pack
    monkeypatch.setattr(module, "pack", lambda *a: (packed.append(1), real(*a))[1])

    async def scenario(feed: Feed, session: ClientSession) -> None:
        videos = [
            await session.ws_connect(f"{feed.server.url}video", max_msg_size=0) for _ in range(10)
        ]
        while len(feed.server._viewers) < 10:
            await asyncio.sleep(0.01)
        feed.picture()
        got = [await v.receive_bytes() for v in videos]
        assert len(set(got)) == 1

    served(scenario)
    assert len(packed) == 1


def test_a_viewer_chooses_its_camera() -> None:
    async def scenario(feed: Feed, session: ClientSession) -> None:
        video = await session.ws_connect(f"{feed.server.url}video", max_msg_size=0)
        while not feed.server.wants("rgbd"):
            await asyncio.sleep(0.01)
        feed.picture("rgbd")
        first, _ = unpack(await video.receive_bytes())
        await video.send_str(json.dumps({"shown": first["n"]}))
        feed.picture("stereo")
        await video.send_str(json.dumps({"show": "stereo"}))
        second, _ = unpack(await video.receive_bytes())
        assert (first["name"], second["name"]) == ("rgbd", "stereo")

    served(scenario)


def test_a_snapshot_holds_picture_and_what_was_known(tmp_path: Path) -> None:
    async def scenario(feed: Feed, session: ClientSession) -> None:
        page = await Page.open(feed, session)
        assert "no picture" in (await page.act("snapshot"))["text"]
        feed.all()
        await page.until("pictures")
        assert (await page.act("snapshot"))["ok"]

    served(scenario, limits=Limits(snapshots=tmp_path / "s"))
    (jpeg,) = (tmp_path / "s").glob("*_rgbd.jpg")
    (known,) = (tmp_path / "s").glob("*.json")
    assert jpeg.read_bytes()[:2] == b"\xff\xd8"
    assert json.loads(known.read_text())["levels"]["identity"] == "proven"


def test_a_snapshot_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    async def scenario(feed: Feed, session: ClientSession) -> None:
        page = await Page.open(feed, session)
        feed.all()
        await page.until("pictures")
        told = await page.act("snapshot")
        assert not told["ok"] and "cannot be written" in told["text"]

    served(scenario, limits=Limits(snapshots=tmp_path / "file"))


def test_the_end_tells_every_page_and_leaves_no_thread() -> None:
    async def scenario(feed: Feed, session: ClientSession) -> None:
        page = await Page.open(feed, session)
        await asyncio.to_thread(feed.server.stop)
        while not (await page.socket.receive()).type.name.startswith("CLOS"):
            pass

    served(scenario)
    assert not [t for t in threading.enumerate() if t.name == "display"]


@pytest.mark.parametrize("number", ["NaN", "1e999", "{}"])
def test_an_action_with_a_number_that_is_none_is_told_and_noted(number: str) -> None:
    """It was carried out, and neither the other pages nor the record heard of it."""

    async def scenario(feed: Feed, session: ClientSession) -> None:
        page, other = await Page.open(feed, session), await Page.open(feed, session)
        text = json.dumps({"kind": "act", "action": "register", "session": page.session, "n": 0})
        await page.socket.send_str(f'{{"kind":"shows","levels":[{number}],"picture":{number}}}')
        await page.socket.send_str(f'{{"kind":"ping","t":{number}}}')
        await page.socket.send_str(text.replace('"n": 0', f'"n": {number}'))
        assert (await other.until("outcome"))["ok"]
        noted = [n for n in feed.heard if n["what"] in ("action", "shown")]
        assert [n["what"] for n in noted] == ["shown", "action"]
        json.dumps(noted, allow_nan=False)

    served(scenario)


TOUCH = (
    '{"kind":"act","action":"check","do":"touch","level":"L3","number":%s,"session":"S",'
    '"stamp_ns":"%s","u":1,"v":1}'
)
LONG = "9" * 3900  # digits that fit into a message and into no integer of ROS, nor a float


@pytest.mark.parametrize(
    "said",
    [
        "[" * 4000,
        f'{{"kind":"ping","t":{LONG}}}',
        f'{{"kind":"act","action":"confirm","n":{LONG},"question":"K7QX"}}',
        f'{{"kind":"act","action":"confirm","n":1,"session":"S","question":"OLD1","stamp_ns":"{LONG}"}}',
        TOUCH % (LONG, "7"),
        TOUCH % ("1", LONG),
        TOUCH % ("true", "7"),
        '{"kind":"act","action":["confirm"],"session":{},"question":null}',
        '{"kind":"shows","levels":[[[1]]],"picture":{"a":1},"covered":[]}',
    ],
    ids=lambda text: text[:34],
)
def test_what_no_page_of_ours_says_is_refused_or_closes_it_and_nobody_else_hears(
    said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(feed: Feed, session: ClientSession) -> None:
        failed: list[Any] = []
        feed.server._loop.set_exception_handler(lambda _, context: failed.append(context))
        feed.server.ask(ASKED)
        page, other = await Page.open(feed, session), await Page.open(feed, session)
        await page.socket.send_str(said.replace('"session":"S"', f'"session":"{page.session}"'))
        with suppress(TypeError, ConnectionError):  # closed
            await page.socket.send_str(json.dumps({"kind": "act", "action": "none", "n": 2}))
            while (await page.until("outcome"))["n"] != 2:
                pass
        await other.socket.send_str(json.dumps({"kind": "ping", "t": 1.0}))
        assert (await other.until("pong"))["t"] == 1.0
        assert not (await other.act("none"))["ok"]
        assert not [n for n in feed.heard if n.get("ok")]
        json.dumps(feed.heard, allow_nan=False)
        gc.collect()  # a task that failed is told when it goes
        await asyncio.sleep(0)
        assert not failed, failed

    assert served(scenario).asked == []
    assert not [r for r in caplog.records if r.exc_info], "no answer, but a fault"


def test_what_a_page_was_told_is_not_done_is_not_asked_of_the_navigation_later() -> None:
    """The executor was held up; meanwhile the question was open again."""
    pytest.importorskip("rclpy")
    from spine_nav_display.ros.core_requests import CoreRequests

    asked: list[Any] = []
    requests = SimpleNamespace(
        _node=SimpleNamespace(active=True), _register=None, _call=lambda *given: asked.append(given)
    )
    late: Future[tuple[bool, str]] = Future()
    late.cancel()  # as asyncio.wait_for does
    CoreRequests.ask(requests, "register", None, "", late)
    assert not asked
    CoreRequests.ask(requests, "register", None, "", Future())
    assert len(asked) == 1


def test_words_of_a_landmark_check_reach_the_core_and_others_do_not() -> None:
    async def scenario(feed: Feed, session: ClientSession) -> None:
        page = await Page.open(feed, session)
        for bad in (
            {},
            {"do": "touch", "level": "L3"},
            {"do": "touch", "level": "L3", "number": 1, "stamp_ns": "7", "u": "x", "v": 1},
            {"do": "touch", "level": "L3", "number": 1, "stamp_ns": "7 begin L2", "u": 1, "v": 1},
            {"do": "begin", "level": "L3 yes"},
            {"do": "register", "level": "L3"},
        ):
            assert not (await page.act("check", **bad))["ok"]
        old = await page.act("check", do="begin", level="L3", session="of before")
        assert not old["ok"] and "look again" in old["text"]
        assert feed.asked == []
        click = {"do": "touch", "level": "L3", "number": 2, "stamp_ns": "7", "u": 1.234, "v": 5}
        assert (await page.act("check", **click))["ok"]
        assert feed.asked == [("check", "touch L3 2 7 1.23 5.00")]
        noted = [h for h in feed.heard if h.get("action") == "check" and h["ok"]]
        assert noted[0]["do"] == "touch" and noted[0]["level"] == "L3"

    served(scenario)
