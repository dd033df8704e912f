# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: when it says that it is stale, and what it shows no more."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
from contextlib import suppress

import pytest
from browser_support import ASKED, MARKS, Stream, browsed

from spine_nav_common.core.types import Status
from spine_nav_display.browser import Browser, Tab
from spine_nav_display.rehearsal import READ_COUNTER, Feed
from spine_nav_display.server import Limits

pytestmark = MARKS


def test_a_stream_that_stops_is_said_within_a_second_by_the_pages_own_clock() -> None:
    async def scenario(feed: Feed, stream: Stream, _: Browser, tab: Tab) -> None:
        await tab.until("!spinenav.covered")
        # Noted in the page: when a picture last came, and when the cover came over it.
        await tab.evaluate(NOTE_COVER)
        stream.pictures = False
        await tab.until("window.coveredAt")
        came, covered = await tab.evaluate("[spinenav.state.picture.cameAt, coveredAt]")
        assert covered - came < 1000.0
        assert "no new picture" in await tab.text("#cover-why")
        await tab.until("document.getElementById('panel').innerText.includes('picture stopped')")
        stream.pictures = True
        await tab.until("document.getElementById('cover').hidden")

    browsed(scenario, limits=Limits(picture_ms=20_000.0))


NOTE_COVER = """new MutationObserver(() => {
  if (!document.getElementById("cover").hidden) window.coveredAt ??= performance.now();
}).observe(document.getElementById("cover"), {attributes: true})"""


def test_a_picture_that_only_comes_again_is_a_stream_that_stopped() -> None:
    async def scenario(feed: Feed, stream: Stream, _: Browser, tab: Tab) -> None:
        stream.pictures = False
        moment = feed.now()
        from spine_nav_display.rehearsal import counted_jpeg

        end = threading.Event()

        def again() -> None:
            while not end.wait(0.05):
                feed.server.picture("rgbd", counted_jpeg(7), moment)

        thread = threading.Thread(target=again)
        thread.start()
        try:
            await tab.until("!document.getElementById('cover').hidden")
            assert "no new picture" in await tab.text("#cover-why")
        finally:
            end.set()
            thread.join()

    browsed(scenario, limits=Limits(picture_ms=20_000.0))


def test_an_old_picture_is_covered_and_guidance_is_gone() -> None:
    async def scenario(feed: Feed, stream: Stream, _: Browser, tab: Tab) -> None:
        await tab.key("2")
        stream.pictures = False
        end = threading.Event()

        def old() -> None:
            while not end.wait(0.05):
                feed.picture(age_ms=30_000.0)

        thread = threading.Thread(target=old)
        thread.start()
        try:
            await tab.until(
                "spinenav.covered && document.getElementById('cover-word').innerText === 'PICTURE TOO OLD'"
            )
            await tab.until("!document.getElementById('magnifier')")
            assert "picture too old" in await tab.text("#panel")
        finally:
            end.set()
            thread.join()

    browsed(scenario)


def test_a_picture_of_the_stereo_camera_has_a_limit_of_its_own() -> None:
    async def scenario(feed: Feed, stream: Stream, _: Browser, tab: Tab) -> None:
        feed.picture("stereo")
        stream.pictures = False
        end = threading.Event()

        def old() -> None:
            while not end.wait(0.05):
                for name in ("rgbd", "stereo"):
                    feed.picture(name, age_ms=8_000.0)

        thread = threading.Thread(target=old)
        thread.start()
        word = "document.getElementById('cover-word').innerText"
        try:
            await tab.until(f"spinenav.covered && {word} === 'PICTURE TOO OLD'")
            await tab.until("spinenav.state.names.length === 2")
            await tab.key("c")
            await tab.until("!spinenav.covered && spinenav.state.picture.name === 'stereo'")
            await tab.key("c")
            await tab.until(f"spinenav.covered && {word} === 'PICTURE TOO OLD'")
        finally:
            end.set()
            thread.join()

    browsed(scenario, limits=Limits(4_000.0, 20_000.0, 20_000.0))


