# SPDX-License-Identifier: Apache-2.0
"""A session's record read back: its journal, what was shown, and the pictures behind each frame."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spine_nav_common.core.journal import JournalError, read_entry
from spine_nav_common.core.recording_writer import TYPES
from spine_nav_common.core.roles import ROLES
from spine_nav_common.core.shown import result_from_messages, stamp_ns_of, status_fields
from spine_nav_common.core.shown_implants import implants_from_messages
from spine_nav_common.core.storage import RawMessage, Storage, StorageCut, open_storage
from spine_nav_common.core.types import NavigationResult
from spine_registration.core.journal import FrameEntry, frame_entry
from stereo_screw_tracker.core.journal import PairEntry, pair_entry

from .session_folder import SessionError, read_manifest
from .session_joined import Joined
from .session_pairs import Screws, ShownPair, screws_of, shown_pair

_JOURNAL, _STATUS, _POSES = "/registration/journal", "/registration/status", "/vertebra_poses"
_SCREWS, _BENDING = "/screws/status", "/guidance/bending/status"
_PAIRS, _HEADS, _PAIR_STAGES = "/screws/journal", "/screws/poses", "/screws/latency"
_CHECK = "/landmarks/status"
_PLAN = "/plan/state"
_STAGES, _EVENT = "/registration/latency", "/display/events"
_LATE_NS = (
    5_000_000_000  # a picture is received this much later than the word of its frame, at most
)


@dataclass(frozen=True)
class Noted:
    """An entry of a journal and when the recorder received it. frame, pair: of an entry of that kind."""

    log_ns: int
    values: dict[str, Any]
    frame: FrameEntry | None = None
    pair: PairEntry | None = None

    @property
    def op(self) -> str:
        """What it tells, see core/journal.py of spine_registration and stereo_screw_tracker."""
        return str(self.values["op"])


@dataclass(frozen=True)
class Pictures:
    """The messages of one frame; depth None: it had none."""

    colour: Any
    depth: Any | None
    info: Any


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
        pair_lives, pairs_shown, pairs_complete, pairs_unexplained: the same of the stereo tracker.
        screws: of each stereo pair. bending: (log_ns, stamp, words) of the rod's guidance.
        rod_words: (log_ns, `asked` or `answer`, words) of screws that are left out on purpose.
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
    pair_lives: list[list[Noted]] = field(default_factory=list)
    pairs_shown: dict[int, tuple[int, ShownPair]] = field(default_factory=dict)
    pairs_complete: set[int] = field(default_factory=set)
    pairs_unexplained: list[int] = field(default_factory=list)
    screws: list[Screws] = field(default_factory=list)
    bending: list[tuple[int, int, str]] = field(default_factory=list)
    rod_words: list[tuple[int, str, str]] = field(default_factory=list)
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


def read_topics(session: Session, *suffixes: str) -> Iterator[tuple[str, Any]]:
    """(topic, message) of the topics that end so, in the order of receipt, as far as they read."""
    storage = open_storage(session.folder)
    wanted = [t for t in storage.topics if t.endswith(suffixes)]
    for raw in stream(storage, wanted, lambda _: None):
        yield raw.topic, deserialise(raw)


def open_session(folder: str | Path) -> Session:
    """Read all but the pictures of a session. Raises SessionError, RecordingError."""
    folder = Path(folder)
    session = Session(folder, read_manifest(folder))
    storage = open_storage(folder)

    def ends(suffix: str) -> list[str]:
        return [topic for topic in storage.topics if topic.endswith(suffix)]

    journals, statuses, poses = ends(_JOURNAL), ends(_STATUS), ends(_POSES)
    lives: dict[str, dict[int, Noted]] = {}
    pair_lives: dict[str, dict[int, Noted]] = {}
    stages: set[int] = set()
    pair_stages: set[int] = set()

    def shown(stamp_ns: int, log_ns: int, status: Any, array: Any | None) -> None:
        session.shown[stamp_ns] = log_ns, result_from_messages(status, array)

    def withdrawn(stamp_ns: int, log_ns: int, status: Any) -> None:
        taken_back = result_from_messages(status, None)
        reason = taken_back.levels[0].reason if taken_back.levels else ""
        session.withdrawn.append((log_ns, stamp_ns, reason))

    def pair_shown(stamp_ns: int, log_ns: int, status: Any, array: Any | None) -> None:
        implants = implants_from_messages(status, array)
        session.pairs_shown[stamp_ns] = log_ns, shown_pair(implants)

    results, pairs = Joined(shown, withdrawn), Joined(pair_shown)

    def cut(why: str) -> None:
        session.cut = why

    wanted = [*journals, *statuses, *poses]
    others = (_STAGES, _SCREWS, _PAIRS, _HEADS, _PAIR_STAGES, _BENDING, _CHECK, _PLAN, _EVENT)
    wanted += [t for end in others for t in ends(end)]

    for raw in stream(storage, wanted, cut):
        message = deserialise(raw)
        if raw.topic in journals:
            _note(session, lives, raw.log_ns, message.data)
        elif raw.topic in poses:
            results.poses(message)
        elif raw.topic in statuses:
            results.status(raw.log_ns, message)
        elif raw.topic.endswith(_SCREWS):
            pairs.status(raw.log_ns, message)
            session.screws.append(screws_of(raw.log_ns, message))
        elif raw.topic.endswith(_HEADS):
            pairs.poses(message)
        elif raw.topic.endswith(_PAIRS):
            _note(session, pair_lives, raw.log_ns, message.data)
        elif raw.topic.endswith(_PAIR_STAGES):
            pair_stages.add(stamp_ns_of(message.header.stamp))
        elif raw.topic.endswith(_BENDING):
            words = "; ".join(dict.fromkeys(s.message for s in message.status if s.message))
            session.bending.append((raw.log_ns, stamp_ns_of(message.header.stamp), words))
            _note_rods(session, raw.log_ns, message)
        elif raw.topic.endswith(_CHECK):
            _note_checks(session, raw.log_ns, message)
        elif raw.topic.endswith(_PLAN):
            session.plans.append((raw.log_ns, message.data))
        elif raw.topic.endswith(_STAGES):
            stages.add(stamp_ns_of(message.header.stamp))
        else:
            session.events.append((raw.log_ns, message.data))
    session.complete = stages & results.end()
    session.pairs_complete = pair_stages & pairs.end()
    session.lives = _in_order(session, lives)
    session.pair_lives = _in_order(session, pair_lives)
    session.unexplained = _unexplained(session, session.lives, session.shown, "results", "frames")
    session.pairs_unexplained = _unexplained(
        session, session.pair_lives, session.pairs_shown, "results of screws", "pairs"
    )
    if session.pairs_shown and not session.pair_lives:
        session.notes.append(
            "its screws and rods have no journal and are not computed again bit by bit; `spinenav"
            " screws SESSION` tracks its pairs"
        )
    return session


def _in_order(session: Session, lives: dict[str, dict[int, Noted]]) -> list[list[Noted]]:
    for life in lives.values():
        if missing := max(life) + 1 - len(life):
            session.notes.append(f"{missing} entries of the journal are missing")
    return [[life[n] for n in sorted(life)] for life in lives.values()]


def _unexplained(
    session: Session, lives: list[list[Noted]], shown: Collection[int], what: str, of: str
) -> list[int]:
    """Stamps of results without an entry; where there is no journal, none is missed."""
    entries = [n.frame or n.pair for life in lives for n in life]
    known = {e.stamp_ns for e in entries if e is not None}
    unexplained = sorted(set(shown) - known) if lives else []
    if unexplained:
        few = ", ".join(map(str, unexplained[:3]))
        session.notes.append(
            f"{len(unexplained)} {what} were shown of {of} that the journal does not have"
            f" ({few}): they cannot be computed again"
        )
    return unexplained


def _note_rods(session: Session, log_ns: int, message: Any) -> None:
    """What is asked of each rod's screws and what was answered: each status repeats the last."""
    known = {(kind, words) for _, kind, words in session.rod_words}
    for fields in map(status_fields, message.status):
        side = fields.get("side", "")
        told = []
        if fields.get("question_id"):
            told.append(("asked", f"{side} rod: {fields['question_id']}: {fields.get('question')}"))
        if fields.get("told"):
            told.append(("answer", f"{side} rod: {fields['told']}"))
        session.rod_words += [(log_ns, *t) for t in told if t not in known]


