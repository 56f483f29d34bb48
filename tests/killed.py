"""Commands that are killed with all they started, at chosen moments of their work."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path


def kill_at(moments: Sequence[str], command: Sequence[str], place: Path, *, later: float = 0.0, within: float = 600) -> None:
    """Run the command beside `place` once for each moment, and kill it there.

    Args:
        moments: what must be in `place` before the kill, as a pattern: it shows that a stage is in the middle of its work.
        command: what is run.
        place: the directory that it fills, named relative to its parent in the command.
        later: seconds from the moment to the kill.
        within: seconds in which a moment must come.
    """
    for moment in moments:
        process = subprocess.Popen(
            command, cwd=place.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            deadline = time.monotonic() + within
            while not any(place.glob(moment)):
                assert process.poll() is None, f"it ended before {moment}"
                assert time.monotonic() < deadline, moment
                time.sleep(0.01)
            time.sleep(later)
            assert process.poll() is None, f"it ended before it was killed at {moment}"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
