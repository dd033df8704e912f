# SPDX-License-Identifier: Apache-2.0
"""A surgeon who knows the truth of a virtual operation, at a real browser's page: for tests and the
pictures of the documentation. He clicks landmarks where they truly lie in the picture that is shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from spine_nav_common.core.case import load_case
from spine_nav_common.core.geometry import transform_points
from spine_nav_common.core.landmarks import landmarks
from spine_nav_common.core.recording import open_recording
from spine_nav_common.core.truth import load_truth
from spine_nav_common.core.types import Rejected
from spine_perception.sources.recorded import LOOP_GAP_NS

from .browser import BrowserError, Tab

_TRIES = 20
_COVERED_M = 0.004  # more of tissue or metal than a click may have under it
ANSWER_S = 1.0  # longer than a key is held that answers
STEPS = {"verify": "1", "entry": "2", "trajectory": "3", "screws": "4", "rod": "5", "check": "6"}
SHOWN = "window.spinenav && !spinenav.covered && spinenav.state.levels?.levels.some(l => l.T)"
ASKED = "document.querySelectorAll('#buttons button.asked').length === 2"
TWO_FRAMES = "new Promise(d => requestAnimationFrame(() => requestAnimationFrame(d)))"
PLACED = (
    "spinenav.state.implants && !spinenav.state.implants.reason"
    " && spinenav.state.implants.screws.some(s => s.entry_mm !== null)"
)
NEXT_BEND = "spinenav.state.bending?.sides.some(s => s.steps.length)"

# The picture that is shown has poses of its own: on a busy machine some images are not navigated.
_REGISTERED = f"{SHOWN} && spinenav.state.byStamp.get(spinenav.state.picture?.stamp_ns)?.levels.some(l => l.T)"

# Clicks at a pixel [u, v] of the camera's image on the picture that is shown: its stamp; null without.
CLICK = """((at) => {
  const {picture, camera} = spinenav.state;
  if (!at || picture?.name !== camera?.name) return null;
  const canvas = document.getElementById("picture"), box = canvas.getBoundingClientRect();
  const scale = Math.min(box.width / canvas.width, box.height / canvas.height);
  const clientX = box.left + (box.width - canvas.width * scale) / 2 + at[0] / camera.width * canvas.width * scale;
  const clientY = box.top + (box.height - canvas.height * scale) / 2 + at[1] / camera.height * canvas.height * scale;
  (document.elementFromPoint(clientX, clientY) ?? canvas).dispatchEvent(new MouseEvent("click", {clientX, clientY, bubbles: true}));
  return picture.stamp_ns;
})(%s)"""


class Surgeon:
    """At one page. operation: a folder with case/ and truth.json, as `spinenav simulate` writes it."""

    def __init__(self, tab: Tab, operation: Path) -> None:
        self.tab = tab
        self.case = load_case(operation / "case")
        self.truth = load_truth(operation / "truth.json")
        self._first = next(open_recording(operation / "recording").rgbd_frames())
        stamps = [*self.truth.frames, *(s.stamp_ns for s in self.truth.screws)]
        # A recording that is played again and again has stamps that go on.
        self._first_ns = min(stamps)
        self._lap_ns = max(stamps) - min(stamps) + LOOP_GAP_NS

    def sees(self, level: str) -> bool:
        """Whether nothing covers a landmark of the level in the first picture: who checks must touch
        bone."""
        marks = landmarks(self.case, level)
        if isinstance(marks, Rejected):
            return False
        T, camera = (
            self.truth.frames[self._first.stamp_ns].T_camera_ct[level],
            self._first.intrinsics,
        )
        for mark in marks:
            x, y, z = transform_points(T, mark.point_m)
            u, v = round(camera.fx * x / z + camera.cx), round(camera.fy * y / z + camera.cy)
            near = self._first.depth_m[max(v - 2, 0) : v + 3, max(u - 2, 0) : u + 3]
            if not np.isfinite(near).any() or abs(float(np.nanmedian(near)) - z) > _COVERED_M:
                return False
        return True

    async def go(self, step: str) -> None:
        """To a step of the page, drawn."""
        await self.tab.key(STEPS[step])
        await self.tab.evaluate(TWO_FRAMES)

    async def verify(self, wait_s: float = 60.0) -> bool:
        """Confirm what is asked until levels are shown; whether anything was asked."""
        asked = False
        await self.go("verify")
        while True:
            await self.tab.until(f"{SHOWN} || {ASKED}", wait_s)
            if not await self.tab.evaluate(ASKED):
                return asked
            asked = True
            question = await self.tab.evaluate("spinenav.state.question?.id")
            await self.tab.key("y", held_s=ANSWER_S)
            await self.tab.until(f"spinenav.state.question?.id !== {json.dumps(question)}", wait_s)

    async def check(
        self, level: str, off_m: tuple[float, float, float] = (0.0, 0.0, 0.0), wait_s: float = 60.0
    ) -> str:
        """A landmark check of a level by clicks, each beside the true place by `off_m` (CT frame).

        What the page says of it: passed, failed, or open (the recording has ended).
        """
        marks = landmarks(self.case, level)
        if isinstance(marks, Rejected):
            raise BrowserError(f"{level}: {marks.reason}")
        state = f"spinenav.state.check?.levels.{level}"
        await self.choose(level)
        await self.tab.until(f"{SHOWN} && Boolean(document.querySelector('.verbs button:not(:disabled)'))", wait_s)  # fmt: skip
        await self.tab.key("b")
        await self.tab.until(f"{state}?.state === 'open'", wait_s)
        for number, mark in enumerate(marks, 1):
            await self._touch(
                state, number, await self._pixels(level, mark.point_m + off_m), wait_s
            )
        await self.tab.until(f"{state}?.state !== 'open'", wait_s)
        return str(await self.tab.evaluate(f"{state}.state"))

    async def _touch(
        self, state: str, number: int, at: dict[str, tuple[float, float]], wait_s: float
    ) -> None:
        """Click until the landmark counts: where no depth was seen, the next picture may have some."""
        asked = f"{state}.state === 'open' && {state}.next === {number}"
        stamp = "BigInt(spinenav.state.picture.stamp_ns)"
        there = f"({json.dumps(at)})[String(({stamp} - {self._first_ns}n) % {self._lap_ns}n)]"
        clicked = ""
        for _ in range(_TRIES):
            await self.tab.evaluate("spinenav.state.told = null")
            new = f"spinenav.state.picture.stamp_ns !== {json.dumps(clicked)}"
            clicked = await self.tab.until(f"{_REGISTERED} && {new} && {CLICK % there}", wait_s)
            await self.tab.until(f"!({asked}) || spinenav.state.told?.ok === false", wait_s)
            if not await self.tab.evaluate(asked):
                return
        told = await self.tab.evaluate("spinenav.state.told?.text")
        raise BrowserError(f"landmark {number} was clicked {_TRIES} times: {told}")

    async def choose(self, level: str) -> None:
        """The check's level, by the arrow keys."""
        await self.go("check")
        levels = await self.tab.evaluate("spinenav.state.levels.levels.map(l => l.level)")
        for _ in levels:
            if level in await self.tab.text("#panel h2"):
                return
            await self.tab.key("ArrowRight")
            await self.tab.evaluate(TWO_FRAMES)
        raise BrowserError(f"the page does not know {level}: {levels}")

    async def _pixels(self, level: str, point_m: np.ndarray) -> dict[str, tuple[float, float]]:
        """Time of every image since the first to the place of a point (3,) of the CT frame in it."""
        camera = await self.tab.evaluate("spinenav.state.camera")
        found = {}
        for stamp_ns, frame in self.truth.frames.items():
            x, y, z = transform_points(frame.T_camera_ct[level], point_m)
            u, v = camera["fx"] * x / z + camera["cx"], camera["fy"] * y / z + camera["cy"]
            found[str(stamp_ns - self._first_ns)] = (round(float(u), 2), round(float(v), 2))
        return found
