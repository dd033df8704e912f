# SPDX-License-Identifier: Apache-2.0
"""A screw that is missing, held or hardly known is asked for before any rod is planned."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rod_support import LEVELS, heads_mm, saddle_row, screw_rows

from rod_bending_ar.core.complete import (
    ANY,
    MissingScrew,
    check_complete,
    parse_without,
    planned_screws,
)
from rod_bending_ar.core.guidance import GuidanceOrder, RodGuide, plan_text
from rod_bending_ar.core.plan import RodOrder, plan_rod
from spine_nav_bringup.cli import main
from spine_nav_bringup.rod import last_seen
from spine_nav_common.core.errors import RodError
from spine_nav_common.core.implant_outputs import ScrewRow, ScrewWriter, read_screws
from spine_nav_common.core.screw_rows import SaddleRow
from spine_nav_common.core.types import Case, ScrewPlan

PLANNED = tuple((level, side) for side in ("left", "right") for level in LEVELS)


def row(levels=LEVELS, places=range(5), **changes) -> SaddleRow:
    whole = replace(saddle_row(heads_mm()[list(places)]), **changes)
    names = tuple(level or f"head {i}" for i, level in enumerate(levels))
    return replace(whole, levels=tuple(levels), names=names)


def asked(given: SaddleRow, planned=PLANNED, without=(), as_they_stand=()) -> MissingScrew:
    with pytest.raises(MissingScrew) as caught:
        check_complete(given, planned, without, as_they_stand)
    return caught.value


def refusal(*given, **more) -> str:
    return str(asked(*given, **more))


# -- missing screws


def test_a_whole_row_is_complete_with_and_without_a_plan():
    check_complete(row(), PLANNED)
    check_complete(row())
    check_complete(row([""] * 5), PLANNED)


@pytest.mark.parametrize("gone", range(5))
def test_a_planned_screw_that_is_missing_is_named(gone):
    left = [i for i in range(5) if i != gone]
    text = refusal(row([LEVELS[i] for i in left], left))
    assert f"the planned screw {LEVELS[gone]} is not among its 4 heads" in text
    assert "--" not in text, "the command's words are the command's"
    assert asked(row([LEVELS[i] for i in left], left)).levels == (LEVELS[gone],)
    check_complete(row([LEVELS[i] for i in left], left), PLANNED, (LEVELS[gone],))
    check_complete(row([LEVELS[i] for i in left], left), PLANNED, (ANY,))


def test_heads_without_levels_are_counted():
    assert "1 of the planned screws S1, L5, L4, L3, L2 is not among its 4 heads" in refusal(
        row([""] * 4, range(4))
    )
    assert "planned screws S1, L2 are not among its 3 heads" in refusal(row(LEVELS[1:4], (1, 2, 3)))
    # two are named, two are not, and one of three is missing
    assert "1 of the planned screws L4, L3, L2" in refusal(row(["S1", "L5", "", ""], range(4)))


def test_a_plan_for_the_other_side_alone_asks_for_nothing_here():
    other = tuple((level, "right") for level in LEVELS)
    check_complete(row(LEVELS[1:], range(1, 5)), other)


def test_without_a_plan_a_level_left_out_is_asked_for():
    text = refusal(row(["S1", "L5", "L3", "L2"], (0, 1, 3, 4)), ())
    assert "is a screw missing between L5 and L3?" in text and "no screw at L4" in text
    assert asked(row(["S1", "L5", "L3", "L2"], (0, 1, 3, 4)), ()).answer == "L4"
    check_complete(row(["S1", "L5", "L3", "L2"], (0, 1, 3, 4)), (), ("L4",))
    check_complete(row(["S1", "L5"], (0, 1)))  # nobody counts L6


def test_without_levels_a_gap_twice_the_usual_is_asked_for():
    text = refusal(row([""] * 4, (0, 1, 3, 4)), ())
    assert "between head 1 and head 2" in text
    assert "66 mm apart where its neighbours are" in text
    found = asked(row([""] * 4, (0, 1, 3, 4)), ())
    assert (found.levels, found.heads, found.answer) == ((), (1, 2), ANY)
    check_complete(row([""] * 4, (0, 1, 3, 4)), (), (), {(1, 2)})
    refusal(row([""] * 4, (0, 1, 3, 4)), (), as_they_stand={(0, 1)})
    check_complete(row([""] * 4, (0, 1, 3, 4)), (), (ANY,))
    check_complete(row([""] * 2, (0, 4)))  # one gap alone is no measure
    uneven = np.cumsum([[0, 0, 0], [0, 0, 26.0], [0, 0, 36.0], [0, 0, 38.0]], axis=0)
    check_complete(replace(row([""] * 4, range(4)), saddles_mm=uneven))


def test_the_answer_is_read_strictly():
    assert parse_without("") == ()
    assert parse_without(" T12, L3,") == ("T12", "L3")
    assert parse_without("any") == (ANY,)
    for text in ("left", "l3", "L3 L4"):
        with pytest.raises(ValueError, match="is no level"):
            parse_without(text)


def test_only_planned_screws_at_open_levels_are_expected():
    lines = tuple(
        ScrewPlan(level, side, np.zeros(3), np.ones(3))
        for level in ("L3", "L4")
        for side in ("left", "right")
    )
    case = Case("c", "LPS", {}, ("L4",), lines, "")
    assert planned_screws(case) == (("L4", "left"), ("L4", "right"))
    assert planned_screws(None) == ()


def test_a_plan_is_never_made_for_a_part_of_the_row():
    given = row(LEVELS[:4], range(4))
    with pytest.raises(RodError, match="planned screw L2 is not among"):
        plan_rod(given, RodOrder(planned=PLANNED))
    assert plan_rod(given, RodOrder(planned=PLANNED, without=("L2",))).steps


# -- heads that are held or hardly known


def test_a_head_that_is_only_held_makes_no_plan():
    with pytest.raises(RodError, match=r"L4 is held, not seen in this frame"):
        plan_rod(row(seen=(True, True, False, True, True)))


def test_the_predicted_gap_holds_what_the_heads_leave_open():
    sure = plan_rod(row(bounds_mm=(0.001,) * 5))
    assert sure.predicted_gap_mm == pytest.approx(sure.seating.max_mm, abs=5e-3)
    vague = plan_rod(row(bounds_mm=(2.0,) * 5))
    # isotropic: 95 % of heads within 2 mm in space are within 1.75 mm across the rod
    assert vague.gaps95_mm.shape == (5,)
    assert 1.75 <= vague.gaps95_mm.min() <= vague.predicted_gap_mm < 2.2
    # What a surgeon reads never states the bends' gap as if the heads were known exactly.
    assert f"up to {vague.predicted_gap_mm:.1f} mm" in vague.gap_words()
    assert f"gap up to {vague.predicted_gap_mm:.1f} mm" in plan_text(vague)
    written = vague.to_dict()["predicted_gap_mm"]
    assert written["max"] == round(vague.seating.max_mm, 3)
    assert written["bound95"] == round(vague.predicted_gap_mm, 3)
    assert "bound95" not in plan_rod(row()).to_dict()["predicted_gap_mm"]


def test_the_predicted_gap_covers_gaps_to_heads_drawn_from_their_bounds():
    """Heads elsewhere by what their bound says: 95 % of gaps lie within the prediction."""
    plan = plan_rod(row(bounds_mm=(1.5, 2.0, 2.5, 3.0, 3.5)))
    rng = np.random.default_rng(7)
    sigma = np.array((1.5, 2.0, 2.5, 3.0, 3.5))[:, None] / 2.795
    heads = rng.normal(size=(4000, 5, 3)) * sigma
    gap = plan.seating.gap_vectors_mm
    along = plan.curve.tangents
    error = heads - (heads * along).sum(2, keepdims=True) * along  # along the rod opens no gap
    within = np.linalg.norm(gap + error, axis=2) <= plan.gaps95_mm
    assert (np.abs(within.mean(axis=0) - 0.95) < 0.02).all()


def test_heads_known_so_little_that_the_rod_may_miss_them_make_no_plan():
    with pytest.raises(RodError) as caught:
        plan_rod(row(bounds_mm=(1.0, 1.0, 4.9, 1.0, 1.0)))
    assert "may miss L4 by 4.3 mm" in str(caught.value)
    assert "known within 4.9 mm only" in str(caught.value)
    with pytest.raises(RodError, match="known within nan"):
        plan_rod(row(bounds_mm=(1.0, float("nan"), 1.0, 1.0, 1.0)))
    assert plan_rod(row(bounds_mm=(4.9,) * 5), RodOrder(most_gap95_mm=6.0)).predicted_gap_mm > 4.0


def guide(**changes) -> RodGuide:
    return RodGuide(GuidanceOrder(RodOrder(**changes), sides=("left",), steady_frames=3))


def held(rows: list[ScrewRow], *ids: int) -> list[ScrewRow]:
    return [replace(r, seen=r.track_id not in ids) for r in rows]


def test_steady_heads_of_which_one_is_held_are_not_planned_for():
    own = guide()
    sides = [own.observe(held(screw_rows(), 2), [])[0] for _ in range(6)]
    assert {s.state for s in sides} == {"waiting"}
    assert "L4 not seen: show it" in sides[-1].text
    with pytest.raises(RodError, match="held, not seen"):
        own.request(held(screw_rows(), 2))
    # held in between: the steady run begins anew
    own = guide()
    states = [
        own.observe(held(screw_rows(), 2) if i == 2 else screw_rows(), [])[0].state
        for i in range(6)
    ]
    assert states == ["waiting"] * 5 + ["planned"]  # and not one frame earlier


def test_a_plan_stays_while_a_head_is_covered():
    own = guide()
    own.request(screw_rows())
    (side,) = own.observe(held(screw_rows(), 1, 3), [])
    assert side.state == "planned" and side.plan is not None


def test_the_live_guidance_names_a_planned_screw_that_is_missing():
    own = guide(planned=PLANNED)
    part = [r for r in screw_rows() if r.level != "S1"]
    sides = [own.observe(part, [])[0] for _ in range(4)]
    assert sides[-1].state == "refused" and sides[-1].plan is None
    assert "planned screw S1 is not among its 4 heads" in sides[-1].text
    assert guide(planned=PLANNED, without=("S1",)).request(part)


# -- files and command


def write(folder: Path, *frames: list[ScrewRow]) -> Path:
    with ScrewWriter(folder) as writer:
        for frame in frames:
            writer.write(frame)
    return folder / "screws.csv"


def test_seen_is_written_last_and_files_without_it_are_read(tmp_path):
    file = write(tmp_path, held(screw_rows(), 4))
    assert file.read_text().splitlines()[0].endswith(",level,side,seen")
    assert [r.track_id for r in read_screws(file) if not r.seen] == [4]
    old = "\n".join(line.rsplit(",", 1)[0] for line in file.read_text().splitlines()) + "\n"
    file.write_text(old)
    assert all(r.seen for r in read_screws(file)) and len(read_screws(file)) == 10


def test_last_means_the_newest_frame_in_which_every_head_was_seen(tmp_path):
    ms = 1_000_000
    frames = [
        screw_rows(stamp_ns=100 * ms),
        held(screw_rows(stamp_ns=200 * ms), 3),
        held(screw_rows(stamp_ns=300 * ms), 2),
    ]
    rows = [r for frame in frames for r in frame]
    assert last_seen(rows, "last", tmp_path)[0].stamp_ns == 100 * ms
    assert last_seen(rows, str(200 * ms), tmp_path)[0].stamp_ns == 200 * ms
    assert last_seen(rows[10:], "last", tmp_path)[0].stamp_ns == 300 * ms
    late = [replace(r, stamp_ns=r.stamp_ns + 3000 * ms) for r in frames[2]]
    assert last_seen([*rows, *late], "last", tmp_path)[0].stamp_ns == 3300 * ms
    other = [replace(r, track_id=r.track_id + 50) for r in frames[0]]
    assert last_seen([*other, *frames[2]], "last", tmp_path)[0].stamp_ns == 300 * ms


def test_a_plan_of_an_earlier_frame_says_so(tmp_path, capsys):
    late = held(screw_rows(stamp_ns=500_000_000), 3)
    screws = write(tmp_path, screw_rows(stamp_ns=100_000_000), late)
    options = ["--screws", str(screws), "--out", str(tmp_path / "o")]
    assert main(["rod", "plan", *options]) == 0
    assert "check: planned from 0.4 s before the end" in capsys.readouterr().out
    assert main(["rod", "plan", *options, "--stamp", "500000000"]) == 2
    assert "L3 is held, not seen" in capsys.readouterr().err


def _case(folder: Path) -> Path:
    import trimesh

    from spine_nav_common.core.case import write_case
    from spine_nav_common.core.types import Mesh

    meshes, lines = {}, []
    for i, level in enumerate(("L2", "L3", "L4", "L5", "S1")):
        box = trimesh.creation.box(extents=(0.05, 0.07, 0.028))
        centre = np.array([0.0, 0.0, -0.035 * i])
        meshes[level] = Mesh(np.asarray(box.vertices) + centre, np.asarray(box.faces, np.int32))
        for side, x in (("left", 0.012), ("right", -0.012)):
            entry, target = centre + (x, 0.035, 0.0), centre + (x, -0.010, 0.0)
            lines.append(ScrewPlan(level, side, entry, target))
    write_case(folder, Case("rods", "LPS", meshes, tuple(meshes), tuple(lines), ""))
    return folder


def test_the_command_asks_for_a_planned_screw_and_takes_the_answer(tmp_path, capsys):
    screws = write(tmp_path, [r for r in screw_rows() if (r.level, r.side) != ("S1", "left")])
    case, out = _case(tmp_path / "case"), tmp_path / "o"

    def run(*more: str) -> int:
        return main(["rod", "plan", "--screws", str(screws), "--out", str(out), *more])

    assert run("--case", str(case)) == 2
    error = capsys.readouterr().err
    assert "planned screw S1 is not among its 4 heads" in error and error.count("\n") == 1
    assert "if there is no screw on purpose, say so with --without S1" in error
    assert not out.exists()
    assert run("--case", str(case), "--without", "nothing") == 2
    assert "is no level" in capsys.readouterr().err
    assert run("--case", str(case), "--without", "S1") == 0
    printed = capsys.readouterr().out
    assert "as well as the heads are known (95 %)" in printed
    plan = json.loads((out / "bend_plan_left.json").read_text())
    assert 0.8 < plan["predicted_gap_mm"]["bound95"] < 1.5  # heads within 1 mm
