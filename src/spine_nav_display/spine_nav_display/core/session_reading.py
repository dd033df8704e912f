# SPDX-License-Identifier: Apache-2.0
"""A session's record read back: its journal, what was shown, and the pictures behind each frame."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spine_nav_common.core.journal import JournalError, read_entry
from spine_nav_common.core.recorded_messages import ROLES
from spine_nav_common.core.recording_writer import TYPES
from spine_nav_common.core.shown import result_from_messages, stamp_ns_of, status_fields
from spine_nav_common.core.storage import RawMessage, Storage, StorageCut, open_storage
from spine_nav_common.core.types import NavigationResult
from spine_registration.core.journal import FrameEntry, frame_entry

from .session_folder import SessionError, read_manifest

_JOURNAL, _STATUS, _POSES = "/registration/journal", "/registration/status", "/vertebra_poses"
_SCREWS, _BENDING = "/screws/status", "/guidance/bending/status"
_CHECK = "/landmarks/status"
_PLAN = "/plan/state"
_STAGES, _EVENT = "/registration/latency", "/display/events"
_LATE_NS = (
    5_000_000_000  # a picture is received this much later than the word of its frame, at most
)


@dataclass(frozen=True)
class Noted:
    """An entry of the journal and when the recorder received it. frame: of an entry of that kind."""

    log_ns: int
    values: dict[str, Any]
    frame: FrameEntry | None = None

    @property
    def op(self) -> str:
        """What it tells, see spine_registration.core.journal."""
        return str(self.values["op"])


@dataclass(frozen=True)
class Pictures:
    """The messages of one frame; depth None: it had none."""

    colour: Any
    depth: Any | None
    info: Any


@dataclass(frozen=True)
class Screw:
    """A head as it was published. name: level and side, or its track."""

    name: str
    bound95_mm: float
    hidden: bool


@dataclass(frozen=True)
class Screws:
    """What was published of screws and rods at one stamp, or why nothing."""

    log_ns: int
    stamp_ns: int
    screws: tuple[Screw, ...] = ()
    rods: tuple[str, ...] = ()
    reason: str = ""


@dataclass
class Session:
    """What was read of a session at once; pictures are streamed.

    Attributes:
        folder: of it. manifest: its content.
        lives: journals in order of their first entry, one per process (and configuration) of the
            navigation; each in the order in which things were done.
        shown: stamp to the first result that was published of it; withdrawn: (log_ns, stamp, reason)
            of those that were taken back later.
        complete: stamps of results of which every message was published.
        screws: of each stereo pair. bending: (log_ns, stamp, words) of the rod's guidance.
        checks: (log_ns, fields) of each verdict on a level's landmarks; see navigation_check.
        plans: (log_ns, content) of the live plan, each time that something was said of it.
        events: (log_ns, content) of what others noted.
        unexplained: stamps of results that were shown and that no entry of the journal explains.
        notes: what is missing, in words. cut: why the record ends early, "" = it does not.
    """

    folder: Path
    manifest: dict[str, Any]
    lives: list[list[Noted]] = field(default_factory=list)
    shown: dict[int, tuple[int, NavigationResult]] = field(default_factory=dict)
    withdrawn: list[tuple[int, int, str]] = field(default_factory=list)
    complete: set[int] = field(default_factory=set)
    screws: list[Screws] = field(default_factory=list)
    bending: list[tuple[int, int, str]] = field(default_factory=list)
    checks: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    plans: list[tuple[int, str]] = field(default_factory=list)
    events: list[tuple[int, str]] = field(default_factory=list)
    unexplained: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cut: str = ""


def deserialise(raw: RawMessage) -> Any:
    """The message of its bytes; rosbags' object."""
    return TYPES.deserialize_cdr(raw.data, raw.msgtype)


def stream(
    storage: Storage, topics: Collection[str], cut: Callable[[str], None]
) -> Iterator[RawMessage]:
    """Messages as far as they read; cut: told why no further."""
    try:
        yield from storage.messages(topics)
    except StorageCut as error:
        cut(str(error))


