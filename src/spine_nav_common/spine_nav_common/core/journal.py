# SPDX-License-Identifier: Apache-2.0
"""The form of a journal: what a node that computes was told and did, in order, so that its run can be
computed again bit by bit.

An entry is one line of JSON with `op`, which says of what kind it is; the package that keeps the
journal says what each kind holds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

VERSION = 1


class JournalError(ValueError):
    """A journal does not hold what it takes to go on with it."""


@cache
def code_sha256(cores: Iterable[str]) -> str:
    """Hash of the source of some packages, such as those that a result is computed by."""
    digest = hashlib.sha256()
    for name in cores:
        (folder,) = import_module(name).__path__
        for path in sorted(Path(folder).glob("*.py")):
            digest.update(f"{name} {path.name}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def entry_text(op: str, life: str, number: int, **values: Any) -> str:
    """One entry as a line of JSON. life: of the process; number: counts its entries from 0."""
    return json.dumps({"v": VERSION, "op": op, "life": life, "n": number, **values})


def read_entry(text: str) -> dict[str, Any]:
    """The fields of an entry. Raises JournalError: damaged, or of a version that is not known."""
    try:
        values = json.loads(text)
        if values["v"] != VERSION:
            raise JournalError(f"a journal of version {values['v']}, known is {VERSION}")
        return {
            "op": str(values["op"]),
            "life": str(values["life"]),
            "n": int(values["n"]),
            **values,
        }
    except (KeyError, TypeError, ValueError) as error:
        raise JournalError(f"no journal entry: {error!r}") from error
