# SPDX-License-Identifier: Apache-2.0
"""Poses, pictures and a film of a session, read back by others' readers."""

from __future__ import annotations

from dataclasses import asdict, replace

import cv2
import numpy as np
import pytest
import session_support as support

from spine_nav_common.core.case import load_case, write_case
from spine_nav_common.core.images import encode_image
from spine_nav_common.core.journal import entry_text
from spine_nav_common.core.live_plan import PlanChange, PlanDesk
from spine_nav_common.core.outputs import read_poses
from spine_nav_common.core.recording_writer import TYPES
from spine_nav_common.core.types import Status
from spine_nav_display.core.session_audit import timeline
from spine_nav_display.core.session_folder import SessionError, SessionFolder, create_session
from spine_nav_display.core.session_media import (
    drawn,
    write_csv,
    write_film,
    write_screenshots,
    write_tum,
)
from spine_nav_display.core.session_reading import open_session
from spine_nav_display.core.session_stream import Item, Stream
from spine_nav_display.rehearsal import T_CAMERA_CT, result, small_case
from spine_registration.core.journal import FrameEntry

INFO, STRING = "sensor_msgs/msg/CameraInfo", "std_msgs/msg/String"
COLOUR = "/camera/camera/color"
WIDTH, HEIGHT, FOCAL = 320, 240, 300.0
START_NS = 1_000_000_000_000
CORNER = (slice(200, 215), slice(250, 300))  # where nothing is drawn over the image


def header(stamp_ns):
    kind = TYPES.types["builtin_interfaces/msg/Time"]
    stamp = kind(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return TYPES.types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera")


def item(topic, kind, log_ns, **fields):
    data = TYPES.serialize_cdr(TYPES.types[kind](**fields), kind)
    return Item(topic, kind, log_ns, bytes(data), log_ns if kind == support.IMAGE else None)


def info(stamp_ns):
    roi = TYPES.types["sensor_msgs/msg/RegionOfInterest"](
        x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
    )
    K = np.array([FOCAL, 0, WIDTH / 2, 0, FOCAL, HEIGHT / 2, 0, 0, 1.0])
    P = np.array([FOCAL, 0, WIDTH / 2, 0, 0, FOCAL, HEIGHT / 2, 0, 0, 0, 1.0, 0])
    return item(
        f"{COLOUR}/camera_info", INFO, stamp_ns, header=header(stamp_ns), height=HEIGHT, width=WIDTH,
        distortion_model="plumb_bob", d=np.zeros(5), k=K, r=np.eye(3).ravel(), p=P,
        binning_x=0, binning_y=0, roi=roi,
    )  # fmt: skip


def grey(index):
    return 40 + 15 * index


@pytest.fixture
def case(tmp_path):
    return load_case(write_case(tmp_path / "case", small_case()))


@pytest.fixture
def recorded(tmp_path, case):
    """Ten frames at 10 Hz, each of a grey of its own, then two seconds of nothing, then one more;
    `add` puts more into the record."""

    def record(more=()):
        folder = tmp_path / "session"
        create_session(folder, {"source": "test", "case": {"sha256": case.sha256}})
        target = SessionFolder(folder)
        pictures, events = Stream(target, "pictures"), Stream(target, "events")
        stamps = [START_NS + i * 100_000_000 for i in range(10)] + [START_NS + 2_900_000_000]
        for i, stamp_ns in enumerate(stamps):
            pixels = np.full((HEIGHT, WIDTH, 3), grey(i), np.uint8)
            fields = {**encode_image(pixels, "rgb8"), "header": header(stamp_ns)}
            pictures.put(item(f"{COLOUR}/image_raw", support.IMAGE, stamp_ns, **fields))
            pictures.put(info(stamp_ns))
            entry = FrameEntry(stamp_ns, 0, None, stamp_ns)
            text = entry_text("frame", "a", i, **asdict(entry))
            events.put(item("/spine/registration/journal", STRING, stamp_ns, data=text))
        for each in more:
            events.put(each)
        assert events.close() and pictures.close()
        target.close(stamps[-1], {})
        session = open_session(folder)
        session.manifest["started_ns"] = START_NS
        lost = {"L3": (Status.LOST, "covered")}
        for i, stamp_ns in enumerate(stamps):
            shown = result(stamp_ns, lost if i == 4 else None, moved_m=1e-3 * i)
            session.shown[stamp_ns] = stamp_ns, shown
        return session, stamps

    return record


def test_poses_come_back_from_tum_and_csv(recorded, tmp_path):
    session, stamps = recorded()
    files = write_tum(session, tmp_path)
    assert [f.name for f in files] == ["L2.tum", "L3.tum", "L4.tum"]
    for level, count in (("L2", 11), ("L3", 10)):  # one was lost
        rows = np.loadtxt(tmp_path / f"{level}.tum")
        assert rows.shape == (count, 8)
        at = [s for i, s in enumerate(stamps) if level != "L3" or i != 4]
        np.testing.assert_allclose(rows[:, 0] * 1e9, at, atol=1e3)
        np.testing.assert_allclose(rows[0, 1:4], T_CAMERA_CT[:3, 3], atol=1e-9)
        w, (x, y, z) = rows[0, 7], rows[0, 4:7]
        turned = [1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w)]
        np.testing.assert_allclose(turned, T_CAMERA_CT[:3, 0], atol=1e-8)
    poses = read_poses(write_csv(session, tmp_path))
    assert len(poses) == 33
    (gone,) = [p for p in poses if p.status is Status.LOST]
    assert (gone.stamp_ns, gone.level, gone.T_camera_ct) == (stamps[4], "L3", None)
    np.testing.assert_allclose(poses[-1].T_camera_ct[0, 3], T_CAMERA_CT[0, 3] + 0.010, atol=1e-9)