def open_session(folder: str | Path) -> Session:
    """Read all but the pictures of a session. Raises SessionError, RecordingError."""
    folder = Path(folder)
    session = Session(folder, read_manifest(folder))
    storage = open_storage(folder)

    def ends(suffix: str) -> list[str]:
        return [topic for topic in storage.topics if topic.endswith(suffix)]

    journals, statuses, poses = ends(_JOURNAL), ends(_STATUS), ends(_POSES)
    stages: set[int] = set()
    lives: dict[str, dict[int, Noted]] = {}
    results = _Results(session)

    def cut(why: str) -> None:
        session.cut = why

    wanted = [*journals, *statuses, *poses]
    wanted += [t for end in (_STAGES, _SCREWS, _BENDING, _CHECK, _PLAN, _EVENT) for t in ends(end)]

    for raw in stream(storage, wanted, cut):
        message = deserialise(raw)
        if raw.topic in journals:
            _note(session, lives, raw.log_ns, message.data)
        elif raw.topic in poses:
            results.poses(message)
        elif raw.topic in statuses:
            results.status(raw.log_ns, message)
        elif raw.topic.endswith(_SCREWS):
            session.screws.append(_screws(raw.log_ns, message))
        elif raw.topic.endswith(_BENDING):
            words = "; ".join(dict.fromkeys(s.message for s in message.status if s.message))
            session.bending.append((raw.log_ns, stamp_ns_of(message.header.stamp), words))
        elif raw.topic.endswith(_CHECK):
            _note_checks(session, raw.log_ns, message)
        elif raw.topic.endswith(_PLAN):
            session.plans.append((raw.log_ns, message.data))
        elif raw.topic.endswith(_STAGES):
            stages.add(stamp_ns_of(message.header.stamp))
        else:
            session.events.append((raw.log_ns, message.data))
    session.complete = stages & results.end()
    for life in lives.values():
        entries = [life[n] for n in sorted(life)]
        missing = max(life) + 1 - len(entries)
        if missing:
            session.notes.append(f"{missing} entries of the journal are missing")
        session.lives.append(entries)
    known = {n.frame.stamp_ns for life in session.lives for n in life if n.frame is not None}
    session.unexplained = sorted(session.shown.keys() - known) if session.lives else []
    if session.unexplained:
        few = ", ".join(map(str, session.unexplained[:3]))
        session.notes.append(
            f"{len(session.unexplained)} results were shown of frames that the journal does not have"
            f" ({few}): they cannot be computed again"
        )
    return session


def _note_checks(session: Session, log_ns: int, message: Any) -> None:
    """Verdicts that were not told before: the latched status repeats those of other levels."""
    for status in message.status:
        fields = {v.key: v.value for v in status.values} | {"text": status.message}
        last = next((f for _, f in reversed(session.checks) if f["level"] == fields["level"]), None)
        if fields.get("state") in ("passed", "failed") and fields != last:
            session.checks.append((log_ns, fields))


