# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: what it shows, when it says that it is stale, whose answers it sends."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from spine_nav_common.core.types import Status
from spine_nav_display.browser import Browser, Tab, browser, find_chromium
from spine_nav_display.core.questions import Question
from spine_nav_display.core.scene import plan_lines
from spine_nav_display.rehearsal import LEVELS, READ_COUNTER, Feed
from spine_nav_display.server import Limits

pytestmark = [
    pytest.mark.skipif(
        find_chromium() is None, reason="no chromium; apt-get install chromium runs these"
    ),
    pytest.mark.slow,
]
ASKED = Question("K7QX", "L2 to L4 as seen?", LEVELS, 11)
SIZES = ((1280, 800), (1920, 1080))
# A loaded machine draws late: the limit of a test on something else must not be the picture's age.
PATIENT = Limits(picture_ms=20_000.0, silence_ms=20_000.0)


class Stream:
    """Feeds a server 15 times a second until told otherwise. `what`: the parts that are fed."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.pictures = self.ticks = True
        self.statuses: dict[str, tuple[Status, str]] = {}
        self.question: Question | None = None
        self.pose_age_ms = 5.0
        self.says: tuple[str, str] | None = ("ready", "all well")
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        self.feed.camera()
        while not self._end.wait(1 / 15):
            if self.ticks:
                self.feed.tick()
            if self.says is not None:
                self.feed.health(*self.says)
            if self.pictures:
                self.feed.picture()
            self.feed.levels(self.statuses, self.question, age_ms=self.pose_age_ms)
            self.feed.implants()
            self.feed.bending()


def browsed(
    scenario: Callable[[Feed, Stream, Browser, Tab], Awaitable[None]],
    size: tuple[int, int] = SIZES[0],
    limits: Limits | None = PATIENT,
) -> Feed:
    """Runs a scenario on a page that has shown its first pictures."""

    async def run() -> None:
        async with browser() as running:
            tab = await running.open(feed.server.url, *size)
            await tab.until("window.spinenav?.pictures > 2 && spinenav.delays.length > 0")
            await scenario(feed, stream, running, tab)

    with Feed(limits=limits) as feed, Stream(feed) as stream:
        asyncio.run(asyncio.wait_for(run(), 120.0))
    return feed


def test_the_page_shows_the_newest_picture_and_asks_nobody_else() -> None:
    async def scenario(feed: Feed, stream: Stream, _: Browser, tab: Tab) -> None:
        first = await tab.evaluate(READ_COUNTER)
        await tab.until(f"{READ_COUNTER} > {first} + 5")
        assert await tab.evaluate(READ_COUNTER) <= feed.number
        assert tab.errors == []
        ours = feed.server.url.partition("://")[2]
        assert tab.requests
        assert all(r.partition("://")[2].startswith(ours) for r in tab.requests)

    browsed(scenario)


def test_a_third_party_request_is_refused_by_the_page_itself() -> None:
    async def scenario(feed: Feed, stream: Stream, _: Browser, tab: Tab) -> None:
        blocked = "new Promise(done => document.addEventListener('securitypolicyviolation', e => done(e.violatedDirective)))"  # fmt: skip
        for attempt, directive in (
            ("fetch('http://127.0.0.1:9/x').catch(() => 0)", "connect-src"),
            ("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x.png'}))", "img-src"),
            ("document.body.append(Object.assign(document.createElement('script'), {src: 'http://127.0.0.1:9/x.js'}))", "script-src-elem"),
            ("document.body.append(Object.assign(document.createElement('script'), {textContent: '1'}))", "script-src-elem"),
        ):  # fmt: skip
            said = await tab.evaluate(f"(() => {{const b = {blocked}; {attempt}; return b;}})()")
            assert said == directive

    browsed(scenario)


@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
def test_nothing_scrolls_overlaps_or_is_too_small_to_read(size: tuple[int, int]) -> None:
    long = (
        "uncertain: predicted TRE 5.1 mm, shown below 3.3; a hand covers most of the bone in view"
    )

    async def scenario(feed: Feed, stream: Stream, _: Browser, tab: Tab) -> None:
        for statuses in ({}, {"L3": (Status.LOST, long), "L4": (Status.OCCLUDED, long)}):
            stream.statuses = statuses
            stream.says = "unsafe", "; ".join(["navigation: guidance withdrawn: " + long] * 2)
            await tab.until("document.getElementById('health-why').innerText.includes('withdrawn')")
            wanted = ["tracked", "occluded"][bool(statuses)]
            await tab.until(f"spinenav.state.levels.levels[2].status === '{wanted}'")
            for step in (*"12345", "open", "passed", "failed"):
                if len(step) > 1:
                    feed.check(step)
                    await tab.until(f"spinenav.state.check?.levels.L3.state === '{step}'")
                await tab.key(step if len(step) == 1 else "6")
                await tab.evaluate("spinenav.state.checked = 1")  # L3
                await tab.evaluate(TWO_FRAMES)
                told = await tab.evaluate(LAYOUT)
                assert told == {"scrolls": False, "small": [], "cut": [], "overlaps": []}, step

    browsed(scenario, size)


# Where a pixel of the camera's image lies on the screen.
CLICK_AT = """((u, v) => {
  const canvas = document.getElementById("picture"), box = canvas.getBoundingClientRect(), c = spinenav.state.camera;
  const scale = Math.min(box.width / canvas.width, box.height / canvas.height);
  const clientX = box.left + (box.width - canvas.width * scale) / 2 + u / c.width * canvas.width * scale;
  const clientY = box.top + (box.height - canvas.height * scale) / 2 + v / c.height * canvas.height * scale;
  const hit = document.elementFromPoint(clientX, clientY) ?? canvas;
  hit.dispatchEvent(new MouseEvent("click", {clientX, clientY, bubbles: true}));
  return spinenav.state.picture.stamp_ns;
})(%s, %s)"""


def test_a_landmark_is_clicked_on_the_very_picture_that_is_shown() -> None:
    async def scenario(feed: Feed, stream: Stream, _: Browser, tab: Tab) -> None:
        asked = lambda: [word for action, word in feed.asked if action == "check"]
        await tab.until("!spinenav.covered && spinenav.state.levels?.levels.length === 3")
        await tab.evaluate(CLICK_AT % (320, 240))  # another step: a click means nothing there
        await tab.key("6")
        await tab.key("ArrowRight")
        await tab.key("b")
        await tab.until("document.getElementById('told').innerText !== ''")
        assert asked() == ["begin L3"]
        feed.check("open", 1)
        await tab.until("document.getElementById('panel').innerText.includes('Click: left')")
        stamp = await tab.evaluate(CLICK_AT % (200, 150))
        await tab.until("spinenav.state.told && spinenav.state.told.ok")
        await tab.evaluate(CLICK_AT % (-20, 150))  # beside the picture
        await tab.key("u")
        while len(asked()) < 3:
            await tab.evaluate(TWO_FRAMES)
        verb, level, number, of, u, v = asked()[1].split()
        assert (verb, level, number, of) == ("touch", "L3", "2", stamp)
        assert abs(float(u) - 200) < 1 and abs(float(v) - 150) < 1
        assert asked()[2] == "undo L3"

    browsed(scenario)


def test_no_landmark_is_clicked_while_its_level_is_not_shown() -> None:
    async def scenario(feed: Feed, stream: Stream, _: Browser, tab: Tab) -> None:
        feed.check("open", 0)
        stream.statuses = {"L3": (Status.REJECTED, "the landmark check of L3 failed: 9 mm off")}
        await tab.key("6")
        await tab.key("ArrowRight")
        await tab.until("document.getElementById('panel').innerText.includes('9 mm off')")
        await tab.evaluate(CLICK_AT % (200, 150))
        await tab.key("e")
        await tab.until("spinenav.state.told && spinenav.state.told.ok")
        assert [word for _, word in feed.asked] == ["end L3"]

    browsed(scenario)


def test_what_passed_is_not_told_of_a_level_that_is_not_shown() -> None:
    async def scenario(feed: Feed, stream: Stream, _: Browser, tab: Tab) -> None:
        text = "document.getElementById('panel').innerText.includes('%s')"
        feed.check("passed")
        await tab.key("6")
        await tab.key("ArrowRight")
        await tab.until(text % "passed: 1.6 mm")
        stream.statuses = {"L3": (Status.LOST, "out of sight")}
        await tab.until(text % "out of sight")
        assert not await tab.evaluate(text % "passed: 1.6 mm")
        feed.check("failed")
        await tab.until(text % "37.9 mm off")  # the reason why it is not shown

    browsed(scenario)


TWO_FRAMES = "new Promise(d => requestAnimationFrame(() => requestAnimationFrame(d)))"
# Text below 2 % of the window's height; panels that are cut; words that lie on each other.
LAYOUT = """(() => {
  const clipped = (r, element) => {
    const box = {left: r.left, right: r.right, top: r.top, bottom: r.bottom};
    for (let e = element; e; e = e.parentElement) {
      if (getComputedStyle(e).overflow === "visible") continue;
      const c = e.getBoundingClientRect();
      box.left = Math.max(box.left, c.left); box.right = Math.min(box.right, c.right);
      box.top = Math.max(box.top, c.top); box.bottom = Math.min(box.bottom, c.bottom);
    }
    return box;
  };
  const root = document.documentElement, words = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode, element = node.parentElement;
    if (!node.data.trim() || !element.checkVisibility({opacityProperty: true})) continue;
    if (element.closest("#dead, #cover[hidden], script, style, title")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const box = clipped(range.getBoundingClientRect(), element);
    if (box.right > box.left && box.bottom > box.top) words.push({text: node.data, size: parseFloat(getComputedStyle(element).fontSize), box, element});
  }
  const inside = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  const overlaps = [];
  words.forEach((a, i) => words.slice(i + 1).forEach((b) => {
    if (a.element !== b.element && !a.element.contains(b.element) && !b.element.contains(a.element) && inside(a.box, b.box)) overlaps.push([a.text, b.text]);
  }));
  const panels = ["panel", "buttons", "steps", ...[...document.querySelectorAll("#levels > div, .sides > div, .split > div")]];
  const cut = panels.map((p) => (typeof p === "string" ? document.getElementById(p) : p))
    .filter((p) => p.scrollHeight > p.clientHeight + 2 || p.scrollWidth > p.clientWidth + 2).map((p) => p.id || p.innerText);
  return {
    scrolls: root.scrollHeight > innerHeight || root.scrollWidth > innerWidth,
    small: words.filter((w) => w.size < 0.0195 * innerHeight).map((w) => w.text),
    cut, overlaps,
  };
})()"""


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
        assert "the poses are 30" in await tab.text("#panel")
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


def test_an_answer_is_bound_to_the_question_that_is_shown() -> None:
    async def scenario(feed: Feed, stream: Stream, running: Browser, tab: Tab) -> None:
        other = await running.open(feed.server.url)
        await other.until("window.spinenav?.pictures > 2")
        stream.question = ASKED
        stream.statuses = {v: (Status.REJECTED, "waits for a confirmation") for v in LEVELS}
        ready = "document.querySelectorAll('#buttons button.asked').length === 2"
        for page in (tab, other):
            await page.until(ready)
            assert "L2 to L4 as seen?" in await page.text("#panel")
        await tab.key("y", held_s=1.0)
        await tab.until("document.getElementById('told').innerText.includes('confirmed by page')")
        await other.until("document.getElementById('told').innerText.includes('confirmed by page')")
        await other.click("#buttons button:nth-child(2)")  # reject
        await other.until("document.getElementById('told').innerText.includes('was first')")
        stream.question = Question("B2B2", "L3 to L5 as seen?", LEVELS, 12)
        # Not before it could be read: a click meant for the question before it counts for nothing.
        await tab.until("spinenav.state.question?.id === 'B2B2'")
        await tab.until("performance.now() - spinenav.state.questionAt > 700")
        await tab.click("#buttons button:nth-child(2)")
        await tab.until("document.getElementById('told').innerText.includes('rejected by page')")

    feed = browsed(scenario)
    answered = [(action, taken.answer.question) for action, taken in feed.asked]
    assert answered == [("confirm", "K7QX"), ("reject", "B2B2")]


def test_a_change_of_the_plan_is_asked_where_it_is_seen_and_drawn_once_it_holds() -> None:
    async def scenario(feed: Feed, stream: Stream, _: Browser, tab: Tab) -> None:
        line = dict(plan_lines(feed.case)[0])
        line["target"] = [line["target"][0], line["target"][1], line["target"][2] + 0.004]
        words = "L2 left: entry moved 0.0 mm, tip 4.0 mm; from 3D Slicer"
        stream.question = Question("PLAN-1A2B3C", words, ("L2",), 11, line)
        ready = "document.querySelectorAll('#buttons button.asked').length === 2"
        await tab.until(ready)
        assert words in await tab.text("#panel")
        assert "Count from the sacrum" not in await tab.text("#panel")
        assert await tab.evaluate("document.querySelector('#steps button').matches('.asks')")
        await tab.key("3")  # another step: the question is not read there
        await tab.until(f"!({ready})")
        await tab.key("y", held_s=1.0)
        await tab.key("1")
        await tab.until(ready)
        assert feed.asked == []
        await tab.key("y", held_s=1.0)
        await tab.until("document.getElementById('told').innerText.includes('confirmed by page')")
        stream.question = None
        feed.server.publish("plan", {"plan": [line, *plan_lines(feed.case)[1:]]})
        await tab.until(f"spinenav.state.plan[0].target[2] === {line['target'][2]}")
        await tab.evaluate("location.reload()")
        await tab.until("window.spinenav?.pictures > 2")
        await tab.until(f"spinenav.state.plan[0]?.target[2] === {line['target'][2]}")
        assert tab.errors == []

    feed = browsed(scenario)
    ((action, taken),) = feed.asked
    assert action == "confirm" and taken.question.is_plan


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


def test_a_key_that_is_only_touched_answers_nothing_nor_does_one_for_another_question() -> None:
    async def scenario(feed: Feed, stream: Stream, _: Browser, tab: Tab) -> None:
        stream.question = ASKED
        ready = "document.querySelectorAll('#buttons button.asked').length === 2"
        await tab.until(ready)
        await tab.key("y")
        await tab.key("r")
        await tab.call("Input.dispatchKeyEvent", type="keyDown", key="y", text="y")
        stream.question = Question("B2B2", "another?", LEVELS, 12)
        await tab.until("spinenav.state.question?.id === 'B2B2'")
        await tab.until(ready)  # longer than a key is held
        await tab.call("Input.dispatchKeyEvent", type="keyUp", key="y")
        await tab.key("s")
        await tab.until("document.getElementById('told').innerText !== ''")

    assert browsed(scenario, limits=Limits(20_000.0, 20_000.0, Path("/proc/none"))).asked == []


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


def test_without_webgl_everything_else_works() -> None:
    async def run() -> None:
        async with browser("--disable-gpu", "--disable-3d-apis") as running:
            tab = await running.open(feed.server.url)
            await tab.until("window.spinenav?.pictures > 2")
            assert "no WebGL" in await tab.text("#view-note")
            await tab.until("document.getElementById('levels').innerText.includes('TRACKED')")

    with Feed(limits=PATIENT) as feed, Stream(feed):
        asyncio.run(asyncio.wait_for(run(), 60.0))
