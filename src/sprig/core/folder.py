"""The folder of one run: files that appear only when complete, and stages that are done once.

A file appears under its name only when it is complete (temporary file, fsync, rename), so a run
killed at any moment continues from its last finished stage with the same bits.
What each file means: `core.store`.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from sprig.core.errors import StoreError
from sprig.core.records import dumps, loads, plain
from sprig.core.stages import load_tree, save_tree
from sprig.core.weights import (
    check_finite,
    load_into,
    read_tensors,
    replace,
    sha256_tensors,
    state_of,
    sync_folder,
    write_tensors,
)

T = TypeVar("T")
MODEL, PLAN, CERTIFICATE = "model.safetensors", "plan.json", "certificate.json"
CONFIG, METRICS, PATH, REPORT, STATE = (
    "config.json",
    "metrics.jsonl",
    "path.safetensors",
    "report.html",
    "state",
)
# Kinds in metrics.jsonl that are not lines of a log.
SUMMARY = ("run", "before", "after", "group", "curve")


class RunFolder:
    """The files of one run. `create` and `open` check the folder; the constructor only names it.

    >>> import tempfile
    >>> folder = RunFolder.create(tempfile.mkdtemp())
    >>> folder.once("sum", lambda: 1 + 1), folder.once("sum", lambda: 1 / 0)
    (2, 2)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.made: tuple[Path, ...] = ()  # folders that `create` made, deepest first
        self.resumed = False

    @classmethod
    def create(cls, path: str | os.PathLike[str], *, resume: bool = False) -> "RunFolder":
        """A folder to write a run into; one that holds anything is refused, unless `resume`."""
        folder = cls(path)
        at = folder.path
        if at.exists() and not at.is_dir():
            raise StoreError(
                f"{at} is a file; expected a folder to write the run into, name another"
            )
        found = _listing(at) if at.is_dir() else []
        if found and not resume:
            raise StoreError(
                f"{at} is not empty (it holds {_some(found)}); "
                "name an empty or new folder, or resume the run that is there"
            )
        if found and not ((at / STATE).is_dir() or (at / CONFIG).is_file()):
            raise StoreError(
                f"{at} holds no run to resume (found {_some(found)}, expected {CONFIG} or {STATE}/); "
                "name the folder of an unfinished run"
            )
        try:
            missing = [p for p in (at, *at.parents) if not p.exists()]
            at.mkdir(parents=True, exist_ok=True)
            folder.made = tuple(missing)
            probe = at / f".tmp-{os.getpid()}-probe"
            probe.touch()
            probe.unlink()
        except OSError as error:
            folder.discard()
            raise StoreError(
                f"cannot write to {at}: {error.strerror or error}; name a folder you may write to"
            ) from error
        folder.resumed = bool(found)
        if not folder.finished or not found:
            (at / STATE).mkdir(exist_ok=True)
        for stale in (*at.glob(".tmp-*"), *(at / STATE).glob(".tmp-*")):
            _remove(stale)
        folder._drop_torn_line()
        return folder

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "RunFolder":
        """A folder that already holds a run."""
        folder = cls(path)
        if not folder.path.is_dir():
            raise StoreError(
                f"{folder.path} is not a folder; expected a run folder, made by `sprig prune`"
            )
        if not folder.has(CONFIG):
            raise StoreError(
                f"{folder.path} has no {CONFIG}; expected a run folder, "
                "made by `sprig prune` or `sprig train`"
            )
        return folder

    @property
    def finished(self) -> bool:
        """Whether the run is complete: it has weights, and no state of unfinished work."""
        return self.has(MODEL) and not (self.path / STATE).exists()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def has(self, name: str) -> bool:
        """Whether the file is there, complete."""
        return (self.path / name).is_file()

    # -- whole files ------------------------------------------------------------------------------

    def put_text(self, name: str, text: str) -> Path:
        """Write a text file atomically."""
        path = self.path / name
        temp = path.with_name(f".tmp-{os.getpid()}-{path.name}")
        try:
            temp.write_text(text, encoding="utf-8", newline="\n")
            replace(temp, path)
        except OSError as error:
            raise StoreError(
                f"cannot write {path}: {error.strerror}; choose another folder"
            ) from error
        return path

    def get_text(self, name: str) -> str:
        """Read a text file."""
        path = self.path / name
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise StoreError(
                f"{self.path} has no {name}; the run is unfinished (resume it) "
                "or a file was removed"
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(
                f"cannot read {path}: {error}; restore it or make the run again"
            ) from error

    def put_json(self, name: str, value: Any) -> Path:
        """Write records, mappings, numbers and strings as JSON."""
        return self.put_text(name, dumps(value, indent=1) + "\n")

    def get_json(self, name: str) -> Any:
        """Read a JSON file as plain values."""
        return loads(self.get_text(name), what=str(self.path / name))

    def put_tensors(self, name: str, tensors: Mapping[str, Tensor], *, meta: Any = None) -> Path:
        """Write tensors as safetensors, tied ones once."""
        write_tensors(self.path / name, tensors, meta=plain(meta))
        return self.path / name

    def get_tensors(self, name: str) -> dict[str, Tensor]:
        """Read tensors."""
        return read_tensors(self.path / name)

    def put_tree(self, name: str, value: Any, *, records: Iterable[type] = ()) -> Path:
        """Write any nest of records, tensors and containers as one safetensors file."""
        save_tree(self.path / name, value, records=records)
        return self.path / name

    def get_tree(self, name: str, *, records: Iterable[type] = ()) -> Any:
        """Read what `put_tree` wrote."""
        return load_tree(self.path / name, records=records)

    def put_model(self, model: nn.Module, *, name: str = MODEL) -> str:
        """Write the weights of a module and return their content hash; NaN is refused."""
        state = state_of(model)
        check_finite(state, what="model")
        self.put_tensors(name, state)
        return sha256_tensors(state)

    def load_model(self, model: nn.Module, *, name: str = MODEL) -> nn.Module:
        """Fill a module of the right shapes, in place, with the weights of the run."""
        return load_into(model, self.path / name)

    # -- lines ------------------------------------------------------------------------------------

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one line to the log; it needs a "kind" that is not one of the summary's."""
        if not isinstance(row.get("kind"), str) or row["kind"] in SUMMARY:
            raise StoreError(
                f'a log line needs a "kind" other than {", ".join(SUMMARY)}, '
                f"found {row.get('kind')!r}"
            )
        with open(self.path / METRICS, "ab", buffering=0) as file:
            file.write((dumps(row) + "\n").encode())
            os.fsync(file.fileno())

    def rows(self) -> list[dict[str, Any]]:
        """The complete lines of metrics.jsonl; a torn last line is not one."""
        if not self.has(METRICS):
            return []
        lines = self.get_text(METRICS).split("\n")[:-1]  # what follows the last newline is torn
        return [
            loads(line, what=f"{self.path / METRICS} line {i}")
            for i, line in enumerate(lines, start=1)
        ]

    def keep_rows(self, count: int) -> None:
        """Drop the lines behind the first `count`: those newer than the checkpoint resumed."""
        if len(self.rows()) > count:
            lines = self.get_text(METRICS).split("\n")[:count]
            self.put_text(METRICS, "".join(line + "\n" for line in lines))

    # -- stages -----------------------------------------------------------------------------------

    def begin(self, config: Any) -> None:
        """Record how the run is made; a resumed run must be made the same way."""
        wanted = plain(config)
        if not self.has(CONFIG):
            self.put_json(CONFIG, wanted)
            return
        found = plain(self.get_json(CONFIG))
        for key in sorted({*found, *wanted}):
            if found.get(key) != wanted.get(key):
                raise StoreError(
                    f"{self.path} was begun with {key} = {found.get(key)!r}, "
                    f"now it is {wanted.get(key)!r}; "
                    "resume with the options it was begun with, or use a new folder"
                )

    def stage(self, name: str, *, records: Iterable[type] = ()) -> Any:
        """What was saved under this stage, or None when it is not finished."""
        path = self._stage_path(name)
        return load_tree(path, records=records) if path.is_file() else None

    def has_stage(self, name: str) -> bool:
        """Whether a stage is finished."""
        return self._stage_path(name).is_file()

    def keep(self, name: str, value: Any, *, records: Iterable[type] = ()) -> None:
        """Save (or replace) a stage, atomically. A checkpoint is a stage kept again and again."""
        path = self._stage_path(name)
        path.parent.mkdir(exist_ok=True)
        save_tree(path, value, records=records)

    def once(self, name: str, compute: Callable[[], T], *, records: Iterable[type] = ()) -> T:
        """The value of a stage: read when it is finished, else computed and saved.

        It is returned *as read back* in both cases, so that memory layout (which changes the order
        of sums in kernels) is the same in a resumed run and in an undisturbed one.
        """
        path = self._stage_path(name)
        if not path.is_file():
            self.keep(name, compute(), records=records)
        return load_tree(path, records=records)  # type: ignore[no-any-return]

    def finish(self) -> None:
        """Mark the run complete: remove the state of unfinished work."""
        state, doomed = self.path / STATE, self.path / f".tmp-{os.getpid()}-{STATE}"
        if state.is_dir():
            os.replace(state, doomed)  # one step: no moment at which half of the stages are gone
            sync_folder(self.path)
            _remove(doomed)

    @property
    def trained(self) -> bool:
        """Whether it holds the checkpoint of a training."""
        return self._stage_path("training").is_file()

    def discard(self) -> None:
        """Undo `create`: remove what this run wrote. A resumed folder is left as it is."""
        if self.resumed or not self.path.is_dir():
            return
        for item in self.path.iterdir():
            _remove(item)
        for folder in self.made:  # parents only as long as nobody else put something there
            if any(folder.iterdir()):
                break
            folder.rmdir()

    def _stage_path(self, name: str) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
            raise StoreError(f"stage name {name!r}: expected letters, digits, '_', '-' and '.'")
        return self.path / STATE / f"{name}.safetensors"

    def _drop_torn_line(self) -> None:
        path = self.path / METRICS
        if path.is_file():
            data = path.read_bytes()
            end = data.rfind(b"\n") + 1
            if end < len(data):
                with open(path, "rb+") as file:
                    file.truncate(end)
                    os.fsync(file.fileno())


def _listing(path: Path) -> list[str]:
    """What is in a folder, without the temporary files of a killed run."""
    return sorted(p.name for p in path.iterdir() if not p.name.startswith(".tmp-"))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
