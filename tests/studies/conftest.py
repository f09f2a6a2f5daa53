"""Quick studies, carried out once for all tests that look at them."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from sprig.studies import study
from sprig.studies.record import Finding, Record


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Record]:
    """The record of a quick study; its folder is `quick.folder(name)`."""

    @cache
    def carried_out(name: str) -> Record:
        return study(name, quick=True, folder=tmp_path_factory.mktemp("studies") / name)

    return carried_out


@pytest.fixture
def finding() -> Callable[[Record, str], Finding]:
    """The one finding of a record whose claim has these words."""

    def found(record: Record, words: str) -> Finding:
        matches = [f for f in record.conclusion.findings if words in f.claim]
        assert len(matches) == 1, [f.claim for f in record.conclusion.findings]
        return matches[0]

    return found


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder that is not there yet."""
    return tmp_path / "study"
