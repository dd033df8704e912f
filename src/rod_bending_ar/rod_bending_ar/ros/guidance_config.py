# SPDX-License-Identifier: Apache-2.0
"""Parameters of the rod guidance node, and what they ask the core for."""

from __future__ import annotations

from dataclasses import dataclass

from rod_bending_ar.core.complete import parse_without
from rod_bending_ar.core.guidance import GuidanceOrder
from rod_bending_ar.core.material import MATERIALS, Bender
from rod_bending_ar.core.plan import RodOrder
from spine_nav_common.core.screw_rows import CRANIAL, SIDES
from spine_nav_common.parameters import param


@dataclass(frozen=True)
class RodGuidanceConfig:
    """Parameters of the rod guidance node."""

    side: str = param("", "side that is bent for; empty = both", choices=("", *SIDES))
    cranial: str = param(
        "", "where the patient's head lies in the image, if neither levels nor sides tell",
        choices=("", *CRANIAL),
    )  # fmt: skip
    material: str = param("Ti6Al4V", "of the rod", choices=tuple(MATERIALS))
    diameter_mm: float = param(5.5, "of the rod", "mm", 3.0, 7.0)
    length_mm: float = param(0.0, "of the rod at hand; 0 = as short as it may be", "mm", 0.0, 600.0)
    overhang_mm: float = param(10.0, "beyond either outer saddle", "mm", 0.0, 60.0)
    die_radius_mm: float = param(30.0, "of the bender's die", "mm", 5.0, 200.0)
    want_lordosis: bool = param(False, "bend to lordosis_deg instead of as the screws lie")
    lordosis_deg: float = param(0.0, "angle between the rod's ends, if wanted", "deg", -90.0, 120.0)
    steady_frames: int = param(
        15, "plan by itself once heads kept their distances this long; 0 = only when asked",
        "frames", 0, 10000,
    )  # fmt: skip
    steady_mm: float = param(1.5, "what counts as keeping their distances", "mm", 0.1, 20.0)
    moved_mm: float = param(
        3.0, "a head that moved this far against the others makes the plan invalid", "mm", 0.5, 20.0
    )
    most_gap_mm: float = param(
        4.0,
        "no plan where the heads' own uncertainty may leave a larger gap (95 %)",
        "mm",
        0.5,
        50.0,
    )
    case: str = param("", "folder of the case: planned screws that are missing are asked for")
    without: str = param(
        "", "levels without a screw on purpose, as T12,L3; any = plan for the heads as they are"
    )
    confirm_missing: str = param(
        "",
        "the surgeon's answer to whether a screw is left out on purpose: '<id> yes' (there is none) "
        "or '<id> no' (it is asked for still), as guidance/bending/status gives the id; refused "
        "when something else is asked by now",
        runtime=True,
    )
    compare_ms: float = param(300.0, "least time between two comparisons of a rod", "ms", 0.0, 1e4)
    silence_ms: float = param(
        1000.0, "without screws for this long, all guidance is deleted", "ms", 50.0, 10000.0
    )

    def order(self, planned: tuple[tuple[str, str], ...] = ()) -> GuidanceOrder:
        """What the core is asked for. planned: (level, side) of the case's screws."""
        return GuidanceOrder(
            RodOrder(
                material=self.material,
                diameter_mm=self.diameter_mm,
                length_mm=self.length_mm or None,
                overhang_mm=self.overhang_mm,
                lordosis_deg=self.lordosis_deg if self.want_lordosis else None,
                most_gap95_mm=self.most_gap_mm,
                bender=Bender(die_radius_mm=self.die_radius_mm),
                planned=planned,
                without=parse_without(self.without),
            ),
            (self.side,) if self.side else SIDES,
            self.cranial,
            self.steady_frames,
            self.steady_mm,
            self.moved_mm,
        )
