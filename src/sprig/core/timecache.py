"""Measured times on disk: one JSON file per machine, versions and setting; written whole or not at all."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sprig.core.errors import InputError

FORMAT = "sprig-times"
VERSION = 1
LONGEST = 1e15  # milliseconds; nothing takes longer


def cache_folder(given: str | os.PathLike[str] | None = None) -> Path:
    """Where measured times are kept: `given`, else SPRIG_CACHE, else XDG_CACHE_HOME/sprig, else ~/.cache/sprig."""
    if given is not None:
        return Path(given)
    own = os.environ.get("SPRIG_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    if base and Path(base).is_absolute():  # the standard: what is not absolute is ignored
        return Path(base) / "sprig"
    return Path.home() / ".cache" / "sprig"


class TimeCache:
    """Key of an operation with its shapes -> milliseconds, for one setting."""

    def __init__(self, folder: Path, setting: Mapping[str, Any]) -> None:
        self.setting = dict(setting)
        text = json.dumps(self.setting, sort_keys=True)
        self.path = folder / f"times-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"

    def read(self) -> dict[str, float]:
        """What is known; nothing, when the file is missing, damaged or about something else: it is a cache."""
        try:
            raw = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        if (
            not isinstance(raw, dict)
            or raw.get("format") != FORMAT
            or raw.get("version") != VERSION
        ):
            return {}
        times = raw.get("times")
        if raw.get("setting") != self.setting or not isinstance(times, dict):
            return {}
        return {
            key: float(ms)
            for key, ms in times.items()
            if isinstance(ms, int | float) and not isinstance(ms, bool) and 0 <= ms < LONGEST
        }

    def check(self) -> None:
        """Raise unless something can be written there."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path.parent):
                pass
        except OSError as error:
            raise self._closed(error) from error

    def _closed(self, error: OSError) -> InputError:
        return InputError(
            f"measured times cannot be kept in {self.path.parent} ({error.strerror or error}); name another folder "
            "with SPRIG_CACHE or Timing(cache=...)"
        )

    def add(self, times: Mapping[str, float]) -> None:
        """Keep more; another process may have added to the file meanwhile."""
        if not times:
            return
        merged = {**self.read(), **{k: float(v) for k, v in times.items()}}
        value = {"format": FORMAT, "version": VERSION, "setting": self.setting, "times": merged}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=".times-", suffix=".part")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(value, file, indent=1, sort_keys=True)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(name, self.path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise self._closed(error) from error
