# SPDX-License-Identifier: Apache-2.0
"""Writers that a `with` block closes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar

_Own = TypeVar("_Own", bound="Closing")


class Closing(ABC):
    """Closed at the end of a `with` block, after an error too: what was written stays readable."""

    @abstractmethod
    def close(self) -> None:
        """Finish what is written."""

    def __enter__(self: _Own) -> _Own:  # noqa: PYI019 - Self needs Python 3.11
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()
