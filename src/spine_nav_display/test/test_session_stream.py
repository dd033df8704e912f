# SPDX-License-Identifier: Apache-2.0
"""The record on disks that are slow, full, torn or read-only: what is lost, and what is said."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import session_support as support
from session_support import Gate, Session, on_disk, picture, pictures, said, text, until

from spine_nav_common.core.errors import RecordingError
from spine_nav_display.core.session_folder import (
    CHUNKS,
    MANIFEST,
    SessionError,
    SessionFolder,
    create_session,
    manifest_sha256,
    read_manifest,
)
from spine_nav_display.core.session_verify import verify


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "session"


def findings(folder):
    return [str(f) for f in verify(folder).findings]


def test_what_is_put_is_read_back_in_order_and_vouched_for(folder):
    with Session(folder) as session:
        for number in range(50):
            session.events.put(text(number))
            session.pictures.put(picture(number))
    assert said(folder) == list(range(50)) and pictures(folder) == list(range(50))
    manifest = read_manifest(folder)
    assert manifest["sha256"] == manifest_sha256(manifest)
    assert manifest["ended_ns"] is not None
    assert manifest["streams"]["events"]["messages"] == 50
    checked = verify(folder)
    assert checked.findings == () and checked.chunks >= 2


def test_a_chunk_counts_while_the_session_goes_on(folder):
    """The manifest is replaced as chunks close, and is always whole."""
    with Session(folder) as session:
        seen = set()
        for number in range(3):
            session.events.put(text(number))
            on_disk(session.events, number + 1)
            manifest = read_manifest(folder)
            assert manifest["sha256"] == manifest_sha256(manifest)
            assert said(folder) == list(range(number + 1))
            assert not verify(folder).damaged
            seen.add(manifest["chunks"]["bytes"])
        assert len(seen) == 3


# -- refused before the start


def test_a_second_session_in_one_folder_is_refused(folder):
    create_session(folder, {})
    with pytest.raises(SessionError, match="recorded there already; name a folder"):
        create_session(folder, {})


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(folder):
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(SessionError, match="not empty"):
        create_session(folder, {})
    assert [p.name for p in folder.iterdir()] == ["thesis.txt"]


def test_two_recorders_of_one_session_are_refused(folder):
    with Session(folder), pytest.raises(SessionError, match="another process records"):
        SessionFolder(folder)


@pytest.fixture
def small_disk(tmp_path):
    """Makes small file systems in memory; needs the right to mount."""
    mounted = []

    def mount(options):
        path = tmp_path / f"disk{len(mounted)}"
        path.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "none", str(path)],
            capture_output=True, check=False,
        )  # fmt: skip
        if done.returncode:
            pytest.skip("this user may not mount a file system")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_read_only_disk_is_refused_with_what_to_do(small_disk):
    disk = small_disk("ro,size=1m")
    with pytest.raises(SessionError, match="cannot be written .*; name a folder on a disk"):
        create_session(disk / "session", {})


# -- a disk that fails in the middle


def test_a_full_disk_costs_pictures_and_says_so_and_goes_on_when_there_is_room(small_disk):
    disk = small_disk("size=3m")
    with Session(disk / "session") as session:
        for number in range(20):
            session.events.put(text(number))
        on_disk(session.events, 20)
        noise = [
            support.Item("/camera/image", support.IMAGE, 1, os.urandom(700_000), i)
            for i in range(8)
        ]
        for item in noise:
            session.pictures.put(item)
        until(lambda: session.pictures.problem)
        assert "No space left on device" in session.pictures.problem
        assert session.pictures.counts["pictures_left_out"] > 0
        # The rest of the room is taken by somebody else: now events cannot be written either.
        with (disk / "film").open("wb") as film, pytest.raises(OSError):
            while True:
                os.write(film.fileno(), b"x" * 4096)
        for number in range(20, 40):
            session.events.put(text(number))
        until(lambda: session.events.problem)
        (disk / "film").unlink()
        on_disk(session.events, 40)
        session.events.put(text(40))
        until(lambda: session.events.counts["messages"] == 41 and not session.events.problem)
        assert session.events.counts["messages_lost"] == 0
    assert said(disk / "session") == list(range(41))
    assert not verify(disk / "session").damaged


def test_a_limit_on_the_size_of_files_is_no_end(folder):
    """As a quota: the file cannot grow, another one is begun, nothing is lost."""
    code = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from session_support import *
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
with Session(Path({str(folder)!r})) as session:
    sent = 0
    while session.events.counts["messages"] < 300 or not list(session.folder.path.glob("events_0002.mcap")):
        session.events.put(text(sent)); sent += 1
        time.sleep(0.002)
print(sent)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said(folder) == list(range(int(done.stdout)))
    assert len(list(folder.glob("events_*.mcap"))) >= 2
    assert not verify(folder).damaged


def test_a_slow_disk_costs_pictures_only_and_makes_nobody_wait(folder):
    gate = Gate()
    with Session(folder, gate.make, most_bytes=1_000_000) as session:
        session.pictures.put(picture(0))
        session.events.put(text(0))
        until(gate.blocked.is_set)
        kept = [session.pictures.put(picture(n)) for n in range(1, 41)]
        for number in range(1, 2000):
            session.events.put(text(number))
        # The disk is still shut: every call has come back all the same.
        assert not gate.open.is_set()
        assert kept.count(False) == session.pictures.counts["pictures_left_out"] == 31
        gate.open.set()
    assert said(folder) == list(range(2000))
    assert pictures(folder) == list(range(10))
    assert read_manifest(folder)["streams"]["pictures"]["pictures_left_out"] == 31


def test_colour_and_depth_of_a_frame_are_left_out_together(folder):
    gate = Gate()
    with Session(folder, gate.make, most_bytes=250_000) as session:
        session.pictures.put(picture(0))
        until(gate.blocked.is_set)
        assert session.pictures.put(picture(1))
        assert not session.pictures.put(picture(2))
        small = support.Item("/camera/depth", support.IMAGE, 1, b"d" * 10, 2)
        assert not session.pictures.put(small), "its colour image was left out"
        gate.open.set()


def test_what_is_no_picture_takes_the_place_of_pictures(folder):
    gate = Gate()
    with Session(folder, gate.make, most_bytes=300_000) as session:
        session.pictures.put(picture(0))
        until(gate.blocked.is_set)
        session.pictures.put(picture(1))
        info = support.Item("/camera/info", support.TEXT, 1, b"i" * 150_000)
        session.pictures.put(info)
        assert session.pictures.counts["pictures_left_out"] == 1
        assert session.pictures.counts["messages_lost"] == 0
        gate.open.set()


def test_a_chunk_that_fails_half_way_leaves_nothing_of_itself(folder, monkeypatch):
    with Session(folder) as session:
        session.events.put(text(0))
        on_disk(session.events, 1)
        (first,) = folder.glob("events_*.mcap")
        size = first.stat().st_size
        real = os.fsync
        broken = []

        def fail_once(fd):
            if not broken and os.readlink(f"/proc/self/fd/{fd}").endswith(".mcap"):
                broken.append(fd)
                raise OSError(errno.EIO, "Input/output error")
            real(fd)

        monkeypatch.setattr(os, "fsync", fail_once)
        session.events.put(text(1))
        on_disk(session.events, 2)
        assert broken and first.stat().st_size == size
    assert said(folder) == [0, 1]


# -- a process that dies


_WRITER = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from session_support import *
session = Session(Path(sys.argv[1]))
number = 0
while True:
    session.events.put(text(number)); session.pictures.put(picture(number, 900_000))
    print(number, flush=True)
    number += 1
    time.sleep(0.01)
"""


