"""The run folder: safetensors, JSON and JSON lines, written atomically, never a pickle.

    model.safetensors   weights of the result, in the shapes of the smaller model
    plan.json           what stays (absent in a run that only trained)
    certificate.json    the claims (absent where nothing was claimed)
    config.json         how the run was made: enough to build the model and the data again
    metrics.jsonl       one JSON object per line: "run", "before", "after", "group"..., "curve"...,
                        then the lines of a training log, each with a "kind" of its own
    path.safetensors    the whole path of the search
    report.html         the rendered view
    state/              finished stages of an unfinished run; removed by `finish`

This file turns a whole record into those files and back; `core.folder` writes one file,
`core.weights` the tensors, `core.records` the JSON. Import all of it from here.
"""

import os
from typing import Any

from sprig.core.errors import StoreError
from sprig.core.folder import (
    CERTIFICATE,
    CONFIG,
    METRICS,
    MODEL,
    PATH,
    PLAN,
    REPORT,
    SUMMARY,
    RunFolder,
)
from sprig.core.plan import Plan
from sprig.core.records import dumps, plain, read
from sprig.core.types import Certificate, CurvePoint, GroupRow, Measures, RunRecord
from sprig.core.weights import (
    check_finite,
    check_fit,
    load_into,
    read_tensors,
    refuse_pickle,
    sha256_file,
    sha256_model,
    sha256_tensors,
    state_of,
    write_tensors,
)

__all__ = [
    "CERTIFICATE",
    "CONFIG",
    "METRICS",
    "MODEL",
    "PATH",
    "PLAN",
    "REPORT",
    "RunFolder",
    "check_finite",
    "check_fit",
    "load_into",
    "load_record",
    "read_certificate",
    "read_tensors",
    "refuse_pickle",
    "save_run",
    "sha256_file",
    "sha256_model",
    "sha256_tensors",
    "state_of",
    "write_tensors",
]


def save_run(folder: RunFolder, record: RunRecord) -> None:
    """Write everything of a record that is data: plan, certificate, config and metrics.

    The weights (`put_model`), the path (`put_tree`) and the report are written by whoever has them.
    """
    for row in record.log:
        if row.get("kind") in (None, *SUMMARY):
            raise StoreError(f'log line without a "kind" of its own: {dumps(row)[:60]}')
    lines: list[dict[str, Any]] = [
        {"kind": "run", "title": record.title},
        {"kind": "before", **plain(record.before)},
        {"kind": "after", **plain(record.after)},
        *({"kind": "group", **plain(row)} for row in record.groups),
        *({"kind": "curve", **plain(point)} for point in record.curve),
        *(dict(row) for row in record.log),
    ]
    folder.put_json(CONFIG, record.config)
    if record.plan is not None:
        folder.put_text(PLAN, record.plan.to_json() + "\n")
    if record.certificate is not None:
        folder.put_json(CERTIFICATE, record.certificate)
    folder.put_text(METRICS, "".join(dumps(line) + "\n" for line in lines))


def load_record(folder: RunFolder | str | os.PathLike[str]) -> RunRecord:
    """The record of a finished run, read strictly from its files."""
    if not isinstance(folder, RunFolder):
        folder = RunFolder.open(folder)
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in SUMMARY}
    log: list[dict[str, Any]] = []
    for number, row in enumerate(folder.rows(), start=1):
        if not isinstance(row, dict) or "kind" not in row:
            raise StoreError(f'{folder / METRICS} line {number} has no "kind"; make the run again')
        if row["kind"] in SUMMARY:
            rows[row["kind"]].append({k: v for k, v in row.items() if k != "kind"})
        else:
            log.append(row)
    for kind in ("run", "before", "after"):
        if len(rows[kind]) != 1:
            raise StoreError(
                f"{folder / METRICS} has {len(rows[kind])} lines of kind {kind!r}, expected 1; "
                "the run is unfinished: resume it"
            )
    return RunRecord(
        title=str(rows["run"][0].get("title", "")),
        config=folder.get_json(CONFIG),
        plan=Plan.from_json(folder.get_text(PLAN)) if folder.has(PLAN) else None,
        certificate=read_certificate(folder) if folder.has(CERTIFICATE) else None,
        before=read(Measures, rows["before"][0], what="before"),
        after=read(Measures, rows["after"][0], what="after"),
        groups=tuple(read(GroupRow, r, what=f"group {r.get('name')}") for r in rows["group"]),
        curve=tuple(read(CurvePoint, r, what="curve") for r in rows["curve"]),
        log=tuple(log),
    )


def read_certificate(folder: RunFolder) -> Certificate:
    """The certificate of a run, as it was written."""
    return read(Certificate, folder.get_json(CERTIFICATE), what=CERTIFICATE)
