# SPDX-License-Identifier: Apache-2.0
"""What waits to be sent to one page or client. State is replaced by newer state, events are kept in order,
and of pictures one is under way: a slow page sees fewer pictures, and every control message.

No locks: all calls come from the server's loop.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar

MOST_EVENTS = 200


Message = TypeVar("Message", str, bytes)


class Outbox(Generic[Message]):
    """Control messages of one page or client: events first, then the newest state of each kind."""

    def __init__(self, most_events: int = MOST_EVENTS) -> None:
        self._events: deque[Message] = deque()
        self._states: dict[str, Message] = {}
        self._most = most_events

    def event(self, message: Message) -> bool:
        """Queue an event; False where this reader has not read for so long that it must go."""
        if len(self._events) >= self._most:
            return False
        self._events.append(message)
        return True

    def state(self, kind: str, message: Message) -> None:
        """Replace what waits of this kind."""
        self._states[kind] = message

    def forget(self, kind: str) -> None:
        """What waits of this kind does not hold any more."""
        self._states.pop(kind, None)

    def take(self) -> Message | None:
        """The next message to send; None = nothing waits."""
        if self._events:
            return self._events.popleft()
        if self._states:
            return self._states.pop(next(iter(self._states)))
        return None


class Numbered(Protocol):
    """A picture under the number that a page acknowledges."""

    @property
    def number(self) -> int: ...


Picture = TypeVar("Picture", bound=Numbered)


class VideoGate(Generic[Picture]):
    """Lets one picture at a time to one page; the newest waits, older ones are dropped."""

    def __init__(self) -> None:
        self._under_way: int | None = None
        self._waiting: Picture | None = None
        self.sent = self.dropped = 0

    def offer(self, picture: Picture) -> Picture | None:
        """A new picture: to be sent now, or kept until the page has shown the one before."""
        if self._under_way is not None:
            self.dropped += self._waiting is not None
            self._waiting = picture
            return None
        return self._go(picture)

    def acknowledge(self, number: int) -> Picture | None:
        """The page has shown a picture; what goes next. Other numbers than the one under way count
        for nothing."""
        if number != self._under_way:
            return None
        self._under_way = None
        picture, self._waiting = self._waiting, None
        return self._go(picture) if picture is not None else None

    def forget(self) -> None:
        """The waiting picture is of a stream that is shown no more."""
        self._waiting = None

    def _go(self, picture: Picture) -> Picture:
        self._under_way = picture.number
        self.sent += 1
        return picture
