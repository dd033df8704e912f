# SPDX-License-Identifier: Apache-2.0
"""Stereo scenes that the bench judges, and those on which bounds are fitted.

Every scene is a folder as `spinenav simulate --scene stereo` writes it, made once per version of
the simulation. Screws of judged scenes are of designs that no training scene has ever held.
"""

from __future__ import annotations

import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

from spine_nav_common.core.errors import InputError
from spine_nav_common.core.jsonl import sha256_of
from spine_nav_common.core.recording import open_recording
from spine_nav_common.core.run import Progress
from spine_nav_common.core.surface import MESH_FORMATS
from spine_nav_common.core.tables import read_json, write_json
from spine_nav_common.core.truth import Truth, load_truth
from spine_nav_common.core.types import StereoFrame
from spine_nav_sim.core.implants import FAMILIES_JUDGE, FAMILIES_TRAIN
from spine_nav_sim.core.operation import simulate
from spine_nav_sim.core.splits import anatomy_seeds
from spine_nav_sim.core.stereo_config import StereoConfig

from .bench_scenes import simulation_hash

JUDGED, WITH_REAL_SCREWS, PER_REAL_ANATOMY = 30, 12, 3
PAIRS = 5
SECONDS = 1.0
WORKERS = 2
# Where in the list `judge` the seeds of each kind begin; the timed anatomies are not judged.
_REAL_SCREWS_FROM, _REAL_ANATOMY_FROM, _TIMED_FROM = 40, 60, 90
TIMED, TIMED_SECONDS = 2, 6.0
# The same operations for longer: what becomes of a track from its tenth pair on.
LONG, LONG_SECONDS = 12, 3.0
DESIGNS, REAL_SCREWS, REAL_ANATOMY = "generated screws", "real screws", "real anatomy"


@dataclass(frozen=True)
class StereoScene:
    """What is to be simulated. kind: how the table groups it; anatomy None: drawn from the seed."""

    name: str
    kind: str
    seed: int
    config: StereoConfig
    anatomy: Path | None = None


@dataclass(frozen=True)
class StereoFolder:
    """A folder with recording/ and truth.json, and perhaps case/; seed None: made elsewhere."""

    name: str
    kind: str
    folder: Path
    anatomy: str
    seed: int | None

    @property
    def recording(self) -> Path:
        return self.folder / "recording"

    @property
    def case(self) -> Path | None:
        folder = self.folder / "case"
        return folder if (folder / "case.yaml").is_file() else None

    def truth(self) -> Truth:
        """The truth of all pairs."""
        return load_truth(self.folder / "truth.json")

    def pairs(self, count: int | None = None) -> list[StereoFrame]:
        """The first `count` rectified pairs, decoded in memory."""
        return list(islice(open_recording(self.recording).stereo_frames(), count))


def stereo_config(index: int, families: tuple[str, ...] = FAMILIES_JUDGE) -> StereoConfig:
    """The demo's ranges at medium hardness, hand-held; two levels opened in every fourth scene."""
    plain = StereoConfig()
    narrow = index % 4 == 3
    scene = replace(
        plain.scene,
        hardness=0.5,
        fps=PAIRS / SECONDS,
        camera_moves=True,
        n_exposed=(2, 2) if narrow else (3, 5),
        threads=1,
    )
    # two levels carry four screws, the fewest that are judged
    missing = 0.0 if narrow else plain.missing_share
    return replace(plain, scene=scene, families=families, missing_share=missing)


def implant_files(folders: list[Path]) -> tuple[Path, ...]:
    """Every screw mesh of the folders.

    Raises:
        InputError: a folder without one.
    """
    files: list[Path] = []
    for folder in folders:
        found = sorted(folder.glob("*")) if folder.is_dir() else []
        found = [f for f in found if f.suffix.lower() in MESH_FORMATS]
        if not found:
            raise InputError(folder, "--implants", "holds no PLY, STL, OBJ or VTP file",
                             "name a folder of screw meshes")  # fmt: skip
        files += found
    return tuple(files)


