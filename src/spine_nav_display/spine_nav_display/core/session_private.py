# SPDX-License-Identifier: Apache-2.0
"""Keeps out of a record what may name the patient: the user's folders and files, which stand in
notes and messages and are often called after a person."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HIDDEN = "<hidden>"
# Names that say nothing of a patient, and words of our own messages, which a folder may be called.
_WORDS = frozenset(
    [
        "case",
        "cases",
        "data",
        "home",
        "root",
        "user",
        "users",
        "work",
        "Users",
        "media",
        "patients",
        "patient",
        "recording",
        "recordings",
        "operation",
        "operations",
        "session",
        "sessions",
        "record",
        "records",
        "camera",
        "spine",
        "live",
        "demo",
        "test",
        "tests",
        "model",
        "models",
        "config",
        "calibration",
        "calibrations",
        "remap",
        "navigation",
        "registration",
        "overlay",
        "screws",
        "screw",
        "guidance",
        "rods",
        "recorder",
        "replay",
        "virtual",
        "realsense",
        "stereo",
        "rgbd",
        "tracked",
        "occluded",
        "lost",
        "rejected",
        "searching",
        "registering",
        "proven",
        "unknown",
        "refused",
        "running",
        "paused",
        "active",
        "true",
        "false",
        "True",
        "False",
        "none",
        "begin",
        "recall",
        "frame",
        "asked",
        "shown",
        "action",
        "confirm",
        "reject",
        "register",
        "pause",
        "resume",
        "snapshot",
        "left",
        "right",
    ]
)
_FEW = 3  # a folder with a shorter name than this would be found in every other word


def private_texts(paths: Iterable[Path | str | None], names: Iterable[str] = ()) -> tuple[str, ...]:
    """The texts of these paths that must not be recorded: each as given and in full with the folders
    that it lies in, and each of their names alone but for common words; and these names. Each also as
    JSON writes it, and JSON in JSON, as in the journal. Longest first."""
    found: set[str] = set(names)
    for given in (path for path in paths if path):
        for path in (Path(given), Path(given).absolute(), Path(given).resolve()):
            found |= {str(p) for p in (path, *path.parents) if len(p.parts) > 1}
            found |= {name for part in path.parts for name in (part, Path(part).stem)}
    kept = {t for t in found if len(t) > _FEW and t not in _WORDS}
    written = {json.dumps(t)[1:-1] for t in kept}
    return tuple(sorted(kept | written | {json.dumps(t)[1:-1] for t in written}, key=_order))


def _order(text: str) -> tuple[int, str]:
    return -len(text), text


def scrub_text(text: str, private: Sequence[str]) -> str:
    """The text without any of the private ones; names of folders and files only as whole words."""
    for secret in private:
        if secret not in text:
            continue
        if "/" in secret:
            text = text.replace(secret, HIDDEN)
        else:
            # A name before a colon in JSON is one of ours: without it the entry would not read.
            text = re.sub(rf'(?<![\w.-]){re.escape(secret)}(?![\w-])(?!\\*":)', HIDDEN, text)
    return text


def scrub_values(values: Any, private: Sequence[str]) -> Any:
    """The same of every text in dicts, lists and tuples."""
    if isinstance(values, str):
        return scrub_text(values, private)
    if isinstance(values, Mapping):
        return {scrub_text(str(k), private): scrub_values(v, private) for k, v in values.items()}
    if isinstance(values, (list, tuple)):
        return [scrub_values(v, private) for v in values]
    return values


def scrub(
    data: bytes,
    private: Sequence[str],
    parse: Callable[[bytes], tuple[Any, Callable[[Any], bytes]]],
) -> bytes:
    """A serialised message without private texts.

    Args:
        parse: gives the message of the bytes and what makes bytes of it; called only where one of
            the texts is there.
    """
    if not any(text.encode() in data for text in private):
        return data
    message, serialise = parse(data)
    _scrub_fields(message, private)
    return serialise(message)


def _scrub_fields(message: Any, private: Sequence[str]) -> None:
    for name in message.get_fields_and_field_types():
        if name == "key":  # of a KeyValue: our own words, by which it is read
            continue
        value = getattr(message, name)
        if isinstance(value, str):
            setattr(message, name, scrub_text(value, private))
        elif isinstance(value, list):
            if value and isinstance(value[0], str):
                setattr(message, name, [scrub_text(v, private) for v in value])
            else:
                for item in value:
                    if hasattr(item, "get_fields_and_field_types"):
                        _scrub_fields(item, private)
        elif hasattr(value, "get_fields_and_field_types"):
            _scrub_fields(value, private)