def _note_checks(session: Session, log_ns: int, message: Any) -> None:
    """Verdicts that were not told before: the latched status repeats those of other levels."""
    for status in message.status:
        fields = {v.key: v.value for v in status.values} | {"text": status.message}
        last = next((f for _, f in reversed(session.checks) if f["level"] == fields["level"]), None)
        if fields.get("state") in ("passed", "failed") and fields != last:
            session.checks.append((log_ns, fields))


def _note(session: Session, lives: dict[str, dict[int, Noted]], log_ns: int, text: str) -> None:
    try:
        values = read_entry(text)
        frame = frame_entry(values) if values["op"] == "frame" else None
        pair = pair_entry(values) if values["op"] == "pair" else None
    except JournalError as error:
        session.notes.append(str(error))
        return
    # A recorder that was started again hears the last minute twice.
    lives.setdefault(values["life"], {}).setdefault(values["n"], Noted(log_ns, values, frame, pair))


def _of_frame(noted: Noted) -> dict[str, int]:
    frame = noted.frame
    if frame is None or frame.info_ns is None:
        return {}
    stamps = {"colour": frame.stamp_ns, "colour info": frame.info_ns}
    return stamps if frame.depth_ns is None else {**stamps, "depth": frame.depth_ns}


def _of_pair(noted: Noted) -> dict[str, int]:
    pair = noted.pair
    if pair is None:
        return {}
    infos = {"left info": pair.left_info_ns, "right info": pair.right_info_ns}
    return {"left": pair.stamp_ns, "right": pair.right_ns, **infos}


