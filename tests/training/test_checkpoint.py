"""Killed at any point and resumed, a training ends with the same bits."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sprig.core.errors import DivergenceError, StoreError
from sprig.core.stages import save_tree
from sprig.core.weights import sha256_model
from sprig.training import FinetuneConfig, Moment, finetune


class Counter:
    """A hook with a memory: pulls the first bias towards a number that it counts up."""

    def __init__(self):
        self.seen = torch.zeros(())

    def __call__(self, moment, run):
        if moment is Moment.STEP_CLOSES:
            self.seen += 1
            with torch.no_grad():
                run.model[0].bias += self.seen * 1e-4

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"].clone()


class Kill:
    """SIGKILL to the own process at one moment of one step."""

    def __init__(self, step, moment=Moment.GRADIENTS_READY):
        self.step, self.moment = step, moment

    def __call__(self, moment, run):
        if moment is self.moment and run.step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(144, 3),
    )


def loader():
    g = torch.Generator().manual_seed(1)
    rows = TensorDataset(
        torch.randn(40, 1, 8, 8, generator=g), torch.randint(0, 3, (40,), generator=g)
    )
    return DataLoader(rows, batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(2))


def settings(kind):
    return FinetuneConfig(
        epochs=4, lr=0.05, optimizer=kind, warmup=1.0, clip=1.0, channels_last=kind == "sgd", seed=7
    )


def run(folder, *, kind="sgd", resume=False, kill=()):
    return finetune(
        net(),
        loader(),
        config=settings(kind),
        teacher=net(),
        hooks=(Counter(), *kill),
        folder=folder,
        resume=resume,
    )


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("at", [0, 7, 14])
def test_resumed_after_an_exception_the_bits_are_the_same(tmp_path, kind, at):
    whole = run(tmp_path / "whole", kind=kind)

    def fail(moment, run):
        if moment is Moment.GRADIENTS_READY and run.step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part", kind=kind, kill=(fail,))
    again = run(tmp_path / "part", kind=kind, resume=True)
    assert again.resumed == (at >= 5)
    assert not whole.resumed
    assert sha256_model(again.model) == sha256_model(whole.model)
    assert again.history == whole.history


@pytest.mark.flow
def test_resumed_after_sigkill_in_another_process_the_bits_are_the_same(tmp_path):
    whole = sha256_model(run(None).model)
    script = (
        "import sys, torch; torch.set_num_threads(int(sys.argv[4])); sys.path.insert(0, sys.argv[1]);"
        "from test_checkpoint import Kill, Moment, run;"
        "run(sys.argv[2], resume=True, kill=(Kill(int(sys.argv[3]), Moment.STEP_CLOSES),))"
    )
    arguments = [str(Path(__file__).parent), str(tmp_path / "killed"), "12"]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments, str(torch.get_num_threads())],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    record = run(tmp_path / "killed", resume=True)
    assert record.resumed
    assert sha256_model(record.model) == whole


def test_a_finished_training_is_not_repeated(tmp_path):
    first = run(tmp_path)
    seen = []
    again = finetune(
        net(),
        loader(),
        config=settings("sgd"),
        teacher=net(),
        hooks=(Counter(), lambda moment, run: seen.append(moment)),
        folder=tmp_path,
        resume=True,
    )
    assert seen == [Moment.RUN_OPENS, Moment.RUN_CLOSES]
    assert sha256_model(again.model) == sha256_model(first.model)


def test_divergence_leaves_the_checkpoint_of_the_epoch_before(tmp_path):
    def poison(moment, run):
        if moment is Moment.STEP_OPENS and run.step == 12:
            with torch.no_grad():
                run.model[5].weight.fill_(float("nan"))

    with pytest.raises(DivergenceError, match=r"step 12 .*5\.weight"):
        run(tmp_path, kill=(poison,))
    record = run(tmp_path, resume=True)
    assert record.resumed
    assert sha256_model(record.model) == sha256_model(run(None).model)


def test_a_training_in_the_way_or_another_one_is_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(StoreError, match="already holds a training"):
        run(tmp_path)
    with pytest.raises(StoreError, match="its settings is"):
        run(tmp_path, kind="adamw", resume=True)
    options = {"folder": tmp_path, "resume": True, "config": settings("sgd")}
    with pytest.raises(StoreError, match="its teacher is"):
        finetune(net(), loader(), hooks=(Counter(),), **options)
    other = net()
    other[5].bias.data += 1
    with pytest.raises(StoreError, match="its starting weights is"):
        finetune(other, loader(), teacher=net(), hooks=(Counter(),), **options)
    with pytest.raises(StoreError, match="remembers 1 hooks, this run has 0"):
        finetune(net(), loader(), teacher=net(), **options)


def test_a_damaged_or_foreign_state_is_refused(tmp_path):
    run(tmp_path)
    path = tmp_path / "training.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match=r"training\.safetensors"):
        run(tmp_path, resume=True)
    save_tree(path, {"something": 1})
    with pytest.raises(StoreError, match="is not the state of a training"):
        run(tmp_path, resume=True)


def test_an_unwritable_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write to"):
        run(tmp_path / "file" / "state")