def judged_stereo(
    implants: list[Path], anatomies: list[Path], count: int = JUDGED
) -> list[StereoScene]:
    """`count` scenes with unseen designs, then real screws and real anatomies if they are given."""
    seeds = anatomy_seeds("judge")
    whole = count == JUDGED
    scenes = [
        StereoScene(f"stereo-{seed}", DESIGNS, seed, stereo_config(i))
        for i, seed in enumerate(seeds[:count])
    ]
    files = implant_files(implants)
    if files:
        for i, seed in enumerate(seeds[_REAL_SCREWS_FROM:][: WITH_REAL_SCREWS if whole else 1]):
            config = replace(stereo_config(i), screw_files=files)
            scenes.append(StereoScene(f"stereo-{seed}-real-screws", REAL_SCREWS, seed, config))
    spare = iter(seeds[_REAL_ANATOMY_FROM:_TIMED_FROM])
    for folder in anatomies:
        if not folder.is_dir():
            raise InputError(folder, "--anatomy", "is no folder", "name a folder of meshes")
        for i in range(PER_REAL_ANATOMY if whole else 1):
            scenes.append(
                StereoScene(
                    f"stereo-{folder.name}-{i}", REAL_ANATOMY, next(spare), stereo_config(i), folder
                )
            )
    return scenes


def long_stereo(count: int = LONG) -> list[StereoScene]:
    """The first `count` judged operations, of which more pairs are shown."""
    return [replace(s, name=f"{s.name}-long") for s in judged_stereo([], [])[:count]]


def timed_stereo() -> list[StereoScene]:
    """Wounds with many screws at 640x480, with rods: the load that is timed."""
    seeds = anatomy_seeds("judge")[_TIMED_FROM:][:TIMED]
    plain = stereo_config(0)
    config = replace(
        plain,
        scene=replace(plain.scene, n_exposed=(5, 5)),
        sizes=((640, 480),),
        screws=(10, 10),
        missing_share=0.0,
        rods="seated",
    )
    return [StereoScene(f"stereo-timing-{seed}", DESIGNS, seed, config) for seed in seeds]


def calibrate_stereo(count: int, first: int = 0) -> list[StereoScene]:
    """`count` scenes of the list `calibrate` with screws of training designs, to fit bounds on."""
    seeds = anatomy_seeds("calibrate")[first:][:count]
    return [
        StereoScene(f"stereo-calibrate-{seed}", DESIGNS, seed, stereo_config(i, FAMILIES_TRAIN))
        for i, seed in enumerate(seeds, start=first)
    ]


def write_scenes(
    cache: Path,
    scenes: list[StereoScene],
    seconds: float = SECONDS,
    progress: Progress | None = None,
    workers: int = WORKERS,
) -> list[StereoFolder]:
    """The scenes as folders under `cache`; those that the same simulation wrote are kept."""
    simulation = simulation_hash()
    jobs = [(cache / s.name, s, _key(s, seconds, simulation), seconds) for s in scenes]
    missing = [job for job in jobs if not _is_there(job[0], job[2])]
    # One process per scene: half of a scene's time is spent where Python holds its lock. Fresh
    # processes, because a forked one may inherit a lock of ONNX Runtime's threads.
    if len(missing) > 1 and workers > 1:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            for done, _ in enumerate(pool.map(_write, missing), start=1):
                if progress is not None:
                    progress(done, len(missing), "rendering")
    else:
        for job in missing:
            _write(job)
    return [
        StereoFolder(
            s.name, s.kind, cache / s.name, s.anatomy.name if s.anatomy else f"virtual-{s.seed}",
            s.seed,
        )
        for s in scenes
    ]  # fmt: skip


def foreign_stereo(root: Path) -> list[StereoFolder]:
    """Every folder under `root` with truth and a stereo recording.

    Raises:
        InputError: there is none.
    """
    scenes = [
        StereoFolder(truth.parent.name, "foreign", truth.parent, "foreign", None)
        for truth in sorted(root.glob("*/truth.json"))
        if open_recording(truth.parent / "recording").has_stereo
    ]
    if not scenes:
        raise InputError(root, "--scenes", "holds no */truth.json with a stereo recording",
                         "name the folder above the scenes")  # fmt: skip
    return scenes


def _key(scene: StereoScene, seconds: float, simulation: str) -> dict[str, object]:
    config = {k: str(v) for k, v in asdict(scene.config).items() if k != "screw_files"}
    return {
        "seed": scene.seed,
        "seconds": seconds,
        "config": config,
        "screws": [sha256_of(f) for f in scene.config.screw_files],
        "anatomy": None if scene.anatomy is None else sha256_of(scene.anatomy),
        "simulation": simulation,
    }


def _is_there(folder: Path, key: dict[str, object]) -> bool:
    marker = folder / "scene.json"
    return marker.is_file() and read_json(marker) == key


def _write(job: tuple[Path, StereoScene, dict[str, object], float]) -> None:
    folder, scene, key, seconds = job
    shutil.rmtree(folder, ignore_errors=True)
    simulate(folder, scene.anatomy, scene.seed, seconds, ("stereo",), stereo_config=scene.config)
    write_json(folder / "scene.json", key)  # last: a scene that was cut off is written again
