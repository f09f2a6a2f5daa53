"""The bound of the calibration data is kept: what a process needs to hold it, measured, in units of the data."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sprig
from sprig.core.batches import as_batches
from sprig.data import load, specs
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


class Loader:
    """64 bytes each batch."""

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(0)
        return (torch.randn(4, 4, generator=generator) for _ in range(20))

    def __len__(self) -> int:
        return 20


def test_a_run_on_a_part_of_the_data_is_rechecked_on_that_part(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    x = next(iter(Loader()))
    data = as_batches(Loader(), memory=64 * 12.5)
    out = tmp_path / "part"
    result = sprig.prune(net, (x[:2],), data, sprig.Budget(macs=0.5), folder=out)
    assert result.samples == 48
    assert data.description == "user's Loader", "the caller's own is as it was"
    assert sprig.verify(out, net, Loader()).passed
    alike = sprig.prune(net, (x[:2],), list(Loader())[:12], sprig.Budget(macs=0.5))
    assert alike.plan.hash == result.plan.hash and alike.samples is None
    assert alike.certificate.hashes == {
        k: v for k, v in result.certificate.hashes.items() if k in alike.certificate.hashes
    }


def test_a_stream_without_end_is_read_by_the_command_line_up_to_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(specs, "HELD", 64 * 5.5)
    file = tmp_path / "endless.py"
    file.write_text(
        "import torch\n\ndef batches():\n    while True:\n        yield torch.ones(4, 4)\n"
    )
    found = load(f"{file}:batches")
    assert (len(found), found.samples, len(list(found))) == (5, 20, 5)
    assert found.description.endswith("as many as fit into 352 bytes")