def killed_session(folder, chunks=3):
    """A recorder that was killed after some chunks; the number of the last message that it took."""
    child = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    path = folder / CHUNKS
    until(
        lambda: (
            path.is_file()
            and all(path.read_text().count(name) >= chunks for name in ("events", "pictures"))
        )
    )
    child.send_signal(signal.SIGKILL)
    taken = child.communicate()[0].split()
    return int(taken[-1])


def times(folder, topic):
    from spine_nav_common.core.storage import StorageCut, open_storage

    found = []
    try:
        for raw in open_storage(folder).messages([topic]):
            found.append(raw.log_ns)
    except StorageCut:
        pass
    return found


def test_a_killed_recorder_leaves_all_but_the_last_second(folder):
    """By the stamps of what it took and what is left; a tenth of a second counts ten messages."""
    last = killed_session(folder)
    kept = said(folder)
    assert kept == list(range(len(kept))) and kept
    per_message_ns = (times(folder, "/spine/said")[-1] - times(folder, "/spine/said")[0]) / len(
        kept
    )
    assert (last - kept[-1]) * per_message_ns <= 1_000_000_000
    assert pictures(folder)[-1] >= kept[-1] % 256 - 100
    assert not verify(folder).damaged


def test_a_recorder_that_was_killed_is_followed_by_another_in_the_same_session(folder):
    killed_session(folder)
    before = said(folder)
    with (folder / CHUNKS).open("a") as file:
        file.write("events_0001.mcap,12")  # it died while it wrote this
    again = SessionFolder(folder)
    stream = support.Stream(again, support.EVENTS)
    stream.put(text(100_000))
    assert stream.close()
    again.close(time.time_ns(), {"events": stream.counts})
    assert said(folder) == [*before, 100_000]
    assert not verify(folder).damaged


