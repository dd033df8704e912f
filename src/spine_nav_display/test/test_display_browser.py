# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: what it shows, and whose answers it sends."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path

import pytest
from browser_support import ASKED, MARKS, PATIENT, SIZES, TWO_FRAMES, Stream, browsed

from rod_bending_ar.bulls_eye import TILE_PX, WORDS_PX
from spine_nav_common.core.types import Status
from spine_nav_display.browser import Browser, Tab, browser
from spine_nav_display.core.questions import Question
from spine_nav_display.core.scene import plan_lines
from spine_nav_display.measure import of_session
from spine_nav_display.rehearsal import LEVELS, READ_COUNTER, Feed, tile_grey
from spine_nav_display.server import Limits
from spine_nav_display.surgeon import CLICK

pytestmark = MARKS


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


def test_a_browser_that_is_measured_goes_before_nobody() -> None:
    async def scenario(feed: Feed, stream: Stream, running: Browser, _: Tab) -> None:
        threads = [t for p, _ in of_session(running.pid) for t in (p / "task").iterdir()]
        assert len(threads) > 10
        for thread in threads:
            with suppress(OSError):  # it has ended
                assert os.getpriority(os.PRIO_PROCESS, int(thread.name)) >= 0

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


def test_a_landmark_is_clicked_on_the_very_picture_that_is_shown() -> None:
    async def scenario(feed: Feed, stream: Stream, _: Browser, tab: Tab) -> None:
        asked = lambda: [word for action, word in feed.asked if action == "check"]
        await tab.until("!spinenav.covered && spinenav.state.levels?.levels.length === 3")
        await tab.evaluate(CLICK % "[320, 240]")  # another step: a click means nothing there
        await tab.key("6")
        await tab.key("ArrowRight")
        await tab.key("b")
        await tab.until("document.getElementById('told').innerText !== ''")
        assert asked() == ["begin L3"]
        feed.check("open", 1)
        await tab.until("document.getElementById('panel').innerText.includes('Click: left')")
        stamp = await tab.evaluate(CLICK % "[200, 150]")
        await tab.until("spinenav.state.told && spinenav.state.told.ok")
        await tab.evaluate(CLICK % "[-20, 150]")  # beside the picture
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
        await tab.evaluate(CLICK % "[200, 150]")
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


GREY = """(() => {
  const canvas = document.getElementById("bull");
  return canvas && !canvas.hidden ? canvas.getContext("2d").getImageData(240, 240, 1, 1).data[0] : null;
})()"""


def test_the_view_along_a_trajectory_is_the_tile_that_the_overlay_drew_of_it() -> None:
    async def scenario(feed: Feed, stream: Stream, _: Browser, tab: Tab) -> None:
        assert not feed.server.wants("bulls_eye"), "nobody looks along a trajectory"
        await tab.key("3")
        for screw in feed.case.plan:
            await tab.until(f"document.querySelector('#panel h2').innerText.startsWith('Trajectory {screw.level} {screw.side}')")  # fmt: skip
            await tab.until(f"Math.abs({GREY} - {tile_grey(screw.level, screw.side)}) < 6")
            await tab.key("ArrowRight")
        stream.along = False
        await tab.until(f"{GREY} === null")
        assert "has stopped" in await tab.text("#panel")
        await tab.key("1")
        while feed.server.wants("bulls_eye"):
            await tab.evaluate(TWO_FRAMES)
        assert await tab.evaluate("spinenav.state.names") == ["rgbd"], "it is no camera"

    browsed(scenario, limits=Limits(20_000.0, 20_000.0, 4_000.0))


def test_a_tools_deviation_stands_at_its_own_screw_alone_and_goes_with_it() -> None:
    async def scenario(feed: Feed, stream: Stream, _: Browser, tab: Tab) -> None:
        panel = "document.getElementById('panel').innerText"
        await tab.key("3")
        await tab.until(f"{panel}.includes('No tool is tracked')")
        off = {
            "entry_mm": 2.34,
            "entry95_mm": 1.6,
            "angle_deg": 5.67,
            "angle95_deg": 2.1,
            "depth_mm": 12.0,
        }
        stream.tool = {"level": "L2", "side": "left", **off}
        await tab.until(f"{panel}.includes('2.3 ± 1.6 mm') && {panel}.includes('5.7 ± 2.1°')")
        await tab.key("ArrowRight")
        await tab.until(f"{panel}.includes('not at this screw') && !{panel}.includes('2.3 ±')")
        await tab.key("ArrowLeft")
        await tab.until(f"{panel}.includes('2.3 ± 1.6 mm')")
        stream.tool = {"reason": "tool: seen 400 ms before"}
        await tab.until(f"{panel}.includes('seen 400 ms before') && !{panel}.includes('2.3 ±')")
        stream.tool = {"level": "L2", "side": "left", **off}
        await tab.until(f"{panel}.includes('2.3 ± 1.6 mm')")
        stream.tool = None  # nothing more is said of it
        await tab.until(f"{panel}.includes('not tracked any more') && !{panel}.includes('2.3 ±')")

    browsed(scenario, limits=Limits(4_000.0, 20_000.0, 20_000.0))


