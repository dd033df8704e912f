# SPDX-License-Identifier: Apache-2.0
"""What a launch file gives the recorder of a session."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import yaml

from spine_nav_bringup.live_options import LiveOptions
from spine_nav_bringup.live_session import RECORDER, recorder_of_launch
from spine_nav_display.core.session_folder import SessionError

CONFIG = Path(__file__).parents[3] / "config" / "replay.yaml"
LEFT = {"stereo_tracker": {"left_topic": "/or/pair/left/image_rect"}}


@pytest.fixture
def options(tmp_path):
    session = tmp_path / "Mueller_Anna" / "session"
    session.parent.mkdir()
    source = f"replay:{tmp_path / 'Mueller_Anna' / 'recording'}"
    return LiveOptions(None, source, session, CONFIG, session=session)


def parameters(file: Path) -> dict:
    return yaml.safe_load(file.read_text())[f"/**/{RECORDER}"]["ros__parameters"]


def test_the_recorder_hears_the_topics_that_the_launch_file_gives(options) -> None:
    given = parameters(recorder_of_launch(options, ("stereo",), LEFT))
    assert given["cameras.left_topic"] == "/or/pair/left/image_rect"
    assert given["cameras.right_topic"] == "/stereo/right/image_rect"
    assert "cameras.colour_topic" not in given, "no RGB-D camera in this scene"
    assert given["session"] == str(options.session)


def test_what_is_private_is_told_to_the_recorder_and_not_to_the_record(options) -> None:
    file = recorder_of_launch(options, ("stereo",), LEFT)
    assert any("Mueller" in text for text in parameters(file)["private"])
    assert options.session not in file.parents
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    written = [p for p in options.session.rglob("*") if p.is_file()]
    assert written and not any(b"Mueller" in p.read_bytes() for p in written)


def test_a_session_that_is_there_is_not_written_over(options) -> None:
    recorder_of_launch(options, ("stereo",), LEFT)
    with pytest.raises(SessionError):
        recorder_of_launch(options, ("stereo",), LEFT)
