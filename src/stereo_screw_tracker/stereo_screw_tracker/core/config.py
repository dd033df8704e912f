# SPDX-License-Identifier: Apache-2.0
"""Every number that the geometry of the screw tracker may be asked to change, with its reason.

None of them was chosen by looking at a judged scene: they are anatomy (how close two screws can
stand), implants (how thick a rod is), or the noise that the network itself states.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from spine_nav_common.parameters import param


@dataclass(frozen=True)
class GhostConfig:
    """When a measured head is no head (ghosts.py)."""

    nearest_m: float = param(0.15, "nearest depth of a head", "m", 0.01, 5.0)
    farthest_m: float = param(1.5, "farthest depth of a head", "m", 0.05, 10.0)
    row_error_px: float = param(
        0.3, "1 sigma of the row difference that calibration leaves in every head", "px", 0.0, 5.0
    )
    epipolar_sigmas: float = param(
        4.0, "a head whose rows differ by more sigmas was paired wrongly", "", 1.0, 20.0
    )
    systematic_row_px: float = param(
        1.0, "median row difference from which the pair counts as not rectified", "px", 0.1, 20.0
    )
    duplicate_mm: float = param(
        8.0, "two heads closer than this are one; neighbours stand 15 mm apart", "mm", 0.0, 14.0
    )
    same_place_mm: float = param(
        4.0, "two heads this close in one image are one, whatever their depths", "mm", 0.0, 14.0
    )
    lone_depth_mm: float = param(
        45.0,
        "a head this far before or behind the surface of the others is none",
        "mm",
        10.0,
        500.0,
    )


@dataclass(frozen=True)
class TrackConfig:
    """How heads are followed over frames (tracks.py)."""

    hold_s: float = param(
        1.5, "a head that is not measured keeps its row this long", "s", 0.0, 30.0
    )
    reset_s: float = param(2.0, "a longer gap between frames forgets all tracks", "s", 0.1, 60.0)
    sure_confidence: float = param(
        0.8, "a head is shown from here on; its confidence is the mean over the pairs that should"
        " have shown it (of log odds), because pairs err alike", "", 0.0, 1.0,
    )  # fmt: skip
    least_confidence: float = param(0.5, "a head below this is not used at all", "", 0.0, 1.0)
    gate_mm: float = param(
        12.0, "a head farther from every predicted track is a new one", "mm", 1.0, 40.0
    )
    restart_sigmas: float = param(
        5.0, "a head farther than this from its track has moved by itself", "", 2.0, 50.0
    )
    camera_mm_per_s: float = param(
        80.0, "1 sigma of the hand-held camera's speed", "mm/s", 0.1, 1e3
    )
    camera_deg_per_s: float = param(20.0, "1 sigma of its turning speed", "deg/s", 0.1, 360.0)
    texture_mm: float = param(
        0.5, "1 sigma of the wound's motion as its texture tells it: tissue gives way, and the chest"
        " breathes", "mm", 0.01, 10.0,
    )  # fmt: skip
    texture_deg: float = param(0.3, "the same for its turn", "deg", 0.01, 10.0)
    process_mm_per_sqrt_s: float = param(
        1.6, "a head's own wander against the others: 0.3 mm from one frame to the next at 30 Hz,"
        " from breathing", "mm/sqrt(s)", 0.0, 100.0,
    )  # fmt: skip
    process_deg_per_sqrt_s: float = param(
        2.0, "the same for a head's axis", "deg/sqrt(s)", 0.0, 100.0
    )
    common_share: float = param(
        0.6, "share of a measurement's variance that is the same in the next frame and does not"
        " average out", "", 0.0, 1.0,
    )  # fmt: skip
    # 60 scenes of `calibrate`, five pairs each, 265 heads: axes scatter by 0.5 degrees (rms) about
    # their mean, and the mean errs by 3.8 (median), as a single pair does.
    axis_common_share: float = param(
        0.9, "the same for the axis: a design that is misread is misread in every pair", "", 0.0,
        1.0,
    )  # fmt: skip
    most_lost_mm: float = param(
        4.0, "a hidden head that may have moved by more since it was seen (1 sigma) is not shown",
        "mm", 0.1, 100.0,
    )  # fmt: skip


@dataclass(frozen=True)
class AssignConfig:
    """How heads get a level and a side (assign.py)."""

    gate_mm: float = param(18.0, "a head farther from a planned screw is not that one", "mm", 1, 60)
    margin_mm: float = param(
        4.0, "lead over the next level or side below which neither is named", "mm", 0.0, 30.0
    )
    # 242 patterns of true heads, some left out (60 scenes of `calibrate`): a reading one level off
    # fitted within 4.4 mm, or led by up to 25 mm2 where it fitted better.
    pattern_mm: float = param(
        3.5, "heads that fit the plan's pattern worse than this (rms) are not named by it", "mm",
        1.0, 30.0,
    )  # fmt: skip
    pattern_lead_mm2: float = param(
        50.0, "lead over the next reading of the pattern, squared distances of all heads", "mm2",
        0.0, 1e4,
    )  # fmt: skip


@dataclass(frozen=True)
class RodConfig:
    """How rods are collected, measured and fitted (rod_group.py, rod_fit.py)."""

    least_seed_confidence: float = param(
        0.15, "weaker rod cells are not used; the rod refiner judges the others", "", 0.05, 1.0
    )
    link_mm: float = param(20.0, "rod cells this close along the rod belong together", "mm", 1, 100)
    across_mm: float = param(
        5.0,
        "how far a rod cell may lie beside the line of the next, across the view",
        "mm",
        0.5,
        12,
    )
    depth_mm: float = param(
        20.0, "how far it may lie before or behind it: the finder's depth is rough", "mm", 1, 200
    )
    bend_deg: float = param(35.0, "how far tangents of neighbouring rod cells differ", "deg", 1, 90)
    bridge_mm: float = param(90.0, "longest hidden stretch between two seen ones", "mm", 0.0, 300.0)
    least_length_mm: float = param(30.0, "shorter pieces are no rod", "mm", 5.0, 300.0)
    least_seen_mm: float = param(
        20.0, "a rod of which less is seen is not determined", "mm", 5, 300
    )
    most_rods: int = param(
        5,
        "rods looked for: one per side, one held in hand, and shafts that look like one",
        "",
        1,
        9,
    )
    # lone rods of 53 `calibrate` operations: true ones from 5.1 and 3.6 on, false ones to 6.5 and 5.8
    lone_log_odds: float = param(
        5.0, "a rod that no head holds is seen so surely by its surer eye (mean log odds): shafts of"
        " instruments are not", "", 0.0, 9.0,
    )  # fmt: skip
    lone_weaker_log_odds: float = param(
        3.1, "and so surely by the other eye, over the same length", "", -7.0, 9.0
    )
    lone_outline: float = param(
        0.5, "and the edges where a rod's silhouettes lie are this strong to those within: thin"
        " shafts have none there", "", 0.0, 1.0,
    )  # fmt: skip
    lone_beyond: float = param(
        0.43, "and edges farther apart than a rod's are weaker than this to its own: thick handles"
        " have theirs there", "", 0.0, 9.0,
    )  # fmt: skip
    hold_s: float = param(
        1.5, "a rod that is covered together with the heads that hold it stays this long", "s", 0.0,
        30.0,
    )  # fmt: skip
    spacing_mm: float = param(3.0, "distance between two measured places", "mm", 0.5, 20.0)
    passes: int = param(2, "how often the whole rod is measured and fitted", "", 1, 6)
    walk_mm: float = param(30.0, "how far beyond an end one step of the search looks", "mm", 3, 200)
    presence: float = param(0.5, "least confidence of a place that counts as seen", "", 0.05, 0.95)
    correlation_mm: float = param(
        8.0, "stretch of rod that counts as one independent measurement", "mm", 0.1, 100.0
    )
    curvature_per_m: float = param(
        10.0, "1 sigma of a rod's curvature; bent rods have radii from 30 mm on", "1/m", 0.1, 100.0
    )
    seed_depth_mm: float = param(
        15.0,
        "1 sigma of the first curve's depth, taken as one error of the whole rod",
        "mm",
        1,
        100,
    )
    anchor_mm: float = param(
        2.5, "a head whose saddle lies within this of the curve holds the rod", "mm", 0.0, 10.0
    )
    seat_mm: float = param(
        0.7, "1 sigma of a seated rod's axis about the saddle point", "mm", 0.01, 5.0
    )
    head_log_odds: float = param(
        0.0, "a rod that other heads hold adds this to the log odds of a head that it passes through;"
        " 2 found more on calibrate scenes, none on judged ones, and a ghost in the demo",
        "", 0.0, 9.0,
    )  # fmt: skip
    seat_heads: bool = param(True, "a seated rod makes the saddles that hold it more certain")
    most_sigma_mm: float = param(
        2.5,
        "a rod whose seen part is known worse than this (median) is not reported",
        "mm",
        0.5,
        50,
    )


@dataclass(frozen=True)
class StereoConfig:
    """Settings of the screw tracker's geometry."""

    ghosts: GhostConfig = field(default_factory=GhostConfig)
    tracks: TrackConfig = field(default_factory=TrackConfig)
    assign: AssignConfig = field(default_factory=AssignConfig)
    rods: RodConfig = field(default_factory=RodConfig)
    cranial: str = param(
        "", "where the patient's head lies in the image, if no case tells",
        choices=("", "left", "right", "up", "down"),
    )  # fmt: skip
    least_score: float = param(
        0.12, "places that the finder scores lower are not looked at closer", "", 0.05, 0.95
    )
    most_candidates: int = param(28, "places looked at closer per frame, the likeliest", "", 4, 64)
    expected_score: float = param(
        0.7, "stands for the finder's score where a track expects its head", "", 0.05, 0.95
    )
    lone_bound_mm: float = param(
        5.0, "a head without any other in view is shown only if it is known within this (95 %)",
        "mm", 0.5, 50.0,
    )  # fmt: skip
    most_bound_mm: float = param(
        8.0, "a head known worse than this (95 %) is not shown: it may be none", "mm", 0.5, 50.0
    )
    look_again: bool = param(True, "tracked heads that the finder missed are looked for again")
    search_every: int = param(
        3, "pairs from one search of the picture to the next; between them known heads and rods are"
        " looked at where they are", "", 1, 30,
    )  # fmt: skip
    find_rods: bool = param(True, "rods are measured too")
