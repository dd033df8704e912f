# SPDX-License-Identifier: Apache-2.0
"""What every file of `spinenav calibrate` has: kind, version, and a hash of its values."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from .errors import CalibrationError


def kind_of(path: Path) -> str:
    """What a calibration file says that it is of; "" = it says nothing, or cannot be read."""
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return ""
    return str(said.get("kind", "")) if isinstance(said, dict) else ""


def refusal(path: Path, kind: str, field: str, why: str) -> CalibrationError:
    """The error of a file that cannot be used."""
    return CalibrationError(path, field, why, f"make it again: spinenav calibrate {kind}")


def write_values(path: Path, kind: str, version: int, values: dict[str, Any]) -> None:
    """Write values, which YAML and JSON must know, with kind, version and hash."""
    values = {"kind": kind, "version": version, **values}
    values["sha256"] = _sha256(values)
    path.write_text(
        yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=110),
        encoding="utf-8",
    )


def read_values(path: Path, kind: str, version: int) -> dict[str, Any]:
    """The values with their `sha256`; CalibrationError: another kind or version, or changed."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise refusal(path, kind, "file", f"it cannot be read: {error}") from error
    if not isinstance(values, dict) or values.get("kind") != kind:
        raise refusal(path, kind, "kind", f"it is no calibration of this kind ({kind})")
    if values.get("version") != version:
        said = values.get("version")
        raise refusal(path, kind, "version", f"version {said!r}, this program reads {version}")
    if values.get("sha256") != _sha256(values):
        raise refusal(
            path, kind, "sha256", "its values are not those that were written: it was changed"
        )
    return values


def _sha256(values: dict[str, Any]) -> str:
    text = json.dumps({k: v for k, v in values.items() if k != "sha256"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
