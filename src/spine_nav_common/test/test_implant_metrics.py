# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest

from spine_nav_common.core.implant_metrics import (
    RodScore,
    ScrewScore,
    curve_distance,
    score_rods,
    score_screws,
    visible_distance,
)
from spine_nav_common.core.implant_outputs import RodCurve, ScrewRow, ScrewWriter, write_rods
from spine_nav_common.core.metrics import evaluate, format_report
from spine_nav_common.core.truth import Truth, TruthFrame, TruthRod, TruthScrew

UP = np.array([0.0, 0.0, -1.0])
HEADS = np.array([[0.00, 0, 0.4], [0.03, 0, 0.4], [0.06, 0, 0.4], [0.09, 0, 0.4]])
LINE = np.stack([np.linspace(-0.01, 0.10, 200), np.zeros(200), np.full(200, 0.4)], axis=1)


@pytest.fixture
def truth() -> Truth:
    """Four heads on one rod in each of two frames; one is half hidden, one nearly all."""
    screws = tuple(
        TruthScrew(stamp, i, f"L{i + 1}", "left", head, UP, px)
        for stamp in (10, 20)
        for i, (head, px) in enumerate(zip(HEADS, (100, 80, 50, 5), strict=True))
    )
    rods = tuple(TruthRod(stamp, "left", LINE) for stamp in (10, 20))
    return Truth(("L1",), ("L1",), (), {s: TruthFrame(s, {}) for s in (10, 20)}, screws, rods)


def row(stamp: int, head, bound=2.0, axis=UP, level="", side="", track=0) -> ScrewRow:
    return ScrewRow(stamp, track, np.asarray(head, float), axis, 1.0, bound, level, side)


def test_visible_is_more_than_half_of_the_best_seen_head(truth):
    score = score_screws([], truth)
    assert (score.visible, score.found, score.rows) == (4, 0, 0)  # 100 and 80 px; 50 is not more
    assert score.to_dict()["recall"] == 0.0
    assert score.to_dict()["precision"] is None


def test_hidden_heads_count_for_precision_not_for_recall(truth):
    score = score_screws([row(10, HEADS[0]), row(10, HEADS[3])], truth)
    assert (score.found, score.visible, len(score.heads), score.rows) == (1, 4, 2, 2)


@pytest.mark.parametrize(("mm", "right"), [(4.9, True), (5.1, False)])
def test_right_within_five_millimetres(truth, mm, right):
    score = score_screws([row(10, HEADS[0] + (0, 1e-3 * mm, 0))], truth)
    assert len(score.heads) == right
    assert score.found == right


def test_one_head_takes_one_row_and_the_assignment_finds_most_pairs(truth):
    twice = [row(10, HEADS[0]), row(10, HEADS[0] + (0.001, 0, 0))]
    score = score_screws(twice, truth)
    assert (len(score.heads), score.rows) == (1, 2)
    close = Truth(
        (), (), (), {10: TruthFrame(10, {})},
        (TruthScrew(10, 0, "L1", "left", np.array([0, 0, 0.4]), UP, 9),
         TruthScrew(10, 1, "L2", "left", np.array([0.006, 0, 0.4]), UP, 9)),
    )  # fmt: skip
    # the first row is nearer to head 1 but only head 0 remains for it: greedy would lose one
    rows = [row(10, (0.0035, 0, 0.4)), row(10, (0.0065, 0, 0.4))]
    assert score_screws(rows, close).found == 2


def test_errors_are_split_along_the_line_of_sight(truth):
    sight = HEADS[1] / np.linalg.norm(HEADS[1])
    across = np.cross(sight, (0, 1.0, 0))
    (head,) = score_screws([row(10, HEADS[1] + 0.003 * sight - 0.002 * across)], truth).heads
    assert head.depth_mm == pytest.approx(3.0)
    assert head.lateral_mm == pytest.approx(2.0)
    assert head.distance_mm == pytest.approx(np.hypot(3.0, 2.0))


def test_axis_that_points_into_the_bone_is_wrong_by_half_a_turn(truth):
    (head,) = score_screws([row(10, HEADS[0], axis=-UP)], truth).heads
    assert head.axis_deg == pytest.approx(180.0)


def test_wrong_names_are_counted_and_empty_ones_are_not(truth):
    rows = [row(10, HEADS[0], level="L2", side="right"), row(10, HEADS[1]),
            row(10, HEADS[2], level="L3", side="left")]  # fmt: skip
    m = score_screws(rows, truth).to_dict()
    assert (m["level_wrong"], m["side_wrong"]) == (1, 1)


def test_bounds_and_rows_without_truth(truth):
    rows = [row(10, HEADS[0] + (0.0015, 0, 0)), row(10, HEADS[1] + (0.003, 0, 0)),
            row(20, HEADS[0] + (0, 0.5, 0)), row(99, HEADS[0])]  # fmt: skip
    score = score_screws(rows, truth)
    assert score.to_dict()["coverage95"] == pytest.approx(1 / 3)
    assert score.rows_without_truth == 1


