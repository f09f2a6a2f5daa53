"""The bound of the calibration data is kept: what a process needs to hold it, measured, in units of the data."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from sprig.testing.processes import Processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

WORK = Path(__file__).with_name("memory_work.py")
SUM = 8.0 * sum(range(128))


def needed(size: int, folder: Path, kind: str, memory: float = 2e9) -> list[dict[str, Any]]:
    group = Processes(f"{WORK}:hold", size, folder, (str(folder), kind, str(memory)))
    codes = group.wait(120)
    assert codes == [0] * size, [group.said(rank)[-2000:] for rank in range(size)]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]


@pytest.mark.flow
@pytest.mark.parametrize("kind", ["stream", "loader"])
def test_one_process_holds_the_data_once(tmp_path: Path, kind: str) -> None:
    (found,) = needed(1, tmp_path, kind)
    assert (found["sum"], found["samples"], found["read again"]) == (SUM, 1024, 128)
    assert 0.9 < found["needed"] < 1.1, "once, and a chunk"


@pytest.mark.flow
def test_no_more_than_the_bound_is_held_of_what_can_be_read_anew(tmp_path: Path) -> None:
    (found,) = needed(1, tmp_path, "loader", memory=50e6)
    assert found["samples"] == found["read again"] * 8 == 248, "31 batches of 1.57 MB"
    assert found["data"].endswith(", its first 31 batches (no more than 5e+07 bytes are held)")
    assert found["needed"] < 0.3


@pytest.mark.flow
def test_each_process_holds_its_share(tmp_path: Path) -> None:
    for kind in ("stream", "loader"):
        folder = tmp_path / kind
        folder.mkdir()
        found = needed(4, folder, kind)
        assert sum(f["sum"] for f in found) == SUM
        assert all(f["samples"] == 1024 for f in found)
        shares = [f["needed"] for f in found[kind == "stream" :]]
        assert found[0]["needed"] < 1.1
        assert max(shares) < 0.4, "a quarter, and the first samples until the cut is settled"
    bounded = tmp_path / "bounded"
    bounded.mkdir()
    found = needed(4, bounded, "loader", memory=25e6)
    assert all(f["samples"] == 504 for f in found), "63 batches: four times the bound of one"
