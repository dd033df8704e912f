# SPDX-License-Identifier: Apache-2.0
"""Tables (CSV) and documents (JSON) on disk: written so that a crash keeps what was whole, and read
with line and remedy for what is wrong."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .errors import OutputError


def number_text(value: float, decimals: int, what: str) -> str:
    """Fixed decimals, no negative zero. Raises ValueError for NaN and infinity."""
    if not math.isfinite(value):
        raise ValueError(f"{what} is {value}: leave the field empty instead")
    text = f"{value:.{decimals}f}"
    return text[1:] if text.startswith("-") and not text.strip("-0.") else text


class Table:
    """A CSV file that grows by whole frames."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", encoding="ascii", newline="")
        self.append([columns])

    def append(self, rows: Iterable[Sequence[str]]) -> None:
        """Write rows in one piece and hand them to the operating system."""
        text = "".join(",".join(row) + "\n" for row in rows)
        self._file.write(text)
        self._file.flush()

    def close(self) -> None:
        """Safe to call twice."""
        self._file.close()


def table_rows(path: Path, *known: Sequence[str]) -> Iterable[tuple[str, dict[str, str]]]:
    """(field prefix, row) of a CSV file with exactly these columns, or those of an older form."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(path, "", f"not readable ({error})", "run replay first") from error
    reader = csv.DictReader(text.splitlines())
    if reader.fieldnames is None or tuple(reader.fieldnames) not in known:
        raise OutputError(
            path, "header", f"is {reader.fieldnames}", f"expected {','.join(known[0])}"
        )
    for number, row in enumerate(reader, start=2):
        if None in row or None in row.values():
            raise OutputError(
                path,
                f"line {number}",
                "it has another number of fields",
                "the file is damaged: run again",
            )
        yield f"line {number}", row


def write_json(path: str | Path, document: object) -> None:
    """Write JSON in one step: a reader sees the old file or the whole new one.

    Raises ValueError for NaN or infinity, which are no JSON.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def read_json(path: str | Path) -> dict[str, Any]:
    """A JSON object from a file. Raises OutputError."""
    path = Path(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(path, "", f"not readable ({error})", "run again") from error
    if not isinstance(document, dict):
        raise OutputError(path, "", "it holds no object", "run again")
    return document
