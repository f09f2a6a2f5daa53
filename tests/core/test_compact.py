"""Forms for tensors with zeros: bytes as stated, the smallest chosen, the same values back."""

from pathlib import Path

import pytest
import torch

from sprig.core.compact import (
    FORMS,
    decode,
    encode,
    load_compact,
    save_compact,
    sizes,
    smallest,
)
from sprig.core.errors import StoreError
from sprig.core.weights import write_tensors


def sparse(shape, share, *, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator).to(dtype)
    return values * (torch.rand(shape, generator=generator) < share)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(7,), (5, 9), (4, 3, 3, 3), (1, 1), (3, 0), ()])
def test_every_form_gives_the_tensor_back_in_the_bytes_it_states(shape, dtype):
    tensor = sparse(shape, 0.3, dtype=dtype)
    for form, stated in sizes(tensor).items():
        parts = encode(tensor, form)
        assert sum(part.nbytes for part in parts.values()) == stated
        back = decode(parts, form, tuple(tensor.shape))
        assert back.dtype == dtype
        assert torch.equal(back, tensor)


def test_rows_and_columns_at_their_ends():
    tensor = torch.zeros(4, 70_000)
    tensor[1, 0] = tensor[1, 65_536] = tensor[3, 69_999] = 2.5
    assert "csr16" not in sizes(tensor)
    assert torch.equal(decode(encode(tensor, "csr32"), "csr32", tensor.shape), tensor)
    edge = torch.zeros(2, 65_536)
    edge[1, 65_535] = edge[1, 40_000] = -1.0  # numbers that do not fit in 15 bits
    assert torch.equal(decode(encode(edge, "csr16"), "csr16", edge.shape), edge)
    with pytest.raises(StoreError, match=r"no form 'csr16'; it can be dense, bitmap, csr32"):
        encode(tensor, "csr16")


def test_the_smallest_form_changes_where_the_formulas_say():
    rows, columns = 1000, 1000
    for share, form in ((1.0, "dense"), (0.9, "bitmap"), (0.1, "bitmap"), (0.02, "csr16")):
        tensor = sparse((rows, columns), share)
        found = sizes(tensor)
        assert smallest(tensor) == form
        count = int((tensor != 0).sum())
        assert found["bitmap"] == rows * columns // 8 + 4 * count
        assert found["csr16"] == 4 * (rows + 1) + 6 * count
        assert found["csr32"] == 4 * (rows + 1) + 8 * count


def test_a_state_dict_comes_back_smaller_on_disk(tmp_path: Path):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(784, 300), torch.nn.ReLU(), torch.nn.Linear(300, 10), torch.nn.BatchNorm1d(10)
    )  # fmt: skip
    with torch.no_grad():
        net[0].weight *= torch.rand_like(net[0].weight) < 0.03
        net[2].weight *= torch.rand_like(net[2].weight) < 0.2
    forms = save_compact(tmp_path / "small.safetensors", net.state_dict())
    assert (forms["0.weight"], forms["2.weight"], forms["2.bias"]) == ("csr16", "bitmap", "dense")
    write_tensors(tmp_path / "dense.safetensors", net.state_dict())
    assert set(forms.values()) <= set(FORMS)
    small, dense = ((tmp_path / f"{n}.safetensors").stat().st_size for n in ("small", "dense"))
    assert small < 0.08 * dense
    back = load_compact(tmp_path / "small.safetensors")
    assert list(back) == list(net.state_dict())
    assert all(torch.equal(back[n], t) for n, t in net.state_dict().items())
    with pytest.raises(StoreError, match="holds no compact tensors"):
        load_compact(tmp_path / "dense.safetensors")
