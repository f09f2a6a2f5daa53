"""Carrying a study out: cell by cell, each done once, into a folder that an interrupted run can continue in.

`settings.json` says what is being computed, `cells.jsonl` holds a line per finished cell, `work/` what a cell keeps
between interruptions. The records at the end are computed from `cells.jsonl` alone, so a resumed study ends with the
figures of an uninterrupted one.
"""

import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from sprig.core.errors import InputError, StoreError
from sprig.core.records import dumps, loads, plain
from sprig.core.workbench import Progress, silent
from sprig.studies.page import put, write
from sprig.studies.record import Record, Study

SETTINGS, CELLS, WORK = "settings.json", "cells.jsonl", "work"


def carry_out(
    study: Study,
    settings: Any,
    *,
    folder: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> Record:
    """Compute the cells that are not there yet, conclude, and write the files if there is a folder."""
    if not isinstance(settings, type(study.full)):
        raise InputError(
            f"the settings of {study.name} are a {type(study.full).__name__}, found {type(settings).__name__}"
        )
    if not settings.seeds or len(set(settings.seeds)) < len(settings.seeds):
        raise InputError(f"a study needs seeds, each once; found {tuple(settings.seeds)}")
    asked = {"study": study.name, "settings": plain(settings)}
    out = None if folder is None else Path(folder)
    done = {} if out is None else _begin(out, asked, resume=resume)
    cells = study.cells(settings)
    with nullcontext(str(out / WORK)) if out else tempfile.TemporaryDirectory() as kept:
        work = Path(kept)
        work.mkdir(exist_ok=True)
        for at, (name, cell) in enumerate(cells.items()):
            progress(study.name, at, len(cells))
            if name in done:
                continue
            begin = time.process_time()
            # what was computed is what a file would give back, so that a resumed study says the same
            figures = loads(dumps(cell(work)), what=f"cell {name}")
            done[name] = {
                "cell": name,
                "seconds": round(time.process_time() - begin, 2),
                "figures": figures,
            }
            if out is not None:
                _append(out / CELLS, done[name])
    found = {name: done[name]["figures"] for name in cells}
    record = Record(
        study=study.name,
        question=study.question,
        sources=study.sources,
        size="full" if settings == study.full else "quick" if settings == study.quick else "own",
        settings=plain(settings),
        seeds=tuple(settings.seeds),
        budget=study.budget(settings),
        seconds=sum(done[name]["seconds"] for name in cells),
        threads=torch.get_num_threads(),
        versions={"torch": str(torch.__version__), "Python": platform.python_version()},
        conclusion=study.conclude(settings, found),
        figures=found,
    )
    if out is not None:
        write(record, out)
        shutil.rmtree(out / WORK, ignore_errors=True)
    return record


def _begin(out: Path, asked: Mapping[str, Any], *, resume: bool) -> dict[str, Any]:
    """The cells that an earlier run in this folder has finished."""
    if out.exists() and not out.is_dir():
        raise StoreError(
            f"{out} is a file; expected a folder to write the study into, name another"
        )
    if out.is_dir() and any(out.iterdir()):
        if not resume:
            raise StoreError(
                f"{out} is not empty; name an empty or new folder, or resume the study that is there"
            )
        return _continue(out, asked)
    out.mkdir(parents=True, exist_ok=True)
    put(out / SETTINGS, dumps(asked, indent=1) + "\n")
    return {}


def _continue(out: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    path = out / SETTINGS
    if not path.is_file():
        raise StoreError(f"{out} holds no study to resume: it has no {SETTINGS}")
    before = loads(path.read_text(encoding="utf-8"), what=str(path))
    now = json.loads(dumps(asked))
    if before != now:
        raise InputError(
            f"{out} holds the study {before.get('study')} with {_differs(before, now)}; resume "
            "with the same settings, or name another folder"
        )
    done = {}
    cells = out / CELLS
    if cells.is_file():
        text = cells.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]  # a torn last line is not a cell
        if whole != text:
            put(cells, whole.decode())
        for line in whole.decode().splitlines():
            row = loads(line, what=str(cells))
            done[row["cell"]] = row
    return done


def _differs(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if before.get("study") != now["study"]:
        return f"other settings than {now['study']} has"
    old = before["settings"]
    names = [k for k in now["settings"] if old.get(k) != now["settings"][k]]
    return ", ".join(f"{k} {old.get(k)} instead of {now['settings'][k]}" for k in names)


def _append(path: Path, row: Mapping[str, Any]) -> None:
    with open(path, "ab", buffering=0) as file:
        file.write((dumps(row) + "\n").encode())
        os.fsync(file.fileno())
