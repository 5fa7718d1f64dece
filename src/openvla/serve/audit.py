"""One JSON line per request: who asked what, when, and what became of it. Keys and images never appear."""

from __future__ import annotations

import json
import logging
import sys
import threading
from pathlib import Path
from typing import Any, TextIO

from openvla.errors import UsageError

log = logging.getLogger("openvla.serve")


class Audit:
    """Appends lines to a file, or to standard error. A full disk costs lines, never requests."""

    def __init__(self, path: Path | None = None) -> None:
        """Raises UsageError for a file that cannot be appended to."""
        self.lost = 0
        self._path = path
        self._lock = threading.Lock()
        try:
            self._file: TextIO = sys.stderr if path is None else path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise UsageError(f"cannot write the audit to {path}: {error.strerror}; choose another file") from error

    def write(self, entry: dict[str, Any]) -> None:
        """Append one line."""
        line = json.dumps(entry) + "\n"
        try:
            with self._lock:
                self._file.write(line)
        except (OSError, ValueError) as error:
            self.lost += 1
            if self.lost == 1:
                log.error("an audit line is lost (%s); see openvla_audit_lines_lost_total", error)

    def close(self) -> None:
        """Close the file."""
        if self._path is not None:
            self._file.close()