def curve(points: np.ndarray, side: str = "left") -> RodCurve:
    return RodCurve(side, points, np.ones(len(points)), np.ones(len(points), bool))


def test_parallel_curve_is_its_distance_away_whatever_the_sampling():
    other = LINE + (0, 0.003, 0)
    uneven = other[np.unique(np.geomspace(1, 200, 40).astype(int)) - 1]
    for c in (other, other[::-1], uneven):
        assert curve_distance(c, LINE, HEADS) == pytest.approx(0.003, rel=1e-6)


def test_only_the_stretch_between_the_outermost_saddles_counts():
    bent = LINE.copy()
    bent[bent[:, 0] < -0.001, 1] += 0.02  # off beyond the first head
    assert curve_distance(bent, LINE, HEADS) < 1e-4
    assert curve_distance(bent, LINE, np.empty((0, 3))) > 5e-4


def test_a_rod_that_ends_too_early_is_not_perfect():
    short = LINE[LINE[:, 0] < 0.045]
    distance = curve_distance(short, LINE, HEADS)
    # half of the true curve (0.045 of 0.090 m) is 0 to 0.045 m away; the other direction is 0
    assert distance == pytest.approx(0.5 * 0.5 * 0.0225, rel=0.03)


def test_rods_match_by_distance_and_tell_missed_extra_and_wrong_side(truth):
    near, far = curve(LINE + (0, 0.001, 0), "right"), curve(LINE + (0, 0.05, 0), "left")
    m = score_rods(20, [far, near], truth).to_dict()
    assert (m["rods"], m["found"], m["extra"], m["side_wrong"]) == (1, 1, 1, 1)
    assert m["distance_mm"]["mean"] == pytest.approx(1.0, rel=1e-6)
    m = score_rods(20, [], truth).to_dict()
    assert (m["rods"], m["found"], m["distance_mm"]) == (1, 0, None)
    assert score_rods(99, [near], truth).without_truth == 1


def test_what_nobody_sees_of_a_rod_is_not_judged():
    x = LINE[:, 0]
    wrong = LINE.copy()
    wrong[x > 0.05, 1] += 0.010  # 10 mm off where it is hidden
    hidden = x < 0.045
    mean, most = visible_distance(wrong, LINE, hidden, HEADS)
    assert most < 1e-6
    mean, most = visible_distance(wrong, LINE, None, HEADS)
    assert most == pytest.approx(0.010, abs=1e-4)
    assert 0.003 < mean < 0.006
    assert visible_distance(wrong, LINE, np.zeros(len(LINE), bool), HEADS) is None


def test_a_rod_held_in_hand_is_judged_to_its_ends():
    longer = np.concatenate([LINE, [LINE[-1] + (0.008, 0, 0)]])
    _, most = visible_distance(longer, LINE, None, np.zeros((0, 3)))
    assert most == pytest.approx(0.008, abs=1e-6)
    _, most = visible_distance(longer, LINE, None, HEADS)  # seated: between the saddles
    assert most < 1e-9


def test_score_tells_the_visible_part_of_each_rod(truth):
    seen = LINE[:, 0] < 0.045
    rods = tuple(TruthRod(r.stamp_ns, r.side, r.centreline_m, seen) for r in truth.rods)
    told = Truth(truth.levels, truth.exposed, truth.plan, truth.frames, truth.screws, rods)
    (error,) = score_rods(20, [curve(LINE + (0, 0.001, 0))], told).errors
    assert error.visible_mm == pytest.approx(1.0, abs=1e-6)
    assert error.visible_max_mm == pytest.approx(1.0, abs=1e-6)
    assert error.seen_mm == pytest.approx(45.0, abs=1.0)


def test_pooled_scores_add_up(truth):
    a = score_screws([row(10, HEADS[0])], truth)
    b = score_screws([row(10, HEADS[1] + (0.002, 0, 0)), row(20, HEADS[1])], truth)
    pooled = ScrewScore.pool([a, b])
    assert (pooled.visible, pooled.found, pooled.rows) == (8, 3, 3)
    assert pooled.to_dict()["head_mm"]["mean"] == pytest.approx(2 / 3, abs=1e-6)
    rods = RodScore.pool([score_rods(20, [curve(LINE)], truth), score_rods(20, [], truth)])
    assert (rods.to_dict()["rods"], rods.to_dict()["found"]) == (2, 1)


def test_a_folder_with_screws_and_rods_alone(tmp_path, case, truth):
    with ScrewWriter(tmp_path) as writer:
        writer.write([row(10, h, track=i) for i, h in enumerate(HEADS)])
    write_rods(tmp_path, 20, [curve(LINE)])
    report = evaluate(tmp_path, truth, case)
    assert report.outcomes == ()
    json.dumps(report.to_dict(), allow_nan=False)
    text = format_report(report)
    assert "found 2 of 4 visible heads (50.0 %)" in text
    assert "found 1 of 1, extra 0" in text
