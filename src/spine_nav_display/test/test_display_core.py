# SPDX-License-Identifier: Apache-2.0
"""The display's rules without a server: who may serve where, whose answer counts, what waits."""

from __future__ import annotations

import asyncio
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from rod_bending_ar.core.screw_check import ScrewCheck, ScrewChecks
from spine_nav_common.core.implant_outputs import RodCurve, ScrewRow
from spine_nav_common.core.types import Rejected, ScrewPlan, Status
from spine_nav_common.parameters import ParameterError
from spine_nav_display import endurance
from spine_nav_display.browser import BrowserError
from spine_nav_display.core.binding import Exposure, check_display, exposure
from spine_nav_display.core.checks import check_message, check_word
from spine_nav_display.core.messages import (
    Moment,
    bending_message,
    health_message,
    implants_message,
    levels_message,
    to_text,
    withdrawn_message,
)
from spine_nav_display.core.outbox import Outbox, VideoGate
from spine_nav_display.core.questions import Answer, Desk, Question, Taken
from spine_nav_display.core.scene import case_message, trajectory
from spine_nav_display.endurance import over_a_night
from spine_nav_display.rehearsal import T_CAMERA_CT, result, small_case

IDENTITY = np.eye(4)
NOW = Moment(7_000_000_000_000_000_123, 5.0, 30.0)


# --- where the page is served -----------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_this_machine_needs_neither_token_nor_tls(host: str) -> None:
    assert exposure(host).token == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "spine.example"])
def test_another_host_is_refused_unless_token_and_tls_are_given(host: str, tmp_path: Path) -> None:
    token, file = tmp_path / "token", tmp_path / "x.pem"
    token.write_text("0123456789abcdef\n")
    file.write_text("")
    with pytest.raises(ParameterError, match="token_file"):
        exposure(host)
    with pytest.raises(ParameterError, match="tls_certificate"):
        exposure(host, token_file=str(token))
    with pytest.raises(ParameterError, match="token_file"):
        exposure(host, certificate=str(file), key=str(file))
    with pytest.raises(ParameterError, match="tls_key"):
        exposure(host, token_file=str(token), certificate=str(file))
    given = exposure(host, 1, str(token), str(file), str(file))
    assert given.token == "0123456789abcdef" and given.url(1).startswith("https://")


def test_a_short_token_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("short")
    with pytest.raises(ParameterError, match="at least 16"):
        exposure(token_file=str(token))
    with pytest.raises(ParameterError, match="cannot be read"):
        exposure(token_file=str(tmp_path / "none"))


def test_a_port_that_is_taken_is_told_before_the_node_starts() -> None:
    import socket

    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        with pytest.raises(ParameterError, match="--port"):
            check_display({"port": busy.getsockname()[1]})
    check_display({"port": 0, "case": "somewhere"})


@pytest.mark.parametrize(
    ("host", "origin", "may"),
    [
        ("127.0.0.1:8760", None, True),
        ("localhost:8760", "http://localhost:8760", True),
        ("127.0.0.1:8760", "http://evil.example", False),
        ("127.0.0.1:8760", "http://127.0.0.1:9999", False),
        ("127.0.0.1:8760", "null", False),
        ("evil.example:8760", None, False),
        ("evil.example:8760", "http://evil.example:8760", False),
        (None, None, False),
    ],
)
def test_only_our_own_page_may_ask(host: str | None, origin: str | None, may: bool) -> None:
    assert Exposure().may_ask(host, origin) is may


# --- whose answer counts ----------------------------------------------------------------------

ASKED = Question("K7QX", "L2 to L4?", ("L2", "L3", "L4"), 11)


def answer(page: str = "1", session: str = "s", question: str = "K7QX", verb: str = "confirm"):
    return Answer(page, session, question, verb, 11)


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    desk.begin("s")
    desk.ask(ASKED)
    return desk


def test_an_answer_to_the_question_that_is_shown_is_taken(desk: Desk) -> None:
    taken = desk.answer(answer())
    assert isinstance(taken, Taken) and taken.question is ASKED


def test_the_first_of_two_pages_wins_and_the_second_is_told(desk: Desk) -> None:
    desk.answer(answer("1"))
    for verb in ("confirm", "reject"):
        second = desk.answer(answer("2", verb=verb))
        assert isinstance(second, Rejected) and "page 1 was first: confirmed" in second.reason


def test_an_answer_to_a_question_that_has_changed_is_refused(desk: Desk) -> None:
    desk.ask(Question("B2B2", "L3 to L5?", ("L3",), 12))
    refused = desk.answer(answer())
    assert isinstance(refused, Rejected) and "has changed" in refused.reason
    desk.ask(None)
    refused = desk.answer(answer(question="B2B2"))
    assert isinstance(refused, Rejected) and "nothing waits" in refused.reason


