"""A study's record as files: JSON, Markdown with SVG beside it, and one HTML page with all inside."""

import os
from collections.abc import Iterator
from pathlib import Path

from markupsafe import Markup, escape

from sprig.core.records import dumps
from sprig.core.weights import replace
from sprig.studies.figure import draw
from sprig.studies.record import Finding, Record, Table

JSON, MARKDOWN, HTML = "study.json", "study.md", "study.html"
SIGNS = {True: "✓", False: "✗", None: "?"}
STYLE = """
:root{color-scheme:light;--ink:#1b211d;--soft:#59625c;--line:#dcdacf}
body{margin:0 auto;max-width:62rem;padding:1.5rem 1rem 4rem;background:#f6f5f0;color:var(--ink);
font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.8rem;line-height:1.15;margin:.5rem 0}h2{font-size:1.2rem;margin:2.2rem 0 .6rem}
.soft{color:var(--soft);font-size:.9rem}.wrap{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .7rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}th{color:var(--soft);font-weight:500}
svg{max-width:100%;height:auto;border:1px solid var(--line);border-radius:8px;margin:.6rem 0;background:#fffefb}
.findings{list-style:none;padding:0}.findings li{background:#fffefb;border:1px solid var(--line);
border-left:4px solid;border-radius:6px;padding:.5rem .9rem;margin:.5rem 0}
.yes{border-left-color:#1c7a4c!important}.no{border-left-color:#a8231c!important}.open{border-left-color:#a9b3ab!important}
"""


def write(record: Record, folder: str | os.PathLike[str]) -> Path:
    """Write study.json, study.md with its plots beside it, and study.html; gives the folder."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    for at, plot in enumerate(record.conclusion.plots, 1):
        put(out / f"plot-{at}.svg", str(draw(plot)) + "\n")
    put(out / JSON, dumps(record, indent=1) + "\n")
    put(out / MARKDOWN, markdown(record))
    put(out / HTML, html(record))
    return out


def put(path: Path, text: str) -> None:
    """Write a file that appears only when it is complete."""
    temp = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    temp.write_text(text, encoding="utf-8")
    replace(temp, path)


def facts(record: Record) -> list[str]:
    """How the study was made, a line each."""
    done = f"{record.seconds:.0f} s of processor time, {record.threads} thread{'s' * (record.threads > 1)}"
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    settings = ", ".join(f"{k} {_short(v)}" for k, v in record.settings.items() if k != "seeds")
    return [
        f"Seeds: {', '.join(map(str, record.seeds))}. Size: {record.size}. {done}; {versions}.",
        f"Budget: {record.budget}",
        f"Settings: {settings}.",
        f"Sources: {record.sources}",
    ]


def markdown(record: Record) -> str:
    """The record as Markdown; plots are the files plot-1.svg and so on."""
    lines = [f"# Study `{record.study}`", "", record.question, "", f"**{record.verdict}**", ""]
    for finding in record.conclusion.findings:
        lines += [f"- {_sign(finding)} **{finding.claim}** {finding.word}: {finding.says}"]
    for at, plot in enumerate(record.conclusion.plots, 1):
        lines += ["", f"![{plot.title}](plot-{at}.svg)"]
    for table in record.conclusion.tables:
        lines += ["", f"## {table.title}", "", *_markdown_table(table)]
        lines += ["", table.note] if table.note else []
    lines += ["", "## How", ""]
    lines += [f"- {note}" for note in (*record.conclusion.notes, *facts(record))]
    size = (
        "" if record.size == "full" else " --quick" if record.size == "quick" else " (own settings)"
    )
    lines += [f"- Command: `sprig study {record.study}{size}`."]
    return "\n".join(lines) + "\n"


def html(record: Record) -> str:
    """The record as one page with nothing outside."""
    body = Markup("\n").join(_blocks(record))
    title = escape(f"Study: {record.study}")
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    )
    return f"{head}<title>{title}</title><style>{STYLE}</style></head><body>{body}</body></html>\n"


def _blocks(record: Record) -> Iterator[Markup]:
    yield _tag("p", f"sprig study {record.study}", css="soft")
    yield _tag("h1", record.question)
    yield _tag("p", _tag("strong", record.verdict))
    items = [
        Markup('<li class="{}">{} <strong>{}</strong> {}: {}</li>').format(
            {True: "yes", False: "no", None: "open"}[f.holds], _sign(f), f.claim, f.word, f.says
        )
        for f in record.conclusion.findings
    ]
    yield Markup('<ul class="findings">{}</ul>').format(Markup("").join(items))
    for plot in record.conclusion.plots:
        yield Markup("<figure style='margin:0'>{}</figure>").format(draw(plot))
    for table in record.conclusion.tables:
        yield _tag("h2", table.title)
        yield Markup('<div class="wrap">{}</div>').format(_html_table(table))
        if table.note:
            yield _tag("p", table.note, css="soft")
    yield _tag("h2", "How")
    for line in (*record.conclusion.notes, *facts(record)):
        yield _tag("p", line, css="soft")


def _markdown_table(table: Table) -> list[str]:
    rows = [table.columns, ("---",) * len(table.columns), *table.rows]
    return [f"| {' | '.join(c.replace('|', '∣') for c in row)} |" for row in rows]


def _html_table(table: Table) -> Markup:
    head = Markup("").join(_tag("th", c) for c in table.columns)
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(Markup("").join(_tag("td", c) for c in row))
        for row in table.rows
    )
    return Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(head, body)


def _tag(name: str, text: str, *, css: str | None = None) -> Markup:
    wrapped = f' class="{css}"' if css else ""
    return Markup(f"<{name}{wrapped}>{{}}</{name}>").format(text)


def _sign(finding: Finding) -> str:
    return SIGNS[finding.holds]


def _short(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return "/".join(_short(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