def frames(path):
    film, found = cv2.VideoCapture(str(path)), []
    while True:
        read, image = film.read()
        if not read:
            return film.get(cv2.CAP_PROP_FPS), found
        found.append(image)


def test_a_decoder_reads_each_picture_of_the_film_at_its_time(recorded, case, tmp_path):
    session, _ = recorded()
    fps, found = frames(write_film(session, case, tmp_path, fps=20.0))
    assert fps == 20.0 and len(found) == 59, "2.9 s and the last picture"
    for i in range(10):
        for image in found[2 * i : 2 * i + 2]:
            assert image[CORNER].mean() == pytest.approx(grey(i), abs=5)
    assert found[58][CORNER].mean() == pytest.approx(grey(10), abs=5)


def test_a_picture_that_stands_in_the_film_is_covered(recorded, case, tmp_path):
    session, _ = recorded()
    _, found = frames(write_film(session, case, tmp_path, fps=20.0))
    at = [image[CORNER].mean() for image in found]
    assert at[27] == pytest.approx(grey(9), abs=5), "0.45 s old"
    assert all(value == pytest.approx(24, abs=5) for value in at[30:57])


def test_the_film_and_the_pictures_show_guidance_of_tracked_levels_alone(recorded, case, tmp_path):
    session, stamps = recorded()
    with_L3, without = (next(iter(drawn(session, case, {stamps[i]}))) for i in (3, 4))
    assert with_L3.tracked == ("L2", "L3", "L4") and without.tracked == ("L2", "L4")
    green = [
        int(((p.image[..., 1].astype(int) - p.image[..., 0]) > 40).sum())
        for p in (with_L3, without)
    ]
    assert green[1] < green[0]
    files = write_screenshots(session, case, tmp_path, stamps[3:5])
    assert [f.name for f in files] == [f"{s}.png" for s in stamps[3:5]]
    assert cv2.imread(str(files[0])).shape == (2 * HEIGHT, 2 * WIDTH, 3)


def state(desk, log_ns):
    return item("/spine/plan/state", STRING, log_ns, data=desk.document())


def test_a_picture_has_the_plan_that_held_then(recorded, case, tmp_path):
    desk = PlanDesk(case, margin_mm=0.0)
    old = case.plan[0]
    change = desk.propose(replace(old, target_m=old.target_m + (0.006, 0.0, 0.004)), "test")
    assert isinstance(change, PlanChange)
    asked = state(desk, START_NS + 250_000_000)
    desk.answer(change.id, True)
    session, stamps = recorded([asked, state(desk, START_NS + 450_000_000)])
    now = {p.stamp_ns: p.image for p in drawn(session, case)}
    own = {p.stamp_ns: p.image for p in drawn(replace_plans(session), case)}
    same = [bool((now[s] == own[s]).all()) for s in stamps]
    assert same == [True] * 5 + [False] * 6
    told = [m.text for m in timeline(session) if m.kind == "plan"]
    assert len(told) == 2 and "waits" in told[0] and "confirmed" in told[1]


def replace_plans(session):
    return replace(session, plans=[])


def test_another_case_and_a_session_without_pictures_are_refused(recorded, case, tmp_path):
    session, _ = recorded()
    with pytest.raises(SessionError, match="another case"):
        write_film(session, replace(case, sha256="0" * 64), tmp_path)
    for path in session.folder.glob("pictures_*"):
        path.unlink()
    with pytest.raises(SessionError, match="no colour images|no frame with pictures"):
        write_film(session, case, tmp_path)
    assert not (tmp_path / "session.mp4").exists()
