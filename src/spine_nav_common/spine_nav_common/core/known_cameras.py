# SPDX-License-Identifier: Apache-2.0
"""Camera drivers whose topic names are known: the ready remap files of config/cameras, found again in the
topics of a recording or a graph under whatever name the camera was given."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from .roles import ROLES, SCENE_ROLES, TRANSPORTS
from .types import Rejected


@dataclass(frozen=True)
class KnownCamera:
    """One camera among the topics: the driver's file, its prefix, canonical name to topic, and what it
    gives (`rgbd`, `stereo`)."""

    driver: str
    prefix: str
    remap: Mapping[str, str]
    scenes: tuple[str, ...]

    @property
    def name(self) -> str:
        """As --remap takes it."""
        return f"{self.driver}:{self.prefix}"

    def told(self) -> str:
        """What was chosen, in words for the user."""
        return (
            f"the topics below {self.prefix} are named as by {self.driver}: read as config/cameras/"
            f"{self.driver}.yaml says (--remap names others)"
        )


def folder() -> Path | None:
    """Where the ready remap files are: the repository's config/, or that of the installation."""
    installed = (sys.prefix, *filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(":")))
    places = (
        Path(__file__).resolve().parents[4] / "config" / "cameras",
        *(Path(p) / "share" / "spine_nav_bringup" / "config" / "cameras" for p in installed),
    )
    return next((place for place in places if place.is_dir()), None)


@cache
def _drivers(place: Path) -> dict[str, tuple[str, dict[str, str]]]:
    """Driver to its default prefix, and canonical name to what follows the prefix."""
    found = {}
    for file in sorted(place.glob("*.yaml")):
        names = yaml.safe_load(file.read_text(encoding="utf-8"))
        prefix = os.path.commonpath(list(names.values()))
        found[file.stem] = prefix, {k: v.removeprefix(prefix) for k, v in names.items()}
    return found


def named(text: str) -> dict[str, str] | None:
    """The remap of `DRIVER` or `DRIVER:PREFIX`; None where no driver is called so."""
    driver, _, prefix = text.partition(":")
    place = folder()
    if place is None or driver not in (known := _drivers(place)):
        return None
    default, endings = known[driver]
    return {canonical: (prefix or default) + end for canonical, end in endings.items()}


def cameras_in(topics: Collection[str]) -> list[KnownCamera]:
    """Every camera of a known driver among the topics, whose scenes are complete."""
    place = folder()
    found = []
    for driver, (_, endings) in (_drivers(place) if place else {}).items():
        anchors = [end for canonical, end in endings.items() if canonical in _ANCHORS]
        prefixes = {
            topic[: len(topic) - len(end + transport)]
            for end in anchors
            for transport in TRANSPORTS
            for topic in topics
            if topic.endswith(end + transport)
        }
        for prefix in sorted(prefixes):
            remap = {
                canonical + transport: prefix + end + transport
                for canonical, end in endings.items()
                for transport in (TRANSPORTS if "info" not in canonical else ("",))
                if prefix + end + transport in topics
            }
            scenes = tuple(s for s in SCENE_ROLES if complete(s, remap))
            if scenes:
                found.append(KnownCamera(driver, prefix, remap, scenes))
    return found


def recognise(topics: Collection[str], wanted: Collection[str]) -> list[KnownCamera] | Rejected:
    """The camera for each wanted scene, at most one for each; Rejected where two could be meant."""
    chosen: list[KnownCamera] = []
    cameras = cameras_in(topics)
    for scene in wanted:
        able = [c for c in cameras if scene in c.scenes]
        if len(able) > 1:
            return Rejected(
                f"there are {len(able)} cameras that could be meant:"
                f" {', '.join(c.name for c in able)}; name one, as --remap {able[0].name}"
            )
        chosen += [c for c in able if c not in chosen]
    return chosen


def complete(scene: str, names: Collection[str]) -> bool:
    """Whether every role of a scene is among the canonical names (of own or aligned depth, one)."""
    return all(
        any(name in names for role in alternatives for name in ROLES[role])
        for alternatives in SCENE_ROLES[scene]
    )


_ANCHORS = {ROLES["colour"][0], ROLES["left"][0]}