def test_the_same_question_in_a_newer_frame_is_the_same_question(desk: Desk) -> None:
    desk.ask(Question("K7QX", "L2 to L4?", ("L2", "L3", "L4"), 12))
    assert isinstance(desk.answer(answer()), Taken)
    desk.ask(Question("K7QX", "L2 to L4?", ("L2", "L3", "L4"), 13))
    assert isinstance(desk.answer(answer("2")), Rejected), "the first answer is still on its way"


def test_a_page_from_before_a_restart_is_refused(desk: Desk) -> None:
    desk.begin("t")
    desk.ask(ASKED)
    refused = desk.answer(answer(session="s"))
    assert isinstance(refused, Rejected) and "started again" in refused.reason
    assert isinstance(desk.answer(answer(session="t")), Taken)


def test_a_restart_forgets_who_was_first(desk: Desk) -> None:
    desk.answer(answer("1"))
    desk.begin("t")
    desk.ask(ASKED)
    assert isinstance(desk.answer(answer("2", "t")), Taken)


def test_a_question_is_open_again_when_the_core_refuses_the_answer(desk: Desk) -> None:
    first = desk.answer(answer("1"))
    assert isinstance(first, Taken)
    desk.failed(first)
    assert isinstance(desk.answer(answer("2")), Taken)


def test_an_unknown_word_is_no_answer(desk: Desk) -> None:
    assert isinstance(desk.answer(answer(verb="register")), Rejected)


# --- what waits for a page --------------------------------------------------------------------


def test_state_is_replaced_and_events_keep_their_order() -> None:
    box = Outbox()
    box.state("levels", "old")
    box.event("a")
    box.state("levels", "new")
    box.event("b")
    assert [box.take() for _ in range(4)] == ["a", "b", "new", None]


def test_a_page_that_never_reads_is_given_up_before_memory_grows() -> None:
    box = Outbox(most_events=3)
    assert all(box.event("x") for _ in range(3)) and not box.event("x")
    for n in range(10_000):
        box.state("levels", str(n))
    assert [box.take() for _ in range(5)] == ["x", "x", "x", "9999", None]


@dataclass(frozen=True)
class Numbered:
    number: int


def test_one_picture_is_under_way_and_the_newest_waits() -> None:
    gate: VideoGate[Numbered] = VideoGate()
    assert gate.offer(Numbered(1)) == Numbered(1)
    assert [gate.offer(Numbered(n)) for n in (2, 3, 4)] == [None] * 3
    assert gate.acknowledge(4) is None, "that one was never sent"
    assert gate.acknowledge(1) == Numbered(4)
    assert gate.acknowledge(1) is None, "an acknowledgement counts once"
    assert (gate.sent, gate.dropped) == (2, 2)
    assert gate.acknowledge(4) is None and gate.offer(Numbered(5)) == Numbered(5)


# --- what pages are told ----------------------------------------------------------------------


def test_only_tracked_levels_have_a_pose_and_a_bound() -> None:
    states = {"L3": (Status.OCCLUDED, "a hand"), "L4": (Status.LOST, "too little bone")}
    told = levels_message(result(NOW.stamp_ns, states), NOW, ASKED, "camera")
    assert told["stamp_ns"] == "7000000000000000123", "a number of JavaScript would lose digits"
    two, three, four = told["levels"]
    assert two["T"] == pytest.approx(T_CAMERA_CT[:3].ravel()) and two["tre_mm"] == 1.4
    assert (three["T"], three["tre_mm"], three["reason"]) == (None, None, "a hand")
    assert (four["T"], four["status"]) == (None, "lost")
    assert told["question"]["id"] == "K7QX"
    json.loads(to_text("levels", told))


def test_a_held_pose_is_never_told() -> None:
    held = result(1).levels[0]
    shown = levels_message(
        type(result(1))(1, (type(held)(held.level, Status.OCCLUDED, T_CAMERA_CT),)), NOW, None, "c"
    )
    assert shown["levels"][0]["T"] is None


def test_a_withdrawal_names_every_level_with_the_reason() -> None:
    told = withdrawn_message(("L2", "L3"), "the navigation is silent for 800 ms", 9.0)
    assert [e["status"] for e in told["levels"]] == ["lost"] * 2
    assert all("silent" in e["reason"] and e["T"] is None for e in told["levels"])


