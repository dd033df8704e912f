# SPDX-License-Identifier: Apache-2.0
"""Bad input to the screw tracker: what it refuses, tells, and shows wrong, fault by fault.

Scenes of the list `judge` that no other part uses and nothing was tuned on. Every fault spoils the
same pairs; pairs are counted from the fifth on, with which a bump comes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from spine_nav_common.core.implant_metrics import RodScore, ScrewScore, score_screws
from spine_nav_common.core.implant_outputs import RodCurve, ScrewRow
from spine_nav_common.core.run import Progress
from spine_nav_common.core.types import Rejected, StereoFrame
from spine_nav_sim.core.splits import anatomy_seeds
from spine_nav_sim.core.stereo_faults import BUMPED_AT, FAULTS, Fault
from stereo_screw_tracker.core.load import StereoCore, TracksScrews
from stereo_screw_tracker.core.output import rod_curves, screw_rows

from .bench_stereo import heads_document, only, rods_document, score_all_rods
from .bench_stereo_scenes import DESIGNS, StereoFolder, StereoScene, stereo_config, write_scenes

NONE = "none"
MIRROR = "a mirror-finish rod alone in the picture"
TRAY = "a tray of ten screws beside the wound"
SCENES, SECONDS = 4, 2.0
ODD_SCENES, ODD_SECONDS = 3, 1.2
SMOKE_SECONDS = 1.2
_FROM, _ODD_FROM = 30, 52  # in the list `judge`
TOLD = ("less sharp", "in no bone", "look like rods")
"""Words of the events that tell a fault; others tell what is always told."""


@dataclass
class Collected:
    """What came of one fault over all scenes. told: pairs that were used, with an event about it."""

    pairs: int = 0
    refused: int = 0
    told: int = 0
    scenes_told: int = 0
    scenes: int = 0
    heads: list[ScrewScore] = field(default_factory=list)
    rods: list[RodScore] = field(default_factory=list)
    words: Counter[str] = field(default_factory=Counter)
    named: int = 0

    def document(self) -> dict[str, Any]:
        """For the record."""
        return {
            "scenes": self.scenes,
            "scenes_told": self.scenes_told,
            "pairs": self.pairs,
            "refused": self.refused,
            "told": self.told,
            "named": self.named,
            "heads": heads_document(self.heads),
            "rods": rods_document(self.rods),
            "words": dict(self.words.most_common(3)),
        }


def collect(
    into: Collected, tracker: TracksScrews, folder: StereoFolder, frames: Sequence[StereoFrame]
) -> None:
    """The tracker over the pairs of one scene, from a fresh start."""
    tracker.reset()
    rows: list[ScrewRow] = []
    rods: dict[int, Sequence[RodCurve]] = {}
    counted = [f.stamp_ns for f in frames[BUMPED_AT:]]
    told_before = into.refused + into.told
    for i, frame in enumerate(frames):
        result = tracker.process(frame)
        if i < BUMPED_AT:
            continue
        if isinstance(result, Rejected):
            into.refused += 1
            into.words[plain(result.reason)] += 1
            continue
        events = [e for e in result.events if any(word in e for word in TOLD)]
        into.told += bool(events)
        into.words.update(plain(e) for e in events[:1])
        rows += screw_rows(result)
        rods[result.stamp_ns] = rod_curves(result)
    truth = only(folder.truth(), counted)
    into.scenes += 1
    into.scenes_told += into.refused + into.told > told_before
    into.pairs += len(counted)
    into.named += sum(bool(r.level or r.side) for r in rows)
    into.heads.append(score_screws(rows, truth))
    into.rods.append(score_all_rods(rods, truth))


def plain(words: str) -> str:
    """Words without their numbers, so that equal ones can be counted."""
    return re.sub(r"[-+]?\d+(\.\d+)?", "…", words)


def faults_record(
    cache: Path, core: StereoCore, *, smoke: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """Everything that the table of bad input needs, as one JSON record."""
    plain_scenes, odd = faulty_scenes(1 if smoke else SCENES, 1 if smoke else ODD_SCENES)
    seconds = SMOKE_SECONDS if smoke else SECONDS
    table: dict[str, Collected] = {}
    faults: dict[str, Fault] = {NONE: list, **FAULTS}
    folders = write_scenes(cache, plain_scenes, seconds, progress)
    for i, folder in enumerate(folders):
        frames = folder.pairs()
        for name, fault in faults.items():
            collect(table.setdefault(name, Collected()), core.tracker, folder, fault(frames))
        if progress is not None:
            progress(i + 1, len(folders), folder.name)
    for name, scenes in odd.items():
        for folder in write_scenes(cache, scenes, ODD_SECONDS, progress):
            collect(table.setdefault(name, Collected()), core.tracker, folder, folder.pairs())
    return {
        "faults": {name: c.document() for name, c in table.items()},
        "seeds": [s.seed for s in (*plain_scenes, *next(iter(odd.values())))],
    }


def faulty_scenes(
    count: int, odd_count: int
) -> tuple[list[StereoScene], dict[str, list[StereoScene]]]:
    """Scenes that faults of images are put on, and scenes that are odd themselves, by fault."""
    seeds = anatomy_seeds("judge")
    scenes = [
        StereoScene(f"faults-{seed}", DESIGNS, seed, stereo_config(i))
        for i, seed in enumerate(seeds[_FROM:][:count])
    ]
    odd: dict[str, list[StereoScene]] = {MIRROR: [], TRAY: []}
    for i, seed in enumerate(seeds[_ODD_FROM:][:odd_count]):
        config = stereo_config(i)
        odd[MIRROR].append(
            StereoScene(f"mirror-{seed}", DESIGNS, seed, replace(config, rods="alone"))
        )
        odd[TRAY].append(
            StereoScene(f"tray-{seed}", DESIGNS, seed, replace(config, tray_screws=10))
        )
    return scenes, odd
