# SPDX-License-Identifier: Apache-2.0
"""Whether the bytes of a session's record are those that were written.

The hashes tell damage and careless changes. They are no signature: who can write the folder can write
new hashes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .session_folder import (
    CHUNKS,
    INPUTS,
    ChunkLine,
    chunk_line,
    manifest_sha256,
    read_manifest,
    sha256_of,
)

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Finding:
    """Something about a file. damage: it is not as it was written; else it is only not vouched for."""

    file: str
    text: str
    damage: bool

    def __str__(self) -> str:
        return f"{self.file}: {self.text}"


@dataclass(frozen=True)
class Verified:
    """What was checked: chunks, their bytes, and what was found."""

    chunks: int
    bytes: int
    findings: tuple[Finding, ...]

    @property
    def damaged(self) -> bool:
        """Whether anything is not as it was written."""
        return any(f.damage for f in self.findings)


def verify(folder: str | Path) -> Verified:
    """Compare every byte with the hashes of the manifest and of chunks.csv. Raises SessionError."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    found: list[Finding] = []
    if manifest_sha256(manifest) != manifest.get("sha256"):
        found.append(Finding("manifest.json", "changed since it was written", True))
    lines = _lines(folder, manifest, found)
    for name in sorted({line.file for line in lines} | set(manifest["files"])):
        known = manifest["files"].get(name, {})
        if Path(name).name != name:
            found.append(Finding(name, "no file of a session is called so", True))
            continue
        found += _file(folder / name, [line for line in lines if line.file == name], known)
    named = {line.file for line in lines} | set(manifest["files"])
    for path in sorted(folder.iterdir()):
        if path.suffix == ".mcap" and path.name not in named:
            found.append(Finding(path.name, "no chunk of it is vouched for", False))
        elif path.suffix == ".db3" or path.name == "metadata.yaml":
            # A reader of recordings follows it: to messages that were never recorded, or past some.
            found.append(Finding(path.name, "no recorder of sessions wrote this", True))
    if "exported" in manifest:  # a copy keeps the hashes of the calibrations alone
        return Verified(len(lines), sum(line.bytes for line in lines), tuple(found))
    for number, expected in enumerate(manifest.get("calibration", []), start=1):
        path = folder / INPUTS / f"calibration_{number}.yaml"
        if not path.is_file() or sha256_of(path) != expected:
            found.append(Finding(f"{INPUTS}/{path.name}", "changed since it was used", True))
    return Verified(len(lines), sum(line.bytes for line in lines), tuple(found))


def _lines(folder: Path, manifest: dict[str, Any], found: list[Finding]) -> list[ChunkLine]:
    """The chunks that were noted; a last line that is not whole is no news."""
    path = folder / CHUNKS
    data = path.read_bytes() if path.is_file() else b""
    vouched = manifest.get("chunks") or {"bytes": 0, "sha256": hashlib.sha256().hexdigest()}
    if hashlib.sha256(data[: vouched["bytes"]]).hexdigest() != vouched["sha256"]:
        found.append(Finding(CHUNKS, "changed since it was written", True))
    lines = []
    for number, text in enumerate(
        data[: data.rfind(b"\n") + 1].decode("utf-8", "replace").split("\n")
    ):
        if not text:
            continue
        try:
            lines.append(chunk_line(text))
        except ValueError:
            found.append(Finding(CHUNKS, f"line {number + 1} does not read", True))
    return lines


def _file(path: Path, lines: list[ChunkLine], known: dict[str, Any]) -> list[Finding]:
    if not path.is_file():
        return [Finding(path.name, "missing", True)]
    found: list[Finding] = []
    size = path.stat().st_size
    end = max((line.offset + line.bytes for line in lines), default=0)
    whole = hashlib.sha256()
    with path.open("rb") as file:
        for number, line in enumerate(lines, start=1):
            where = f"chunk {number} (bytes {line.offset} to {line.offset + line.bytes})"
            if line.offset + line.bytes > size:
                found.append(Finding(path.name, f"{where} is cut off at byte {size}", True))
                break
            file.seek(line.offset)
            part, left = hashlib.sha256(), line.bytes
            while left > 0 and (block := file.read(min(left, _BLOCK))):
                whole.update(block)
                part.update(block)
                left -= len(block)
            if part.hexdigest() != line.sha256:
                times = f"received {line.first_ns} to {line.last_ns}"
                found.append(Finding(path.name, f"{where} was changed, {times}", True))
        if known.get("finished") and found:
            end = size  # damage is told already; the index cannot be judged
        elif known.get("finished"):
            file.seek(end)
            left = known["bytes"] - end
            while left > 0 and (block := file.read(min(left, _BLOCK))):
                whole.update(block)
                left -= len(block)
            end = known["bytes"]
            if left or whole.hexdigest() != known["sha256"]:
                found.append(
                    Finding(path.name, "its index was changed; the chunks are whole", True)
                )
    if size > end:
        text = f"{size - end} bytes after the last chunk are not vouched for"
        found.append(Finding(path.name, text, False))
    return found
