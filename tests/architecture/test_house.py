"""The rules of the house that can be read off the source: sizes, imports, words, doors."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "sprig"
FILES = sorted(SOURCE.rglob("*.py"))
CODE = [
    *FILES,
    *sorted(p for d in ("tests", "benchmarks", "docs") for p in (ROOT / d).rglob("*.py")),
]
LIMIT = 350

# file → (lines it may have, why it is not split)
LONG: dict[str, tuple[int, str]] = {}

CORE_NEEDS = {"torch", "numpy", "scipy", "safetensors", "sprig"}
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
MAY_PRINT = {"cli", "report"}
NO_FRONT_DOOR = ("core", "training", "methods", "models", "data", "report", "callbacks", "studies")


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _unsafe_loads(tree: ast.AST) -> list[int]:
    """Lines of torch.load without weights_only=True."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and _dotted(node.func) == "torch.load"
        and not any(
            k.arg == "weights_only" and isinstance(k.value, ast.Constant) and k.value.value is True
            for k in node.keywords
        )
    ]


def _prints(tree: ast.AST) -> list[int]:
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _dotted(node.func) == "print"
    ]


def test_there_is_source_to_check() -> None:
    assert len(FILES) > 20


def test_files_are_short() -> None:
    long = {_name(p): len(p.read_text(encoding="utf-8").splitlines()) for p in FILES}
    over = {n: lines for n, lines in long.items() if lines > LONG.get(n, (LIMIT, ""))[0]}
    assert not over, f"over {LIMIT} lines, split them: {over}"


def test_exceptions_to_the_length_are_argued_and_needed() -> None:
    for name, (allowed, why) in LONG.items():
        assert len(why) > 20, f"{name}: say why it is not split"
        lines = len((ROOT / name).read_text(encoding="utf-8").splitlines())
        assert LIMIT < lines <= allowed, f"{name} has {lines} lines: drop or adjust its exception"


def test_modules_say_what_they_are() -> None:
    silent = [_name(p) for p in FILES if p.read_text().strip() and not ast.get_docstring(_tree(p))]
    assert not silent, f"no docstring at the top: {silent}"


def test_only_the_edges_print() -> None:
    found = {
        _name(p): lines
        for p in FILES
        if p.relative_to(SOURCE).parts[0] not in MAY_PRINT and (lines := _prints(_tree(p)))
    }
    assert not found, f"print outside cli and report: {found}"


def test_no_pickle_in_the_library() -> None:
    found = {_name(p): bad for p in FILES if (bad := _pickles(_tree(p)))}
    assert not found, f"modules that run code when they read: {found}"


def test_torch_load_reads_tensors_only() -> None:
    found = {_name(p): lines for p in CODE if (lines := _unsafe_loads(_tree(p)))}
    assert not found, f"torch.load without weights_only=True: {found}"


def test_core_needs_little() -> None:
    allowed = CORE_NEEDS | set(sys.stdlib_module_names)
    found = {
        _name(p): bad
        for p in FILES
        if p.relative_to(SOURCE).parts[0] == "core"
        and (bad := {i.split(".")[0] for i in _imports(_tree(p))} - allowed)
    }
    assert not found, f"core may import {sorted(CORE_NEEDS)} and the standard library: {found}"


def test_nobody_inside_comes_through_the_front_door() -> None:
    found = [
        _name(p)
        for p in FILES
        if p.relative_to(SOURCE).parts[0] in NO_FRONT_DOOR and "sprig" in set(_imports(_tree(p)))
    ]
    assert not found, f"`import sprig` inside sprig makes circles; import from the module: {found}"


def test_every_room_has_a_card() -> None:
    rooms = [p for p in (SOURCE / "methods").iterdir() if (p / "__init__.py").is_file()]
    bare = [_name(r) for r in rooms if len(_card(r).split()) < 50]
    assert not bare, f"a README.md card of at least 50 words is missing in {bare}"


def test_public_names_are_in_the_docs() -> None:
    init = SOURCE / "__init__.py"
    text = " ".join(
        p.read_text(encoding="utf-8")
        for p in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
        if p.name != "CHANGELOG.md"
    )
    words = set(_words(text))
    missing = [n for n in _exported(init) if not n.startswith("__") and n not in words]
    assert not missing, f"in sprig.__all__ but nowhere in README.md or docs/: {missing}"


def test_readme_names_the_two_commands() -> None:
    readme = ROOT / "README.md"
    assert readme.is_file(), "README.md is missing: it is the first thing that a visitor sees"
    text = readme.read_text(encoding="utf-8")
    assert "make demo" in text
    assert "make test" in text


def test_typing_marker_is_shipped() -> None:
    assert (SOURCE / "py.typed").is_file()


@pytest.mark.parametrize(
    ("code", "caught"),
    [
        ("torch.load(f)", 1),
        ("torch.load(f, weights_only=False)", 1),
        ("torch.load(f, map_location='cpu', weights_only=True)", 0),
    ],
)
def test_the_check_of_loads_sees_them(code: str, caught: int) -> None:
    assert len(_unsafe_loads(ast.parse(code))) == caught


def test_the_checks_of_prints_and_pickles_see_them() -> None:
    assert _prints(ast.parse("def f():\n    print(1)")) == [2]
    assert _pickles(ast.parse("from pickle import loads\nimport numpy")) == {"pickle"}


def _pickles(tree: ast.AST) -> set[str]:
    return {i.split(".")[0] for i in _imports(tree)} & PICKLES


def _card(room: Path) -> str:
    path = room / "README.md"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() or c == "_" else " " for c in text).split()


def _exported(init: Path) -> list[str]:
    """The literal `__all__` of a module, without importing it."""
    if not init.is_file():
        return []
    for node in _tree(init).body:
        if isinstance(node, ast.Assign) and [_dotted(t) for t in node.targets] == ["__all__"]:
            return [str(name) for name in ast.literal_eval(node.value)]
    return []
