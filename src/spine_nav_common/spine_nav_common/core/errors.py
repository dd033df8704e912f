# SPDX-License-Identifier: Apache-2.0
"""The shape of every complaint about input: which file, which field, what is wrong, what to do."""

from __future__ import annotations

from pathlib import Path


class InputError(ValueError):
    """Input is refused. One line: `file: field: problem; remedy`. The CLI exits with 2.

    Attributes: file, field (may be empty), problem, remedy, all str.
    """

    def __init__(self, file: str | Path, field: str, problem: str, remedy: str) -> None:
        self.file = str(file)
        self.field = field
        # one line by contract: texts of other libraries may hold line breaks
        self.problem = " ".join(problem.split())
        self.remedy = " ".join(remedy.split())
        where = f"{self.file}: {field}" if field else self.file
        super().__init__(f"{where}: {self.problem}; {self.remedy}")


class CalibrationError(InputError):
    """A calibration file is refused."""


class CaseError(InputError):
    """A case folder is refused; nothing of it was loaded."""


class RecordingError(InputError):
    """A recording, or a stream in it, cannot be used."""


class OutputError(InputError):
    """A file that replay or screws wrote cannot be read back."""


class TruthError(InputError):
    """A truth.json is refused."""


class RodError(InputError):
    """Screws, rod or bender allow no plan; nothing was planned by half."""


class RowError(RodError):
    """Heads that form no row of a side. The remedy is for who stands at the table; a command names
    its options, by the field."""


class ScanError(InputError):
    """A scan, or a mask of it, cannot be used."""


class PlanError(InputError):
    """No screw can be planned or graded from what is given."""
