"""The import contracts of pyproject.toml hold, and are not empty words."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _lint(folder: Path, config: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from importlinter.cli import lint_imports_command as run; run(sys.argv[1:])"
    return subprocess.run(
        [sys.executable, "-c", code, "--config", str(config), "--cache-dir", str(cache)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "src"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_contracts_hold(tmp_path: Path) -> None:
    done = _lint(ROOT, ROOT / "pyproject.toml", tmp_path / "cache")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_contracts_break_where_they_should(tmp_path: Path) -> None:
    """A small house of the same plan with one wrong import each; new rooms need no new contract."""
    package = tmp_path / "src" / "sprig"
    files = {
        "__init__.py": "",
        "core/__init__.py": "",
        "core/low.py": "import sprig.methods.one",  # up
        "training/__init__.py": "",
        "report/__init__.py": "import sprig.training",  # reports know records only
        "models/__init__.py": "",
        "data/__init__.py": "",
        "methods/__init__.py": "",
        "methods/one/__init__.py": "",
        "methods/two/__init__.py": "import sprig.methods.one",  # sideways
    }
    for name, text in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    done = _lint(tmp_path, ROOT / "pyproject.toml", tmp_path / "cache")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "0 kept, 3 broken" in done.stdout
    for pair in (
        "sprig.core is not allowed to import sprig.methods",
        "sprig.report is not allowed to import sprig.training",
        "sprig.methods.two is not allowed to import sprig.methods.one",
    ):
        assert pair in done.stdout