def test_numbers_that_are_none_are_refused_instead_of_sent() -> None:
    with pytest.raises(ValueError, match="JSON"):
        to_text("x", {"value": float("nan")})


def test_an_unknown_health_is_never_ready() -> None:
    assert health_message("splendid", "", {}, 0.0)["state"] == "unknown"
    assert health_message("unsafe", "a; b", {"state": "unsafe", "navigation": "a"}, 7.0) == {
        "arrived_ms": 7.0, "state": "unsafe", "reasons": ["a", "b"], "nodes": {"navigation": "a"},
    }  # fmt: skip


def test_bends_come_in_their_order() -> None:
    fields = {"side": "left", "state": "bending", "steps_done": "1"}
    fields |= {f"step {n}": f"bend {n}" for n in (3, 1, 2, 10)}
    (side,) = bending_message([fields], NOW)["sides"]
    assert [s["text"] for s in side["steps"]] == ["bend 1", "bend 2", "bend 3"]
    assert side["done"] == 1 and side["next"] is None


def test_the_numbers_of_a_bend_are_those_of_the_rod_guidances_text() -> None:
    from rod_bending_ar.core.forward import BendStep
    from rod_bending_ar.ros.guidance_output import step_text

    text = step_text(BendStep(2, 40.5, -16.0, 9.0, 11.25))
    (side,) = bending_message([{"side": "left", "step 1": text, "next": text}], NOW)["sides"]
    assert side["next"] == {"text": text, "feed_mm": 40.5, "rotate_deg": -16.0, "bend_deg": 11.2}
    assert side["steps"] == [side["next"]]


def test_a_case_becomes_small_surfaces_and_its_exposed_plan() -> None:
    told = case_message(small_case())
    assert set(told["levels"]) == {"L2", "L3", "L4"} and len(told["plan"]) == 6
    json.dumps(told, allow_nan=False)


