# SPDX-License-Identifier: Apache-2.0
"""A picture as it goes to the pages: length of the words, words in JSON, JPEG."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass

from .core.messages import Moment

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Packed:
    """data: what is sent, the same bytes to every page. jpeg: the picture in it."""

    name: str
    number: int
    data: bytes
    jpeg: bytes
    stamp_ns: int


def pack(name: str, number: int, jpeg: bytes, moment: Moment) -> Packed:
    """A picture of a camera and when it was taken."""
    words = json.dumps({"name": name, "n": number, **moment.fields()}).encode()
    return Packed(name, number, _LENGTH.pack(len(words)) + words + jpeg, jpeg, moment.stamp_ns)


def unpack(data: bytes) -> tuple[dict[str, object], bytes]:
    """Words and JPEG of a packed picture."""
    (length,) = _LENGTH.unpack_from(data)
    end = _LENGTH.size + length
    return json.loads(data[_LENGTH.size : end]), data[end:]
