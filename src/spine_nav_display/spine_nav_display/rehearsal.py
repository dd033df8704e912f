# SPDX-License-Identifier: Apache-2.0
"""A display without a graph, fed with an invented operation: for tests, measurements and pictures."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import replace

import cv2
import numpy as np
import trimesh

from rod_bending_ar.core.extras import tracked
from rod_bending_ar.core.placing import ANEW
from rod_bending_ar.core.screw_check import ScrewChecks
from spine_nav_common.core.implant_outputs import RodCurve, ScrewRow
from spine_nav_common.core.types import (
    Case,
    LevelEstimate,
    Mesh,
    NavigationResult,
    ScrewPlan,
    Status,
)
from spine_nav_display.core.binding import Exposure
from spine_nav_display.core.checks import check_message
from spine_nav_display.core.messages import (
    Moment,
    bending_message,
    health_message,
    implants_message,
    levels_message,
)
from spine_nav_display.core.questions import Question
from spine_nav_display.core.scene import case_message
from spine_nav_display.server import DisplayServer, Limits

LEVELS = ("L2", "L3", "L4")
WIDTH, HEIGHT = 640, 480
FOCAL = 600.0
COUNTER_BITS, CELL = 16, 20  # of the counter in the picture's upper left corner


def small_case() -> Case:
    """Three boxes 35 mm apart, each with two planned screws."""
    meshes, plan = {}, []
    for i, level in enumerate(LEVELS):
        centre = np.array([0.0, 0.0, -0.035 * i])
        box = trimesh.creation.box(extents=(0.05, 0.03, 0.026)).subdivide()
        meshes[level] = Mesh(np.asarray(box.vertices) + centre, np.asarray(box.faces, np.int32))
        for side, x in (("left", 0.016), ("right", -0.016)):
            entry, target = centre + (x, 0.017, 0.0), centre + (0.4 * x, -0.026, 0.002)
            plan.append(ScrewPlan(level, side, entry, target))
    return Case("small", "LPS", meshes, LEVELS, tuple(plan), "")


# The patient lies prone, head to the left of the picture: posterior towards the camera.
T_CAMERA_CT = np.array(
    [[0.0, 0.0, -1.0, -0.035], [1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.45], [0.0, 0.0, 0.0, 1.0]]
)


def result(
    stamp_ns: int, statuses: dict[str, tuple[Status, str]] | None = None, moved_m: float = 0.0
) -> NavigationResult:
    """All levels tracked, but for those that `statuses` gives with a reason. moved_m: the patient."""
    levels = []
    T_camera_ct = T_CAMERA_CT.copy()
    T_camera_ct[0, 3] += moved_m
    for i, level in enumerate(LEVELS):
        status, reason = (statuses or {}).get(level, (Status.TRACKED, ""))
        tracked = status is Status.TRACKED
        levels.append(
            LevelEstimate(
                level, status, T_camera_ct if tracked else None,
                predicted_tre_mm=1.4 + 0.3 * i if tracked else None, reason=reason,
            )
        )  # fmt: skip
    return NavigationResult(stamp_ns, tuple(levels), identity="proven", identity_margin_nat=9.0)


def counted_jpeg(number: int, small: bool = False) -> bytes:
    """A picture whose upper left corner holds a number: black and white cells, least bit first.
    small: of a quarter of its width and height."""
    image = np.full((HEIGHT, WIDTH, 3), (60, 70, 110), np.uint8)
    cv2.circle(image, (320, 240), 120, (40, 40, 160), -1)
    for bit in range(COUNTER_BITS):
        cell = 255 if number >> bit & 1 else 0
        image[:CELL, CELL * bit : CELL * (bit + 1)] = cell
    done, data = cv2.imencode(".jpg", image[::4, ::4] if small else image)
    assert done
    return data.tobytes()


READ_COUNTER = f"""(() => {{
  const c = document.createElement("canvas"), picture = document.getElementById("picture");
  [c.width, c.height] = [{COUNTER_BITS * CELL}, 1];
  const x = c.getContext("2d", {{willReadFrequently: true}});
  x.drawImage(picture, 0, {CELL // 2}, c.width, 1, 0, 0, c.width, 1);
  const pixels = x.getImageData(0, 0, c.width, 1).data;
  let n = 0;
  for (let i = 0; i < {COUNTER_BITS}; i++) if (pixels[4 * ({CELL} * i + {CELL // 2})] > 127) n += 2 ** i;
  return n;
}})()"""
"""The number in the picture that the page shows, read from its pixels."""


TILE = 120


def tile_grey(level: str, side: str) -> int:
    """Of the tile of a screw in the view along the trajectories."""
    return 60 + 60 * LEVELS.index(level) + (30 if side == "right" else 0)


def along_jpeg() -> bytes:
    """A view along the trajectories: plain tiles, a row per level, left and right, and a foot."""
    rows = [np.repeat([[tile_grey(v, "left"), tile_grey(v, "right")]], TILE, 0) for v in LEVELS]
    grey = np.repeat(np.vstack([*rows, np.zeros((20, 2))]), TILE, 1).astype(np.uint8)
    done, data = cv2.imencode(".jpg", grey)
    assert done
    return data.tobytes()


_ALONG = along_jpeg()


class Feed:
    """A server and what a graph would tell it. `asked`: actions that reached the core, with what
    was taken; `heard`: what the record would note; `reply`: what the core says."""

    def __init__(self, exposure: Exposure | None = None, limits: Limits | None = None) -> None:
        self.asked: list[tuple[str, object]] = []
        self.heard: list[dict] = []
        self.reply: tuple[bool, str] | None = (True, "done")
        self.pending: list[Future] = []
        self.server = DisplayServer(
            exposure or Exposure(port=0), self._act, limits, self.heard.append
        )
        self.case = small_case()
        self._checks = ScrewChecks(self.case)
        self._checks.prepare()
        self.server.case(case_message(self.case))
        self.number = 0
        self.rod: Question | None = None  # what is asked of a rod's screws
        self.moment: Moment | None = None  # of the newest picture, which the levels are of too

    def __enter__(self):
        self.server.start()
        self.server.begin("first")
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()

    def _act(self, action: str, taken: object, word: str) -> Future:
        self.asked.append((action, word or taken))
        future: Future = Future()
        if self.reply is None:
            self.pending.append(future)
        else:
            future.set_result(self.reply)
        return future

    @staticmethod
    def now(age_ms: float = 5.0) -> Moment:
        return Moment(time.time_ns() - round(age_ms * 1e6), time.monotonic() * 1e3, age_ms)

    def tick(self) -> None:
        self.server.tick()

    def camera(self) -> None:
        values = {"name": "rgbd", "width": WIDTH, "height": HEIGHT, "fx": FOCAL, "fy": FOCAL}
        self.server.publish("camera", {**values, "cx": WIDTH / 2, "cy": HEIGHT / 2})

    def picture(self, name: str = "rgbd", age_ms: float = 5.0) -> int:
        self.number += 1
        self.moment = self.now(age_ms)
        self.server.picture(name, counted_jpeg(self.number), self.moment)
        return self.number

    def along(self, age_ms: float = 5.0) -> None:
        """The view along the trajectories."""
        self.server.picture("bulls_eye", _ALONG, self.now(age_ms))

    def tool(self, values: dict) -> None:
        """What is said of a tracked tool."""
        self.server.publish("tool", {**values, "arrived_ms": round(time.monotonic() * 1e3, 1)})

    def levels(
        self,
        statuses: dict[str, tuple[Status, str]] | None = None,
        question: Question | None = None,
        moved_m: float = 0.0,
        age_ms: float = 5.0,
    ) -> None:
        moment = self.now(age_ms)
        if self.moment is not None:
            moment = replace(moment, stamp_ns=self.moment.stamp_ns)
        self.server.ask(question or self.rod)
        now = result(moment.stamp_ns, statuses, moved_m)
        margins = self._checks.margins(tracked(now), ANEW)
        told = levels_message(now, moment, question, "camera_color_optical_frame", margins)
        self.server.publish("levels", told)

    def health(self, state: str = "ready", reason: str = "all well") -> None:
        self.server.publish("health", health_message(state, reason, {}, time.monotonic() * 1e3))

    def implants(self) -> None:
        moment = self.now()
        estimates = {e.level: e for e in result(moment.stamp_ns).levels}
        rows, checks = [], {}
        for i, plan in enumerate(self.case.plan):
            T, out = T_CAMERA_CT, plan.entry_m - plan.target_m
            out = T[:3, :3] @ out / np.linalg.norm(out)
            head = T[:3, :3] @ plan.entry_m + T[:3, 3] + 0.01 * out + (0.0006 * i, 0, 0)
            row = ScrewRow(moment.stamp_ns, i, head, out, 0.9, 1.1, plan.level, plan.side, i != 3)
            rows.append(row)
            checks[i] = self._checks.check(row, estimates, moment.stamp_ns, np.eye(4))
        left = np.array([r.head_m for r in rows if r.side == "left"])
        rod = RodCurve("left", left, np.full(len(left), 0.3), np.ones(len(left), bool))
        told = implants_message(rows, [rod], checks, np.eye(4), moment, "")
        self.server.publish("implants", told)

    def bending(self) -> None:
        steps = {
            f"step {n}": f"{n}: feed {20 * n:.1f} mm, rotate {8 * n:.1f} deg, bend to {7 + n:.1f} deg"
            for n in (1, 2, 3)
        }
        common = {"rod": "Ti6Al4V 5.5 mm", "length_mm": "112.0", "steps": "3"}
        left = {
            "side": "left", "state": "bending", "text": "bend 2 of 3: the rod is 1.9 mm off at L3; show the rest of it to both cameras", "steps_done": "1",
            "gap_mm": "1.90", "next": steps["step 2"], "warnings": "", **common, **steps,
        }  # fmt: skip
        right = {
            "side": "right",
            "state": "planned",
            "text": "planned",
            "steps_done": "0",
            **common,
            **steps,
        }
        if self.rod is not None:
            text = "no plan: the planned screw L3 is not among its 2 heads; show the missing heads to both cameras"
            left = {"side": "left", "state": "refused", "text": text}
        self.server.publish("bending", bending_message([left, right], self.now(), self.rod))

    def check(self, state: str = "open", touched: int = 1) -> None:
        """A landmark check of L3: open with some landmarks touched, or with a verdict."""
        names = ("spinous process, lower tip", "left transverse process, tip",
                 "right transverse process, tip")  # fmt: skip
        asked = f"touch the {names[touched]}" if state == "open" else ""
        text = {
            "open": asked,
            "passed": "passed: 1.6 mm, at most 4.7",
            "failed": "failed: 37.9 mm off, at most 4.7 was expected; the points touched are those of L4",
        }[state]
        fields = {"level": "L3", "state": state, "message": text}
        fields["next"] = str(touched + 1) if state == "open" else ""
        for n, name in enumerate(names, 1):
            fields[f"landmark {n}"] = name
            fields[f"mark {n}"] = "touched" if state != "open" or n <= touched else ""
            if state != "open":
                fields[f"residual_mm {n}"] = f"{(1.6 if state == 'passed' else 7.9) + 0.2 * n:.3f}"
        self.server.publish("check", check_message([fields]))

    def all(self) -> None:
        """Everything once: an operation that goes well."""
        self.tick()
        self.camera()
        self.health()
        self.levels()
        self.implants()
        self.bending()
        self.along()
        self.picture()