@dataclass(frozen=True)
class Camera:
    """Whose pictures are read. roles: see recorded_messages.ROLES, its image and camera_info that
    every entry has first. stamps: by role of an entry's messages; empty: it has none."""

    roles: tuple[str, ...]
    lives: Callable[[Session], list[list[Noted]]]
    stamps: Callable[[Noted], dict[str, int]]


RGBD = Camera(("colour", "colour info", "depth"), lambda session: session.lives, _of_frame)
STEREO = Camera(
    ("left", "left info", "right", "right info"), lambda session: session.pair_lives, _of_pair
)


class PictureReader:
    """The pictures of frames in the order of the journal, streamed: none is kept longer than needed.

    Args:
        session: of which.
        on_info: called with the stamp of each camera_info of the (left) camera, in their order.
        only: stamps of the frames that will be asked for; None = every entry's.
        camera: of which.
    """

    def __init__(
        self,
        session: Session,
        on_info: Callable[[int], None] = lambda stamp: None,
        only: Collection[int] | None = None,
        camera: Camera = RGBD,
    ) -> None:
        storage = open_storage(session.folder)
        roles = {}
        for role in camera.roles:
            found = [name for name in ROLES[role] if name in storage.topics]
            roles[role] = found[0] if found else ""
        image, info = camera.roles[:2]
        if not roles[image]:
            raise SessionError(
                session.folder, "", f"it holds no {image} images", "only its events can be read"
            )
        self._camera, self._roles = camera, roles
        self._on_info, self._session = on_info, session
        self._info = roles[info]
        self._infos = {topic for role, topic in roles.items() if role.endswith(" info")}
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
        for life in self._camera.lives(session):
            for noted in life:
                stamps = self._camera.stamps(noted)
                if stamps and (only is None or stamps[self._camera.roles[0]] in only):
                    needed.update((self._roles[role], stamp) for role, stamp in stamps.items())
        return needed

    def fetch(self, noted: Noted) -> Pictures | str:
        """The pictures of a frame's entry, or which of them is missing; as `messages`."""
        found = self.messages(noted)
        if isinstance(found, str):
            return found
        return Pictures(found["colour"], found.get("depth"), found["colour info"])

    def messages(self, noted: Noted) -> dict[str, Any] | str:
        """An entry's messages by role, or which of them is missing.

        Every entry is asked for once, in the order of the journal.
        """
        keys = {role: (self._roles[role], s) for role, s in self._camera.stamps(noted).items()}
        if not keys:
            raise ValueError("this entry is of no frame")
        while not self._ended and any(not self._held[key] for key in keys.values()):
            if self._log_ns > noted.log_ns + _LATE_NS:
                break
            self._read_on()
        missing = [self._roles[role] or role for role, key in keys.items() if not self._held[key]]
        found = {role: self._take(*key) for role, key in keys.items()}
        if missing:
            return f"not in the record: {', '.join(missing)}"
        return {role: deserialise(raw) for role, raw in found.items() if raw is not None}

    def _take(self, topic: str, stamp_ns: int) -> RawMessage | None:
        key = (topic, stamp_ns)
        self._needed[key] -= 1
        held = self._held[key]
        if not held:
            del self._held[key]
            return None
        if self._needed[key] > 0 and topic in self._infos:
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
        if raw.topic == self._info:
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