@pytest.mark.parametrize("frame", ["LPS", "RAS"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_trajectory_that_converges_and_climbs_is_medial_and_cranial(
    frame: str, side: str
) -> None:
    x = 0.02 if side == "left" else -0.02  # LPS: left is positive, posterior is positive
    entry, target = np.array([x, 0.03, 0.0]), np.array([0.5 * x, -0.01, 0.004])
    if frame == "RAS":
        entry, target = entry * (-1, -1, 1), target * (-1, -1, 1)
    numbers = trajectory(ScrewPlan("L3", side, entry, target), frame)
    assert numbers.transverse_deg == pytest.approx(np.degrees(np.arctan(0.25)))
    assert numbers.sagittal_deg > 0 and numbers.length_mm == pytest.approx(41.4, abs=0.1)


# --- placed screws ----------------------------------------------------------------------------


def placed_row(off_m: float = 0.0, level: str = "L2", side: str = "left", stamp_ns: int = 5):
    plan = next(p for p in small_case().plan if (p.level, p.side) == ("L2", "left"))
    entry, target = (
        T_CAMERA_CT[:3, :3] @ q + T_CAMERA_CT[:3, 3] for q in (plan.entry_m, plan.target_m)
    )
    out = (entry - target) / np.linalg.norm(entry - target)
    beside = np.cross(out, [1.0, 0.0, 0.0])
    head = entry + 0.012 * out + off_m * beside / np.linalg.norm(beside)
    return ScrewRow(stamp_ns, 1, head, out, 0.9, 1.5, level, side)


def against_plan(row: ScrewRow, T=IDENTITY, stamp_ns: int = 5, states=None):
    levels = {e.level: e for e in result(stamp_ns, states).levels}
    return ScrewChecks(small_case()).check(row, levels, stamp_ns, T)


def test_a_screw_beside_its_plan_is_off_by_the_distance_of_its_axis() -> None:
    found = against_plan(placed_row(0.003))
    assert isinstance(found, ScrewCheck)
    assert found.entry_mm == pytest.approx(3.0) and found.angle_deg == pytest.approx(0.0, abs=1e-4)
    assert found.entry95_mm > 0.5 and found.grade == ""  # its tulip may lean


def test_a_screw_of_another_camera_is_carried_over() -> None:
    T = np.eye(4)
    T[:3, 3] = 0.1, 0.0, -0.02
    row = placed_row()
    moved = ScrewRow(5, 1, row.head_m - T[:3, 3], row.axis, 0.9, 1.5, "L2", "left")
    found = against_plan(moved, T)
    assert isinstance(found, ScrewCheck) and found.entry_mm == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("row", "more", "word"),
    [
        (placed_row(level=""), {}, "no level"),
        (placed_row(level="L5"), {}, "no screw is planned"),
        (placed_row(), {"states": {"L2": (Status.LOST, "")}}, "not tracked"),
        (placed_row(), {"stamp_ns": 5_000_000_000}, "different moments"),
        (placed_row(), {"T": Rejected("no transform joins them")}, "no transform"),
    ],
)
def test_what_cannot_be_compared_says_why(row: ScrewRow, more: dict, word: str) -> None:
    found = against_plan(row, **more)
    assert isinstance(found, Rejected) and word in found.reason


@pytest.mark.parametrize("u", [10**400, float("nan"), float("inf"), "1", None, 2e6])
def test_a_click_that_is_no_number_is_refused(u: object) -> None:
    touch = {"do": "touch", "level": "L3", "number": 1, "stamp_ns": "7", "u": 5, "v": 6.0}
    assert check_word(touch) == "touch L3 1 7 5.00 6.00"
    assert isinstance(check_word({**touch, "u": u}), Rejected)


def test_screws_and_rods_are_told_with_their_check_or_its_reason() -> None:
    rod = RodCurve(
        "left", np.linspace([0, 0, 0.4], [0.1, 0, 0.4], 101), np.ones(101), np.ones(101, bool)
    )
    checks = {1: Rejected("L2 is not tracked")}
    told = implants_message([placed_row()], [rod], checks, Rejected("apart"), NOW, "")
    assert told["T"] is None and told["T_reason"] == "apart"
    assert told["screws"][0]["check_reason"] == "L2 is not tracked"
    points = told["rods"][0]["points"]
    assert len(points) < 30 and points[0] == [0, 0, 0.4] and points[-1] == [0.1, 0, 0.4]


def test_a_check_is_told_with_its_residuals_and_no_number_that_is_none() -> None:
    fields = {
        "level": "L3", "state": "failed", "next": "", "message": "failed: 8 mm", "mean_mm": "8.0004",
        "limit_mm": "nan", "landmark 1": "tip", "mark 1": "touched", "residual_mm 1": "8.0",
        "landmark 2": "facet", "mark 2": "skipped",
    }  # fmt: skip
    told = check_message([fields])["levels"]["L3"]
    assert told["state"] == "failed" and told["next"] is None and told["text"] == "failed: 8 mm"
    assert told["mean_mm"] == 8.0 and told["limit_mm"] is None
    assert [(x["name"], x["mark"], x["residual_mm"]) for x in told["landmarks"]] == [
        ("tip", "touched", 8.0), ("facet", "skipped", None),
    ]  # fmt: skip


def test_a_leak_over_a_night_is_seen_in_a_quarter_of_an_hour_and_noise_is_none():
    random = np.random.default_rng(1)
    pictures = np.linspace(2000.0, 40_000.0, 25)
    noise = random.normal(0.0, 0.002, 25)
    assert abs(over_a_night(pictures, 3.6 + noise)) < 0.05
    leak = 3.6 + noise + 0.5e-6 * pictures  # half a byte a picture
    assert 0.05 < over_a_night(pictures, leak) < 0.12
    once = 3.6 + noise + 0.2 * (pictures > 10_000)  # gathered once
    assert abs(over_a_night(pictures, once)) < 0.05


class _LateTab:
    """A page that shows ten pictures between two looks, and leaves every seventh question unanswered."""

    def __init__(self, silent: bool = False) -> None:
        self.pictures, self._asked, self._silent = 0, 0, silent

    async def _answer(self) -> None:
        self._asked += 1
        if self._silent or self._asked % 7 == 0:
            raise asyncio.TimeoutError

    async def evaluate(self, script: str) -> int:
        await self._answer()
        self.pictures += 10
        return self.pictures

    async def call(self, method: str) -> dict[str, int]:
        await self._answer()
        return {"usedSize": 3_000_000, "nodes": 200}

    async def until(self, script: str, timeout_s: float) -> int:
        return await self.evaluate(script)


def test_a_night_outlives_answers_that_come_too_late():
    looks = asyncio.run(endurance._watched(_LateTab(), os.getpid(), 1000, math.inf, 0.0))
    assert [look.pictures for look in looks] == sorted(look.pictures for look in looks)
    assert len(looks) == endurance._LOOKS
    assert asyncio.run(endurance._ask(_LateTab(), 5)) > 0


def test_a_page_that_never_answers_again_ends_the_night(monkeypatch):
    monkeypatch.setattr(endurance, "_PATIENCE_S", 0.0)
    with pytest.raises(BrowserError, match="does not answer"):
        asyncio.run(endurance._watched(_LateTab(silent=True), os.getpid(), 1000, math.inf, 0.0))
