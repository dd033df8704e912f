# SPDX-License-Identifier: Apache-2.0
"""One life of a computing node, from its beginning to its end, as its journal has it: what navigator
and screw tracker have in common when they are computed again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

from spine_nav_common.core.cpu import cpu_name
from spine_nav_common.core.journal import code_sha256
from spine_nav_common.parameters import ParameterError, build

from .session_reading import Noted, PictureReader


class Means(Protocol):
    """config: a function from the recorded settings to those to use; None: as recorded."""

    notes: list[str]

    @property
    def config(self) -> Callable[[Any], Any] | None:
        """See the class."""


class Entry(Protocol):
    """An entry of a journal about one frame or pair."""

    @property
    def stamp_ns(self) -> int:
        """Of its image."""


_Entry = TypeVar("_Entry", bound=Entry)
_Again = TypeVar("_Again")
_Config = TypeVar("_Config")


class Life(ABC, Generic[_Entry, _Again]):
    """`sure`: everything so far could be computed, by the same means as then."""

    about = ""  # begins the notes of this kind

    def __init__(
        self, entries: list[Noted], means: Means, pictures: PictureReader, complete: set[int]
    ) -> None:
        self._entries, self._noted_in, self._pictures = entries, means, pictures
        worked = [w for e in entries if (w := self.worked(e)) is not None]
        # A process that was killed may have noted its last one, and not published it any more.
        self._unpublished = worked[-1] if worked and worked[-1].stamp_ns not in complete else None
        self.sure = True
        self._last = -1

    @staticmethod
    @abstractmethod
    def worked(noted: Noted) -> _Entry | None:
        """The frame or pair that an entry tells of."""

    @abstractmethod
    def begin(self, values: dict[str, Any]) -> None:
        """The core is made anew, with the settings of its first entry."""

    @abstractmethod
    def told(self, noted: Noted) -> None:
        """What is neither the beginning nor a frame or pair."""

    @abstractmethod
    def again(self, noted: Noted, entry: _Entry) -> _Again:
        """Compute a frame or pair."""

    def run(self) -> Iterator[_Again]:
        """Everything that was worked on, in its order."""
        for noted in self._entries:
            if noted.values["n"] != self._last + 1:
                self.sure = False
            self._last = noted.values["n"]
            if noted.op == "begin":
                self.begin(noted.values)
            elif (entry := self.worked(noted)) is not None:
                yield self.again(noted, entry)
            else:
                self.told(noted)

    def published(self, entry: _Entry) -> bool:
        """Whether it may have gone out before its process was killed."""
        return entry is not self._unpublished

    def settings(self, kind: type[_Config], values: Any) -> _Config:
        """Those of the record, or what is to be used instead. Raises ParameterError."""
        try:
            config = build(kind, values, "the record's settings")
        except ParameterError as error:
            raise ParameterError(f"{error}; replay with the program that recorded it") from error
        if self._noted_in.config is None:
            return config
        changed: _Config = self._noted_in.config(config)
        self.sure &= changed == config
        return changed

    def compare(
        self, values: dict[str, Any], now: Mapping[str, str], cores: tuple[str, ...]
    ) -> None:
        """Note what is not as it was: of `now`, of the code of `cores`, of the CPU."""
        present = {**now, "code": code_sha256(cores), "cpu": cpu_name()}
        for what, value in present.items():
            if values.get(what) != value:
                self.sure = False
                recorded = f"recorded with the {what} {values.get(what)}"
                note = f"{self.about}{recorded}, computed again with {value}"
                if note not in self._noted_in.notes:
                    self._noted_in.notes.append(note)