@pytest.mark.parametrize("fault", ["core", "server"])
def test_a_graph_or_a_server_that_is_gone_covers_everything(fault: str) -> None:
    async def scenario(feed: Feed, stream: Stream, _: Browser, tab: Tab) -> None:
        if fault == "core":
            stream.ticks = False
        else:
            await asyncio.to_thread(feed.server.stop)
        word = {"core": "DISPLAY STANDS STILL", "server": "NO CONTACT"}[fault]
        await tab.until(
            f"spinenav.covered && document.getElementById('cover-word').innerText === '{word}'"
        )
        await tab.until(f"document.getElementById('health-word').innerText === '{word}'")
        await tab.until("!document.getElementById('levels').innerText.includes('TRACKED')")
        for action in ("register", "pause", "confirm"):
            assert await tab.evaluate(f"[...document.querySelectorAll('#buttons button')].find(b => b.innerText.toLowerCase().startsWith('{action}')).disabled")  # fmt: skip

    browsed(scenario, limits=Limits(picture_ms=20_000.0))


def test_a_page_whose_script_hangs_is_covered_by_the_browser() -> None:
    async def scenario(feed: Feed, stream: Stream, _: Browser, tab: Tab) -> None:
        shown = "getComputedStyle(document.getElementById('dead')).opacity"
        assert await tab.evaluate(shown) == "0"
        # The script stands still; the animation of the page goes on by the compositor's own clock.
        hung = "(() => {const end = performance.now() + 1500; while (performance.now() < end); return 1;})()"
        await tab.evaluate(f"{hung}; {shown}")
        at_end = await tab.evaluate(
            f"(() => {{const a = document.getElementById('dead').getAnimations()[0];"
            f" a.currentTime = 0; {hung}; return a.effect.getComputedTiming().duration;}})()"
        )
        assert at_end == 1000
        frames: list[str] = []
        await screencast(tab, frames, hung)
        assert frames, "the browser has painted while the script hung"
        assert any(mostly(frame) for frame in frames), "none of its pictures was covered"

    browsed(scenario)


async def screencast(tab: Tab, frames: list[str], hung: str) -> None:
    """What the browser paints while a script hangs."""
    tab.on["Page.screencastFrame"] = lambda given: frames.append(given["data"])
    await tab.call("Page.startScreencast", format="jpeg", everyNthFrame=1)
    await tab.evaluate(hung)
    await tab.call("Page.stopScreencast")


def mostly(frame: str) -> bool:
    """Whether the words NOT LIVE, in the colour of danger, stand in the middle of a painted frame and
    no picture's blue or red beside them."""
    import base64

    import cv2
    import numpy as np

    image = cv2.imdecode(np.frombuffer(base64.b64decode(frame), np.uint8), cv2.IMREAD_COLOR)
    h, w = image.shape[:2]
    main = image[int(0.15 * h) : int(0.7 * h), int(0.05 * w) : int(0.95 * w)].astype(int)
    background = np.abs(main - (18, 15, 11)).sum(axis=2) < 40
    return 0.9 < background.mean() < 0.999


def test_a_level_that_is_lost_leaves_the_page_with_its_reason() -> None:
    async def scenario(feed: Feed, stream: Stream, _: Browser, tab: Tab) -> None:
        for step in "23":
            stream.statuses = {}
            await tab.key(step)
            await tab.until("Boolean(document.querySelector('#panel canvas'))")
            stream.statuses = {"L2": (Status.LOST, "too little bone in view")}
            await tab.until("!document.querySelector('#panel canvas')")
            assert "L2 is lost: too little bone in view" in await tab.text("#panel")
        assert "too little bone in view" in await tab.text("#levels")
        await tab.key("ArrowRight")
        await tab.key("ArrowRight")
        await tab.until("Boolean(document.querySelector('#panel canvas'))")  # L3 is still tracked

    browsed(scenario)


def test_a_level_whose_check_failed_is_gone_at_that_word_until_it_is_taken_back() -> None:
    async def scenario(feed: Feed, stream: Stream, _: Browser, tab: Tab) -> None:
        level = "spinenav.state.levels?.levels.find(l => l.level === 'L3')"
        await tab.until(f"Boolean({level}?.T)")
        feed.check("failed")  # the levels go on as tracked: their frame was solved before
        await tab.until(f"{level}.status === 'rejected' && {level}.T === null")
        at = feed.number
        await tab.until(f"{READ_COUNTER} > {at + 3}")
        assert await tab.evaluate(f"{level}.T") is None
        strip = await tab.text("#levels")
        assert "REJECTED" in strip and "37.9 mm off" in strip
        feed.check("open")  # registered anew, and begun again
        await tab.until(f"{level}.status === 'tracked' && Boolean({level}.T)")

    browsed(scenario)