@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
def test_the_words_along_a_trajectory_are_read_at_two_metres_and_the_margin_beside_them(size):
    async def scenario(feed: Feed, stream: Stream, _: Browser, tab: Tab) -> None:
        panel = "document.getElementById('panel').innerText"
        await tab.key("3")
        await tab.until(f"{GREY} !== null && {panel}.includes('to the cortex, ')")
        share = "document.getElementById('bull').getBoundingClientRect().height / innerHeight"
        height = await tab.evaluate(share) * WORDS_PX / TILE_PX
        assert height > 0.0195, "the least of the page's own words"
        told = "spinenav.state.levels.levels[0].margins.left.least95_mm"
        assert await tab.evaluate(f"{panel}.includes(`≥ ${{Math.round({told})}} mm`)")
        found = await tab.evaluate(LAYOUT)
        assert not found["scrolls"] and not found["cut"] and not found["overlaps"], found
        stream.statuses = {"L2": (Status.LOST, "not seen")}
        await tab.until(f"!{panel}.includes('to the cortex')")

    browsed(scenario, size)


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
        await tab.evaluate("window.before = true; location.reload()")
        await tab.until("!window.before && window.spinenav?.pictures > 2")
        await tab.until(f"spinenav.state.plan[0]?.target[2] === {line['target'][2]}")
        assert tab.errors == []

    feed = browsed(scenario)
    ((action, taken),) = feed.asked
    assert action == "confirm" and taken.question.is_plan


def test_a_screw_left_out_is_asked_and_answered_where_the_rods_are_seen() -> None:
    async def scenario(feed: Feed, stream: Stream, _: Browser, tab: Tab) -> None:
        words = "the planned screw L3 is not among its 2 heads"
        feed.rod = Question("ROD-1A2B3C", words, ("L3",), 11, side="left")
        ready = "document.querySelectorAll('#buttons button.asked').length === 2"
        await tab.until("document.querySelectorAll('#steps button')[4].matches('.asks')")
        assert not await tab.evaluate("document.querySelector('#steps button').matches('.asks')")
        await tab.key("1")  # the question is not read there
        await tab.until("performance.now() - spinenav.state.questionAt > 700")
        assert words not in await tab.text("#panel")
        await tab.key("y", held_s=1.0)
        assert feed.asked == []
        await tab.key("5")
        await tab.until(ready)
        shown = await tab.text("#panel")
        assert words in shown and "No screw at L3 left, on purpose?" in shown
        assert "--" not in shown and "RIGHT" not in shown
        stream.question = ASKED  # which vertebra is which comes first
        await tab.until("spinenav.state.question.id === 'K7QX'")
        await tab.until("!document.getElementById('panel').innerText.includes('on purpose')")
        stream.question = None
        await tab.until("spinenav.state.question?.id === 'ROD-1A2B3C'")
        await tab.until(ready)
        await tab.key("y", held_s=1.0)
        await tab.until(
            "document.getElementById('told').innerText.includes('no screw at L3 left confirmed')"
        )
        feed.rod = None
        await tab.until("!document.getElementById('panel').innerText.includes('on purpose')")
        assert tab.errors == []

    feed = browsed(scenario)
    ((action, taken),) = feed.asked
    assert action == "confirm" and taken.question.side == "left"
    assert taken.question.id == "ROD-1A2B3C" and not taken.question.is_plan


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

    assert (
        browsed(scenario, limits=Limits(20_000.0, 20_000.0, 20_000.0, Path("/proc/none"))).asked
        == []
    )


def test_without_webgl_everything_else_works() -> None:
    async def run() -> None:
        async with browser("--disable-gpu", "--disable-3d-apis") as running:
            tab = await running.open(feed.server.url)
            await tab.until("window.spinenav?.pictures > 2")
            assert "no WebGL" in await tab.text("#view-note")
            await tab.until("document.getElementById('levels').innerText.includes('TRACKED')")

    with Feed(limits=PATIENT) as feed, Stream(feed):
        asyncio.run(asyncio.wait_for(run(), 60.0))
