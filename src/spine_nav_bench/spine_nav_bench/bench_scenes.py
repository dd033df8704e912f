# SPDX-License-Identifier: Apache-2.0
"""Scenes that the bench judges: virtual operations of the list `judge`, and recordings from
elsewhere. Virtual scenes are written once per version of the simulation and used again."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import spine_nav_sim
from spine_nav_common.core.errors import InputError
from spine_nav_common.core.jsonl import sha256_of
from spine_nav_common.core.recording import open_recording
from spine_nav_common.core.run import Progress
from spine_nav_common.core.tables import read_json, write_json
from spine_nav_common.core.types import RgbdFrame
from spine_nav_sim.core.operation import simulate
from spine_nav_sim.core.scene_config import SceneConfig
from spine_nav_sim.core.splits import anatomy_seeds

JUDGED_ANATOMIES = 24
CAMERAS = ("d415", "d405", "zedm", "d435")
"""By turns: an easy camera and a hard one are judged apart, never as one average."""
SCENES_PER_REAL_ANATOMY = 3
SECONDS = 4.0


@dataclass(frozen=True)
class SceneFolder:
    """A folder with case/, recording/ and truth.json, and where it comes from."""

    name: str
    folder: Path
    anatomy: str
    seed: int | None
    camera: str = "unknown"

    @property
    def case(self) -> Path:
        return self.folder / "case"

    @property
    def recording(self) -> Path:
        return self.folder / "recording"

    @property
    def truth(self) -> Path:
        return self.folder / "truth.json"

    def frames(self, count: int | None = None) -> list[RgbdFrame]:
        """The first `count` RGB-D frames, decoded in memory."""
        return list(islice(open_recording(self.recording).rgbd_frames(), count))


def scene_config(index: int) -> SceneConfig:
    """All noise and motion on; camera models by turns, each of them hand-held and standing."""
    turn, model = divmod(index, len(CAMERAS))
    moves = (turn + model) % 2 == 0
    return SceneConfig(camera=CAMERAS[model], camera_moves=moves, bump=True, hardness=0.5)


def virtual_scene(
    cache: Path,
    name: str,
    seed: int,
    config: SceneConfig,
    seconds: float,
    anatomy: Path | None = None,
    progress: Progress | None = None,
) -> SceneFolder:
    """The scene of these arguments, from the cache where the same simulation wrote it."""
    key = {
        "seed": seed,
        "seconds": seconds,
        "config": {k: str(v) for k, v in asdict(config).items()},
        "anatomy": None if anatomy is None else sha256_of(anatomy),
        "simulation": simulation_hash(),
    }
    folder = cache / name
    marker = folder / "scene.json"
    if not marker.is_file() or read_json(marker) != key:
        shutil.rmtree(folder, ignore_errors=True)
        simulate(folder, anatomy, seed, seconds, ("rgbd",), config, progress)
        write_json(marker, key)  # last: a scene that was cut off is written again
    return SceneFolder(
        name, folder, anatomy.name if anatomy else f"virtual-{seed}", seed, config.camera
    )


def simulation_hash() -> str:
    """Tells one version of the simulation's source from another."""
    package = Path(spine_nav_sim.__file__).parent
    sources = sorted(p for p in package.rglob("*.py") if "ros" not in p.parts)
    return "-".join(sha256_of(p)[:8] for p in sources)


def judged_scenes(
    cache: Path,
    anatomies: list[Path],
    count: int = JUDGED_ANATOMIES,
    seconds: float = SECONDS,
    progress: Progress | None = None,
) -> list[SceneFolder]:
    """`count` anatomies of the list `judge`, then three scenes of every real anatomy."""
    seeds = anatomy_seeds("judge")
    wanted: list[tuple[str, int, Path | None]] = [
        (f"judge-{seed}", seed, None) for seed in seeds[:count]
    ]
    spare = iter(seeds[JUDGED_ANATOMIES:])  # layouts of real anatomies; no anatomy is drawn
    for folder in anatomies:
        if not folder.is_dir():
            raise InputError(folder, "--anatomy", "is no folder", "name a folder of meshes")
        whole = count == JUDGED_ANATOMIES
        per_anatomy = SCENES_PER_REAL_ANATOMY if whole else 1
        # Another layout has another name: two parts of the bench may run at once on one cache.
        kind = folder.name if whole else f"{folder.name}-beside-{count}"
        wanted += [(f"{kind}-{k}", next(spare), folder) for k in range(per_anatomy)]
    return [
        virtual_scene(cache, name, seed, scene_config(i), seconds, anatomy, progress)
        for i, (name, seed, anatomy) in enumerate(wanted)
    ]


def foreign_scenes(root: Path) -> list[SceneFolder]:
    """Every folder under `root` with case, truth and an RGB-D recording.

    Raises:
        InputError: there is none.
    """
    scenes = []
    for truth in sorted(root.glob("*/truth.json")):
        folder = truth.parent
        if (folder / "case" / "case.yaml").is_file() and open_recording(
            folder / "recording"
        ).has_rgbd:
            scenes.append(SceneFolder(folder.name, folder, "foreign", None))
    if not scenes:
        raise InputError(root, "--scenes", "holds no */truth.json with an RGB-D recording",
                         "name the folder above the scenes")  # fmt: skip
    return scenes