def test_a_navigation_that_is_paused_has_no_green_light() -> None:
    async def scenario(feed: Feed, stream: Stream, _: Browser, tab: Tab) -> None:
        light = "document.getElementById('health').className"
        await tab.until(f"{light} === 'state-ready'")
        feed.server.publish("paused", {"paused": True})
        await tab.until(f"{light} === 'state-degraded'")
        assert await tab.text("#health-word") == "PAUSED"
        stream.says = "unsafe", "one camera"
        await tab.until(f"{light} === 'state-unsafe'")
        stream.says = "ready", "all well"
        feed.server.publish("paused", {"paused": False})
        await tab.until(f"{light} === 'state-ready'")

    browsed(scenario)


def test_a_supervisor_that_says_nothing_more_leaves_no_green_light() -> None:
    async def scenario(feed: Feed, stream: Stream, _: Browser, tab: Tab) -> None:
        await tab.until("document.getElementById('health').className === 'state-ready'")
        stream.says = None
        await tab.until("document.getElementById('health').className === 'state-unknown'")
        assert "the supervisor is silent for" in await tab.text("#health-why")
        stream.says = "degraded", "one camera"
        await tab.until("document.getElementById('health').className === 'state-degraded'")

    browsed(scenario)


def test_poses_of_an_old_image_leave_the_page_although_pictures_go_on() -> None:
    async def scenario(feed: Feed, stream: Stream, _: Browser, tab: Tab) -> None:
        await tab.key("3")
        await tab.until("Boolean(document.querySelector('#panel canvas'))")
        stream.pose_age_ms = 30_000.0
        await tab.until("!document.querySelector('#panel canvas')")
        said = re.search(r"the poses are (\d+) ms old, limit 20000 ms", await tab.text("#panel"))
        assert said and 29_000 < int(said[1]) < 200_000, "as old as its image says, by two clocks"
        assert await tab.evaluate("document.getElementById('cover').hidden")

    browsed(scenario)


def test_the_circle_in_the_magnifier_is_of_the_very_image_that_is_shown() -> None:
    async def scenario(feed: Feed, stream: Stream, _: Browser, tab: Tab) -> None:
        await tab.key("2")
        shown = "document.getElementById('magnifier')?.hidden === false"
        await tab.until(shown)
        stream.statuses = {"L3": (Status.LOST, "")}  # L2 stays; its poses are of other images now
        stream.pictures = False
        feed.moment = None
        await tab.until("spinenav.state.levels.stamp_ns !== spinenav.state.picture.stamp_ns")
        await tab.evaluate("spinenav.state.picture.stamp_ns = '5'")
        await tab.until("document.getElementById('magnifier')?.hidden === true")
        assert "its poses are not known" in await tab.text("#panel")

    browsed(scenario)


def test_nobody_answers_for_a_picture_that_stands_still() -> None:
    async def scenario(feed: Feed, stream: Stream, _: Browser, tab: Tab) -> None:
        stream.question = ASKED
        count = "document.querySelectorAll('#buttons button.asked').length"
        await tab.until(f"{count} === 2")
        stream.pictures = False
        await tab.until(f"spinenav.covered && {count} === 0")
        await tab.click("#buttons button:nth-child(1)")
        await tab.key("y", held_s=1.0)
        assert "Nothing is shown" in await tab.text("#panel")

    assert browsed(scenario, limits=Limits(picture_ms=20_000.0)).asked == []


def test_a_page_comes_back_after_the_server_was_started_again() -> None:
    async def scenario(feed: Feed, stream: Stream, _: Browser, tab: Tab) -> None:
        first = await tab.evaluate("spinenav.state.session")
        feed.server.begin("second")
        await tab.until("spinenav.state.session === 'second'")
        assert first == "first"
        for page in list(feed.server._pages):
            feed.server._soon(page.drop)
        await tab.until("document.getElementById('cover').hidden && spinenav.state.page === '2'")

    browsed(scenario)


def test_a_browser_that_is_held_drops_pictures_and_comes_back_to_the_newest() -> None:
    async def scenario(feed: Feed, stream: Stream, running: Browser, tab: Tab) -> None:
        at = feed.number
        os.killpg(running.pid, signal.SIGSTOP)
        try:
            while feed.number < at + 30:
                await asyncio.sleep(0.05)
            gates = [v.gate for v in feed.server._viewers]
            assert sum(g.dropped for g in gates) > 20
        finally:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGCONT)
        await tab.until(f"{READ_COUNTER} > {at + 30}")

    browsed(scenario)
