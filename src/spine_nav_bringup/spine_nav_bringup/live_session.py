# SPDX-License-Identifier: Apache-2.0
"""The record of a live run: the session's folder, and the parameters of the node that fills it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from spine_nav_common.core.case import load_case
from spine_nav_common.core.graph import NODES, use_case_values
from spine_nav_common.core.run import versions
from spine_nav_common.core.types import Case
from spine_nav_common.parameters import load_file
from spine_nav_common.ros.topics import COLOUR, DEPTH, LEFT, RIGHT
from spine_nav_display.core.session_folder import INPUTS, create_session, sha256_of
from spine_nav_display.core.session_private import private_texts, scrub_values

from .live_options import LiveOptions

RECORDER = "session_recorder"
_TOPICS = {
    "navigation": {"colour_topic": COLOUR, "depth_topic": DEPTH, "info_topic": ""},
    "stereo_tracker": {
        "left_topic": LEFT, "right_topic": RIGHT, "left_info_topic": "", "right_info_topic": "",
    },
}  # fmt: skip


def with_recorder(
    options: LiveOptions, use_case: str, values: dict[str, dict[str, Any]], case: Case | None
) -> dict[str, dict[str, Any]]:
    """Make the session's folder and give the nodes' values with those of its recorder, which starts
    before the others and ends after them.

    Raises SessionError: the folder is in use or cannot be written.
    """
    if options.session is None:
        return values
    kind, _, recording = options.source.partition(":")
    private = private_texts(
        [options.case, options.out, options.session, options.config, options.model, options.models,
         options.remap, Path(recording) if recording else None, Path.home(), *options.calibration],
        [case.name] if case is not None else [],
    )  # fmt: skip
    create_session(
        options.session,
        {
            "source": kind,
            "case": _about(case),
            "parameters": scrub_values(values, private),
            "calibration": [sha256_of(path) for path in options.calibration],
            "versions": versions(),
        },
    )
    _keep_inputs(options)
    recorder: dict[str, Any] = {"session": str(options.session.absolute()), "private": private}
    if case is not None:
        recorder["levels"] = case.exposed_levels
    for node, names in _TOPICS.items():
        if node in values:
            given = {n: values[node].get(n, default) for n, default in names.items()}
            recorder |= {f"cameras.{n}": v for n, v in given.items() if v}
            if "image_reliability" in values[node]:
                recorder["image_reliability"] = values[node]["image_reliability"]
    values = {RECORDER: recorder, **values}
    if options.use_sim_time:
        recorder["use_sim_time"] = True
    return values


def recorder_of_launch(
    options: LiveOptions, scenes: Sequence[str], own: Mapping[str, Mapping[str, Any]]
) -> Path:
    """The parameters file of the recorder that a launch file starts; its session's folder is made
    now. The file stays out of the folder: it names what must not get into the record.

    own: what the launch file gives each node beside `options.config`. Raises SessionError,
    CaseError, ParameterError.
    """
    use_case = options.source.partition(":")[0]
    file = load_file(options.config, NODES) if options.config else {}
    case = load_case(options.case) if options.case else None
    values = use_case_values(use_case, file, own, scenes=scenes)
    given = with_recorder(options, use_case, values, case)[RECORDER]
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}
    number, name = tempfile.mkstemp(
        prefix="spinenav_recorder_", suffix=".yaml"
    )  # its owner's alone
    with os.fdopen(number, "w", encoding="utf-8") as out:
        yaml.safe_dump({f"/**/{RECORDER}": {"ros__parameters": plain}}, out, sort_keys=False)
    return Path(name)


def _about(case: Case | None) -> dict[str, Any] | None:
    """No name of it: a case is named by its hash."""
    if case is None:
        return None
    return {
        "sha256": case.sha256,
        "frame": case.frame,
        "levels": list(case.meshes),
        "exposed_levels": list(case.exposed_levels),
    }


def _keep_inputs(options: LiveOptions) -> None:
    """Copies of small files that decide a result, under names that say nothing of their folders."""
    folder = Path(options.session or "") / INPUTS
    for number, path in enumerate(options.calibration, start=1):
        folder.mkdir(exist_ok=True)
        shutil.copyfile(path, folder / f"calibration_{number}.yaml")