# -- bytes that change afterwards


@pytest.fixture
def recorded(folder):
    with Session(folder) as session:
        for number in range(3):
            session.events.put(text(number))
            session.pictures.put(picture(number))
            on_disk(session.pictures, number + 1)
            on_disk(session.events, number + 1)
    return folder


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_flipped_byte_is_named_with_its_chunk(recorded, number):
    lines = [line for line in (recorded / CHUNKS).read_text().splitlines() if "pictures" in line]
    _, offset, size = lines[number - 1].split(",")[:3]
    flip(recorded / "pictures_0001.mcap", int(offset) + int(size) // 2)
    found = [f for f in verify(recorded).findings if f.damage]
    assert [str(f).partition(" (")[0] for f in found] == [f"pictures_0001.mcap: chunk {number}"]


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", [MANIFEST, CHUNKS])
def test_a_flipped_byte_of_the_hashes_is_named(recorded, name):
    path = recorded / name
    at = path.read_bytes().index(b"sha256" if name == MANIFEST else b"pictures") + 30
    data = bytearray(path.read_bytes())
    data[at] = ord("0") if data[at] != ord("0") else ord("1")
    path.write_bytes(bytes(data))
    assert any(f.startswith(name) for f in findings(recorded))


def test_an_index_that_was_changed_is_told_apart_from_the_chunks(recorded):
    path = recorded / "events_0001.mcap"
    flip(path, path.stat().st_size - 20)
    assert findings(recorded) == [f"{path.name}: its index was changed; the chunks are whole"]


def test_a_truncated_tail_is_named_and_the_rest_reads(recorded):
    path = recorded / "events_0001.mcap"
    lines = [line for line in (recorded / CHUNKS).read_text().splitlines() if "events" in line]
    offset = int(lines[-1].split(",")[1])
    os.truncate(path, offset + 10)
    assert any("chunk 3" in f and "cut off" in f for f in findings(recorded))
    assert said(recorded) == [0, 1]


@pytest.mark.parametrize("seed", range(8))
def test_a_power_cut_anywhere_leaves_what_was_vouched_for_before(recorded, seed):
    """Files cut at any byte, as after a lost tail: nothing raises, and what is left is in order."""
    rng = np.random.default_rng(seed)
    for path in (*recorded.glob("*.mcap"), recorded / CHUNKS):
        os.truncate(path, int(rng.integers(1, path.stat().st_size)))
    checked = verify(recorded)
    assert checked.findings
    try:
        kept = said(recorded)
    except RecordingError as error:  # cut before the first whole chunk
        assert "holds no message" in str(error) or "no MCAP" in str(error)
        return
    assert kept == list(range(len(kept)))


def test_a_missing_file_is_named(recorded):
    (recorded / "pictures_0001.mcap").unlink()
    assert findings(recorded) == ["pictures_0001.mcap: missing"]


def test_more_than_is_vouched_for_is_no_damage(recorded):
    with (recorded / "events_0001.mcap").open("ab") as file:
        file.write(b"x" * 5)
    checked = verify(recorded)
    assert not checked.damaged and "5 bytes after the last chunk" in str(checked.findings[0])


def test_a_manifest_of_a_later_version_is_refused(recorded):
    manifest = json.loads((recorded / MANIFEST).read_text())
    (recorded / MANIFEST).write_text(json.dumps({**manifest, "version": 2}))
    with pytest.raises(SessionError, match="use the program that wrote it"):
        verify(recorded)


def test_files_are_changed_when_they_grow_large(folder, monkeypatch):
    monkeypatch.setattr("spine_nav_display.core.session_stream.FILE_BYTES", 100)
    with Session(folder) as session:
        for number in range(3):
            session.events.put(text(number))
            on_disk(session.events, number + 1)
    assert len(list(folder.glob("events_*.mcap"))) == 3
    assert said(folder) == [0, 1, 2] and not verify(folder).findings


@pytest.mark.parametrize("name", ["session", "started_ns", "files", "streams", "chunks"])
def test_a_manifest_that_lacks_something_is_refused_in_words(recorded, name):
    path = recorded / MANIFEST
    manifest = json.loads(path.read_text())
    del manifest[name]
    path.write_text(json.dumps(manifest))
    with pytest.raises(SessionError, match="missing or of another kind"):
        verify(recorded)