class _Results:
    """Joins status and poses as soon as both were read: kept as messages, those of an operation of
    hours would fill the memory."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._statuses: dict[int, tuple[int, Any]] = {}  # without poses yet
        self._arrays: dict[int, Any] = {}  # without a status yet
        self._stamps: tuple[set[int], set[int]] = (set(), set())  # of statuses, of poses

    def status(self, log_ns: int, message: Any) -> None:
        """The first of a stamp is what was shown; those after it take it back."""
        stamp_ns = stamp_ns_of(message.header.stamp)
        if stamp_ns in self._stamps[0]:
            taken_back = result_from_messages(message, None)
            reason = taken_back.levels[0].reason if taken_back.levels else ""
            self._session.withdrawn.append((log_ns, stamp_ns, reason))
            return
        self._stamps[0].add(stamp_ns)
        self._statuses[stamp_ns] = log_ns, message
        self._join(stamp_ns)

    def poses(self, message: Any) -> None:
        """The first of a stamp counts."""
        stamp_ns = stamp_ns_of(message.header.stamp)
        if stamp_ns not in self._stamps[1]:
            self._stamps[1].add(stamp_ns)
            self._arrays[stamp_ns] = message
            self._join(stamp_ns)

    def _join(self, stamp_ns: int, alone: bool = False) -> None:
        if stamp_ns in self._statuses and (alone or stamp_ns in self._arrays):
            log_ns, status = self._statuses.pop(stamp_ns)
            result = result_from_messages(status, self._arrays.pop(stamp_ns, None))
            self._session.shown[stamp_ns] = log_ns, result

    def end(self) -> set[int]:
        """Nothing more comes; stamps of which both were there."""
        for stamp_ns in list(self._statuses):
            self._join(stamp_ns, alone=True)
        return self._stamps[0] & self._stamps[1]


def _note(session: Session, lives: dict[str, dict[int, Noted]], log_ns: int, text: str) -> None:
    try:
        values = read_entry(text)
        frame = frame_entry(values) if values["op"] == "frame" else None
    except JournalError as error:
        session.notes.append(str(error))
        return
    # A recorder that was started again hears the last minute twice.
    lives.setdefault(values["life"], {}).setdefault(values["n"], Noted(log_ns, values, frame))


def _screws(log_ns: int, message: Any) -> Screws:
    """See spine_nav_common.ros.implants for what writes it."""
    screws, rods, reason = [], [], ""
    for item in message.status:
        fields = status_fields(item)
        if item.name.startswith("screw: "):
            name = f"{fields['level']} {fields['side']}".strip() or f"head {fields['track_id']}"
            screws.append(Screw(name, float(fields["bound95_mm"]), fields["hidden"] == "True"))
        elif item.name.startswith("rod: "):
            rods.append(item.name.removeprefix("rod: "))
        else:
            reason = fields.get("reason", "")
    stamp_ns = stamp_ns_of(message.header.stamp)
    return Screws(log_ns, stamp_ns, tuple(screws), tuple(rods), reason)


class PictureReader:
    """The pictures of frames in the order of the journal, streamed: none is kept longer than needed.

    Args:
        session: of which.
        on_info: called with the stamp of each camera_info of the colour camera, in their order.
        only: stamps of the frames that will be asked for; None = every entry's.
    """

    def __init__(
        self,
        session: Session,
        on_info: Callable[[int], None] = lambda stamp: None,
        only: Collection[int] | None = None,
    ) -> None:
        storage = open_storage(session.folder)
        roles = {}
        for role in ("colour", "depth", "colour info"):
            found = [name for name in ROLES[role] if name in storage.topics]
            roles[role] = found[0] if found else ""
        if not roles["colour"]:
            raise SessionError(
                session.folder, "", "it holds no colour images", "only its events can be read"
            )
        self._roles, self._on_info, self._session = roles, on_info, session
        self._stream = stream(storage, [t for t in roles.values() if t], self._cut)
        self._needed = self._count_needed(session, only)
        self._held: dict[tuple[str, int], deque[RawMessage]] = defaultdict(deque)
        self._log_ns = 0
        self._ended = False

    def _cut(self, why: str) -> None:
        self._session.cut = self._session.cut or why

    def _count_needed(
        self, session: Session, only: Collection[int] | None
    ) -> Counter[tuple[str, int]]:
        needed: Counter[tuple[str, int]] = Counter()
        for life in session.lives:
            for noted in life:
                if noted.frame is not None and (only is None or noted.frame.stamp_ns in only):
                    needed.update(self._keys(noted.frame))
        return needed

    def _keys(self, frame: FrameEntry) -> list[tuple[str, int]]:
        keys = [
            (self._roles["colour"], frame.stamp_ns),
            (self._roles["colour info"], frame.info_ns),
        ]
        if frame.depth_ns is not None:
            keys.append((self._roles["depth"], frame.depth_ns))
        return keys

    def fetch(self, noted: Noted) -> Pictures | str:
        """The pictures of a frame's entry, or which of them is missing.

        Every entry is asked for once, in the order of the journal.
        """
        if noted.frame is None:
            raise ValueError("this entry is of no frame")
        keys = self._keys(noted.frame)
        while not self._ended and any(not self._held[key] for key in keys):
            if self._log_ns > noted.log_ns + _LATE_NS:
                break
            self._read_on()
        missing = [topic for topic, stamp in keys if not self._held[topic, stamp]]
        found = {topic: self._take(topic, stamp) for topic, stamp in keys}
        if missing:
            return f"not in the record: {', '.join(missing)}"
        messages = {topic: deserialise(raw) for topic, raw in found.items() if raw is not None}
        r = self._roles
        depth = None if noted.frame.depth_ns is None else messages[r["depth"]]
        return Pictures(messages[r["colour"]], depth, messages[r["colour info"]])

    def _take(self, topic: str, stamp_ns: int) -> RawMessage | None:
        key = (topic, stamp_ns)
        self._needed[key] -= 1
        held = self._held[key]
        if not held:
            del self._held[key]
            return None
        if self._needed[key] > 0 and topic == self._roles["colour info"]:
            return held[0]  # one camera_info may serve several frames
        raw = held.popleft()
        if not held:
            del self._held[key]
        return raw

    def _read_on(self) -> None:
        raw = next(self._stream, None)
        if raw is None:
            self._ended = True
            return
        self._log_ns = raw.log_ns
        stamp_ns = stamp_ns_of(deserialise_header(raw))
        if raw.topic == self._roles["colour info"]:
            self._on_info(stamp_ns)
        if self._needed[raw.topic, stamp_ns] > 0:
            self._held[raw.topic, stamp_ns].append(raw)

    def close(self) -> None:
        """Read on to the end, so that all camera_infos are told."""
        while not self._ended:
            self._read_on()


@dataclass(frozen=True)
class _Stamp:
    sec: int
    nanosec: int


def deserialise_header(raw: RawMessage) -> _Stamp:
    """The stamp of a message that begins with a header, without reading the rest of it."""
    order = "little" if raw.data[1] & 1 else "big"
    sec = int.from_bytes(raw.data[4:8], order, signed=True)  # type: ignore[arg-type]
    return _Stamp(sec, int.from_bytes(raw.data[8:12], order))  # type: ignore[arg-type]
