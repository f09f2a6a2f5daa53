"""The pages are true: their Python runs, their commands exist, their links lead somewhere, their lists are complete."""

import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import sprig
from sprig.cli.main import VERBS, load
from sprig.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "src" / "sprig" / "core" / "README.md",
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(#[^)]*)?\)")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(text: str, *kinds: str) -> list[tuple[int, str]]:
    """Line and content of the fenced blocks of these kinds."""
    found = []
    for match in FENCE.finditer(text):
        if match[1] in kinds:
            found.append((text[: match.start(2)].count("\n"), match[2]))
    return found


def run_blocks(page: Path) -> int:
    """Run the Python of a page in order, in one namespace, with line numbers of the page."""
    space: dict[str, Any] = {"__name__": "page"}
    found = blocks(page.read_text(encoding="utf-8"), "python")
    for line, code in found:
        exec(compile("\n" * line + code, str(page), "exec"), space)
    return len(found)


def commands(text: str) -> list[list[str]]:
    """The words of every `sprig ...` line in the shell blocks; `$` marks them where output follows."""
    found = []
    for _, code in blocks(text, "sh", "console"):
        for line in code.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True) if "sprig " in line else []
            if words[:1] == ["sprig"]:
                found.append(words[1:])
    return found


def wrong(words: list[str]) -> str | None:
    """What a command line gets wrong about verbs and flags."""
    if words[0].startswith("-"):
        return None if words[0] in ("--help", "--version") else f"no flag {words[0]}"
    if words[0] not in VERBS:
        return f"no verb {words[0]!r}"
    known = {
        flag
        for option in load(words[0]).params
        for flag in (*option.opts, *option.secondary_opts)
        if flag.startswith("-")
    }
    extra = [w for w in words[1:] if w.startswith("-") and w.partition("=")[0] not in known]
    return f"sprig {words[0]} has no {extra}" if set(extra) - {"--help"} else None


def section(text: str, title: str) -> str:
    """The text below a heading, up to the next one."""
    start = text.index(f"{title}\n")
    end = re.search(r"^#+ ", text[start + len(title) :], re.MULTILINE)
    return text[start : start + len(title) + end.start()] if end else text[start:]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    run_blocks(page)


def test_there_is_python_to_run() -> None:
    assert sum(len(blocks(p.read_text(encoding="utf-8"), "python")) for p in PAGES) >= 15


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_commands_of_a_page_exist(page: Path) -> None:
    bad = [w for words in commands(page.read_text(encoding="utf-8")) if (w := wrong(words))]
    assert not bad


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    links = [m[1] for m in LINK.finditer(FENCE.sub("", page.read_text(encoding="utf-8")))]
    dead = [x for x in links if "://" not in x and not (page.parent / x).exists()]
    assert not dead


@pytest.mark.parametrize("page", ["README.md", "docs/methods.md"])
def test_every_method_is_listed(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    missing = [name for name in METHODS if f"`{name}`" not in text]
    assert not missing


def test_every_verb_has_its_section() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    missing = [verb for verb in VERBS if f"## `sprig {verb}`\n" not in text]
    assert not missing


@pytest.mark.parametrize("name", sprig.__all__)
def test_every_public_name_is_described_with_all_its_arguments(name: str) -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    value = getattr(sprig, name)
    if inspect.isclass(value) and issubclass(value, Exception):
        assert f"`{name}`" in text
        return
    body = section(text, f"### `sprig.{name}`")
    missing = [p for p in inspect.signature(value).parameters if p not in body]
    assert not missing, f"docs/api.md, {name}: no word of {missing}"


def test_the_checks_see_what_they_should(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# t\n\n```python\nx = 1\n```\n\n```python\n\nassert x == 2\n```\n")
    with pytest.raises(AssertionError) as caught:
        run_blocks(page)
    assert caught.traceback[-1].lineno == 8  # counted from 0: the ninth line of the page
    assert commands("```sh\nsprig prune --a \\\n  b  # c\nls\n```") == [["prune", "--a", "b"]]
    assert wrong(["prun"]) == "no verb 'prun'"
    assert "--nonsense" in str(wrong(["methods", "--nonsense"]))
    assert wrong(["methods", "refit", "--json"]) is None
    assert section("## a\nx\n## b\ny", "## a") == "## a\nx\n"
