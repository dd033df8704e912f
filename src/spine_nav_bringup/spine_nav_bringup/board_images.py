# SPDX-License-Identifier: Apache-2.0
"""Images of a calibration board from a folder, a pattern of file names, or a recording."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from spine_nav_common.core.errors import InputError
from spine_nav_common.core.images import ImageError, decode_image
from spine_nav_common.core.pairing import STEREO_SLOP_NS, Pairer
from spine_nav_common.core.recorded_clock import stamp_ns
from spine_nav_common.core.recorded_messages import RecordedMessages, load_remap

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_EYES = (("left", "right"), ("Left", "Right"), ("L", "R"), ("l", "r"))


@dataclass(frozen=True)
class BoardImage:
    """name: of the file, or the stamp. eyes: grey (H, W) uint8 images, one or left and right. moving:
    one of a stream, whose neighbours show nearly the same."""

    name: str
    eyes: tuple[np.ndarray, ...]
    moving: bool


def board_images(source: Path, *, stereo: bool, remap: Path | None = None) -> Iterator[BoardImage]:
    """Images in order; all of one size.

    Raises InputError: nothing there, no pairs, an image that cannot be read or of another size.
    """
    files = _files(source)
    if files:
        shown = _file_pairs(source, files) if stereo else [(f,) for f in _one_camera(source, files)]
        images = (
            BoardImage("+".join(f.name for f in some), tuple(_grey(f) for f in some), False)
            for some in shown
        )
    else:
        images = _recorded(source, ("left", "right") if stereo else (), remap)
    first: tuple[int, ...] | None = None
    for image in images:
        for grey in image.eyes:
            first = first or grey.shape
            if grey.shape != first:
                raise InputError(
                    source, image.name,
                    f"it is {grey.shape[1]}x{grey.shape[0]}, the first image {first[1]}x{first[0]}",
                    "take it out: images of one camera in one mode have one size",
                )  # fmt: skip
        yield image


def _files(source: Path) -> list[Path]:
    if any(c in source.name for c in "*?["):
        found = sorted(source.parent.glob(source.name))
        if not found:
            raise InputError(source, "", "no file has such a name", "name a folder or a pattern")
        return [f for f in found if f.suffix.lower() in _SUFFIXES]
    if not source.is_dir():
        return []
    own = sorted(f for f in source.rglob("*") if f.suffix.lower() in _SUFFIXES)
    return own if not any(source.glob("*.mcap")) and not any(source.glob("*.db3")) else []


def _one_camera(source: Path, files: Sequence[Path]) -> Sequence[Path]:
    if _paired(files):
        raise InputError(
            source, "", "it holds images of a left and a right camera",
            f"use `calibrate stereo`, or name those of one: '{source}/left*' (with the quotes)",
        )  # fmt: skip
    return files


def _partner(file: Path, left: str, right: str) -> Path | None:
    """The right file of a left one: a folder or a part of the name says the eye."""
    if file.parent.name == left:
        return file.parent.parent / right / file.name
    part = re.compile(rf"(?<![A-Za-z]){left}(?![A-Za-z])")
    if not part.search(file.stem):
        return None
    return file.with_name(part.sub(right, file.stem) + file.suffix)


def _paired(files: Sequence[Path]) -> list[tuple[Path, Path]]:
    there = set(files)
    for names in _EYES:
        found = [(f, p) for f in files if (p := _partner(f, *names)) is not None and p in there]
        if found:
            return found
    return []


def _file_pairs(source: Path, files: Sequence[Path]) -> list[tuple[Path, Path]]:
    found = _paired(files)
    if not found:
        raise InputError(
            source, "", "there are no pairs in it",
            "write left01.png and right01.png, or folders left and right (L and R) with equal names",
        )  # fmt: skip
    return found


def _grey(file: Path) -> np.ndarray:
    image = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise InputError(file, "", "the image cannot be read", "take it out of the folder")
    return image


def _recorded(source: Path, roles: Sequence[str], remap: Path | None) -> Iterator[BoardImage]:
    held = RecordedMessages(source, load_remap(remap) if remap else {})
    if not roles:
        there = [r for r in ("colour", "left", "right") if held.find(r) is not None]
        roles = there[:1] or ("colour",)
    topics = [held.topic(r) for r in roles]
    if any("image_rect" in held.canonical(r) and r != "colour" for r in roles):
        raise InputError(
            source, topics[0], "its images are rectified already", "record image_raw of both eyes"
        )
    if len(topics) == 1:
        for _, message in held.messages(topics[0]):
            grey = _decoded(message)
            if grey is not None:
                yield BoardImage(str(stamp_ns(message)), (grey,), True)
        return
    pairer = Pairer(STEREO_SLOP_NS, ("left", "right"))
    ended = False
    messages = held.messages(*topics)
    while not ended:
        topic, message = next(messages, (None, None))
        ended = topic is None
        if message is not None:
            add = pairer.add_first if topic == topics[0] else pairer.add_second
            add(stamp_ns(message), message)
        for pair in pairer.ready(end=ended):
            eyes = [_decoded(x) for x in (pair.first, pair.second)]
            if eyes[0] is not None and eyes[1] is not None:
                yield BoardImage(str(pair.stamp_ns), (eyes[0], eyes[1]), True)


def _decoded(message: Any) -> np.ndarray | None:
    if message is None:
        return None
    try:
        image = decode_image(message)
    except ImageError:
        return None
    if image.dtype != np.uint8:
        return None
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
