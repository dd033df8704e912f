# SPDX-License-Identifier: Apache-2.0
"""A node in a process of its own beside `spinenav live`; started again when it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from spine_nav_common.core.restart import WRONG_INPUT, Backoff
from spine_nav_common.parameters import build
from spine_nav_common.ros.runtime import PARENT_PID

_GRACE_S = 3.0
_NICE = 5  # as the overlay's own


class ChildNode:
    """Has of a node what `live` asks of one: config, problem, error, notes, destroy_node.

    The process is in a session of its own, so that ctrl-C reaches the parent alone, which takes the
    graph down in order; it ends by itself when its parent is gone.
    """

    def __init__(
        self,
        name: str,
        module: str,
        config_type: type,
        values: Mapping[str, Any],
        namespace: str,
    ) -> None:
        """Start `python -m module`. Raises ParameterError: a value is wrong."""
        own = {k: v for k, v in values.items() if k != "use_sim_time"}
        self.config = build(config_type, own, f"node {name}")
        self.problem, self.error, self.notes = "", None, ()
        self.restarts = 0
        self._folder = tempfile.TemporaryDirectory(prefix=f"spinenav-{name}-")
        file = Path(self._folder.name) / "parameters.yaml"
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        file.write_text(yaml.safe_dump({"/**": {"ros__parameters": plain}}), encoding="utf-8")
        self._command = [
            sys.executable, "-m", module, "--ros-args", "-r", f"__ns:={namespace}",
            "--params-file", str(file),
        ]  # fmt: skip
        self._backoff, self._next = Backoff(), 0.0
        self._start()

    def _start(self) -> None:
        self.process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, PARENT_PID: str(os.getpid())},
        )
        # A session of its own is a scheduling group of its own, beside whose weight the process's
        # nice value counts for nothing.
        with suppress(OSError):
            Path(f"/proc/{self.process.pid}/autogroup").write_text(str(_NICE))

    def tend(self) -> None:
        """Start the process again where it ended, later and later; call it often."""
        code = self.process.poll()
        if code is None or (self.problem and code == WRONG_INPUT):
            return
        now = time.monotonic()
        if not self.problem:
            self.problem = f"the process ended with {code}"
            self._next = now + self._backoff.next_s()
        elif now >= self._next:
            self.restarts += 1
            self.problem = ""
            self._start()

    def destroy_node(self) -> None:
        """End the process, by force if it does not listen."""
        self.process.terminate()
        try:
            self.process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._folder.cleanup()
