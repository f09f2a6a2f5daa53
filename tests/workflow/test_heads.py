"""A network that lost heads: its modules' numbers come back from the run folder."""

from functools import partial
from pathlib import Path

import pytest
import torch

import sprig
from sprig.testing import heads


@pytest.mark.parametrize("kind", [heads.Fused, heads.Separate, heads.Stored, heads.Placed])
def test_heads_that_left_stay_away_after_loading(kind: type, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make = partial(heads.Block, kind)
    net, x = make().eval(), torch.randn(64, 5, 8)
    result = sprig.prune(net, (x[:2],), [x], sprig.Budget(macs=0.4), method="magnitude")
    attention = next(name for name in result.plan.keep if name.startswith("attend"))
    assert len(result.plan.keep[attention]) < 4
    assert result.numbers["attend"]
    folder = result.save(tmp_path / "run")
    fresh = make()
    loaded = sprig.load(folder, fresh).eval()
    torch.testing.assert_close(loaded(x), result.model.eval()(x), rtol=0, atol=0)
    assert sprig.verify(folder, net).passed
