# SPDX-License-Identifier: Apache-2.0
"""A prepared case kept on disk, so that a navigation that was started again is back in seconds.

What is kept is bound to the case's files, to the code that prepares it and to its libraries; what
does not read whole, or is of anything else, is prepared anew.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import open3d as o3d

from spine_nav_common.core import case as case_module
from spine_nav_common.core import landmarks
from spine_nav_common.core.types import Case

from .core import model as model_module
from .core.model import SpineModel, build_model

KEPT = 8  # files; the oldest go


def store_folder() -> Path:
    """Where prepared cases are kept: $XDG_CACHE_HOME/spinenav, ~/.cache/spinenav."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "spinenav" / "models"


def prepared(case: Case, folder: Path | None = None) -> SpineModel:
    """`build_model(case)`, from disk where it was prepared before. A disk that cannot be read or
    written costs time and nothing else."""
    folder = folder or store_folder()
    file = folder / f"{_key(case)}.npz"
    try:
        return _read(file)
    except Exception:  # noqa: BLE001 - not there, or damaged in whatever way
        model = build_model(case)
    with suppress(OSError):
        _write(file, model)
    return model


def _key(case: Case) -> str:
    """Of everything that the model is made of. The case's hash is not enough: a caller may have
    taken levels out of it."""
    digest = hashlib.sha256(f"{case.sha256} {case.orientation} {case.exposed_levels}".encode())
    for level in sorted(case.meshes):
        mesh = case.meshes[level]
        for array in (mesh.vertices_m, mesh.faces, case.plan_points_m(level)):
            digest.update(f"{level} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    for module in (model_module, case_module, landmarks):
        digest.update(Path(str(module.__file__)).read_bytes())
    digest.update(f"{np.__version__} {o3d.__version__}".encode())
    return digest.hexdigest()


def _read(file: Path) -> SpineModel:
    with np.load(file, allow_pickle=False) as kept:  # zip: a damaged byte fails its checksum
        values: dict[str, Any] = {name: kept[name] for name in kept.files}
    levels = tuple(str(level) for level in values.pop("levels"))
    values["plan_points_m"] = tuple(values.pop(f"plan_{i}") for i in range(len(levels)))
    if set(values) != {f.name for f in fields(SpineModel)} - {"levels"}:
        raise ValueError(f"{file}: of another version")
    return SpineModel(levels=levels, **values)


def _write(file: Path, model: SpineModel) -> None:
    """Atomic: a reader sees the whole file or none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    arrays = {f.name: getattr(model, f.name) for f in fields(model) if f.name != "plan_points_m"}
    arrays["levels"] = np.array(model.levels)
    arrays |= {f"plan_{i}": points for i, points in enumerate(model.plan_points_m)}
    part = file.with_suffix(f".{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            np.savez(stream, **arrays)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    oldest = sorted(file.parent.glob("*.npz"), key=lambda f: f.stat().st_mtime)
    for old in oldest[:-KEPT]:
        old.unlink(missing_ok=True)
