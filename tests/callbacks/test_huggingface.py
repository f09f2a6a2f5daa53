"""With the real Trainer: a masked model stays masked, a shrunk one trains, is saved and comes back."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from safetensors.torch import load_model
from transformers import TrainerCallback

import sprig
from sprig.callbacks import huggingface
from sprig.methods.penalties.halo import Halo
from sprig.methods.penalties.scope import Scope
from sprig.methods.penalties.shrinker import Shrinker
from sprig.models.pretrained import save_pretrained
from sprig.models.specs import build

SPEC = (
    "hf:bert?hidden_size=16&num_hidden_layers=2&num_attention_heads=4&intermediate_size=20&vocab_size=31"
    "&class=BertForSequenceClassification&num_labels=3"
    "&hidden_act=sigmoid"  # not zero at zero: the zeros of a mask get gradients
)
pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")


class Lines(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(2)
        self.ids = torch.randint(3, 31, (24, 6), generator=generator)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        ids = self.ids[i]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[0] % 3}


def example() -> dict[str, Tensor]:
    ids = Lines().ids[:2]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def planned(model: nn.Module) -> tuple[sprig.Plan, sprig.Graph]:
    """Half of every group: the hidden features of both layers, and their heads."""
    graph = sprig.trace(model, example())
    chosen = [g for g in graph.prunable if g.size == 20]
    assert len(chosen) == 2
    keep = {g.name: tuple(range(0, g.size, 2)) for g in chosen}
    return sprig.Plan(keep, {g.name: g.size for g in chosen}, graph.fingerprint), graph


def trainer(model: nn.Module, folder: Path, callbacks: list[Any], **more: Any) -> Any:
    from transformers import Trainer, TrainingArguments

    settings = TrainingArguments(
        output_dir=str(folder), num_train_epochs=2, per_device_train_batch_size=8, report_to=[],
        learning_rate=1e-2, weight_decay=0.01, use_cpu=True, disable_tqdm=True, logging_strategy="no",
        dataloader_pin_memory=False, **{"save_strategy": "no", **more},
    )  # fmt: skip
    return Trainer(model=model, args=settings, train_dataset=Lines(), callbacks=callbacks)


def answer(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(**example()).logits


def columns(model: Any) -> list[list[bool]]:
    """Which hidden features of each layer's second map have any weight."""
    return [layer.output.dense.weight.any(0).tolist() for layer in model.bert.encoder.layer]


def test_a_masked_model_stays_masked(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(SPEC)
    plan, graph = planned(model)
    half = [i % 2 == 0 for i in range(20)]
    loose = sprig.mask(model, plan, graph)
    trainer(loose, tmp_path / "loose", []).train()
    assert columns(loose) == [[True] * 20] * 2  # or the test could not fail
    masked = sprig.mask(model, plan, graph)
    before = answer(masked)
    for steps in (1, 2):  # also where several batches make one step
        job = trainer(
            masked, tmp_path / f"held{steps}", [huggingface.KeepMasks(plan, graph)],
            gradient_accumulation_steps=steps,
        )  # fmt: skip
        job.train()
        assert columns(job.model) == [half] * 2
    assert (answer(masked) - before).abs().max() > 1e-3
    small = sprig.shrink(job.model, plan, graph)
    torch.testing.assert_close(answer(small), answer(masked), rtol=1e-4, atol=1e-5)
    assert small.bert.encoder.layer[0].output.dense.in_features == 10


def test_a_shrunk_model_trains_goes_on_and_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(SPEC)
    plan, graph = planned(model)
    small = sprig.shrink(model, plan, graph)
    fresh = sprig.shrink(model, plan, graph)
    job = trainer(small, tmp_path, [], save_strategy="epoch", seed=3)
    before = answer(small)
    job.train()
    after = answer(job.model)
    assert (after - before).abs().max() > 1e-3
    again = sprig.shrink(model, plan, graph)  # from the first epoch's checkpoint to the same end
    trainer(again, tmp_path, [], seed=3).train(
        resume_from_checkpoint=str(tmp_path / "checkpoint-3")
    )
    torch.testing.assert_close(answer(again), after)
    job.save_model(str(tmp_path / "saved"))
    load_model(fresh, str(tmp_path / "saved" / "model.safetensors"))
    torch.testing.assert_close(answer(fresh), after)
    save_pretrained(job.model, tmp_path / "plain")  # with a configuration of its widths: no sprig
    from transformers import AutoModelForSequenceClassification

    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain")
    assert plain.config.intermediate_size == 10
    torch.testing.assert_close(answer(plain), after)


def test_a_plan_for_another_model_is_refused(tmp_path: Path) -> None:
    model = build(SPEC)
    plan, graph = planned(model)
    small = sprig.shrink(model, plan, graph)
    with pytest.raises(sprig.PlanError, match="use the model that was traced"):
        trainer(small, tmp_path, [huggingface.KeepMasks(plan, graph)]).train()


def test_without_transformers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    spec = importlib.util.spec_from_file_location("bare_huggingface", huggingface.__file__)
    assert spec is not None and spec.loader is not None
    bare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bare)
    net = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2))
    graph = sprig.trace(net, (torch.ones(2, 2),))
    with pytest.raises(sprig.InputError, match=r"pip install torch-sprig\[hf\]"):
        bare.KeepMasks(sprig.Plan({}, {}, graph.fingerprint), graph)
    with pytest.raises(sprig.InputError, match=r"pip install torch-sprig\[hf\]"):
        bare.Shrinks(lambda model: model)


def halo(**more: Any) -> huggingface.Shrinks:
    settings = Halo(xi=0.1, psi=1e-3, mode="proximal", rate=50.0)
    scope = Scope(exclude=("*embeddings*",))
    return huggingface.Shrinks(
        lambda model: Shrinker(model, settings, scope=scope, steps=12), **more
    )


def test_a_resumed_penalty_ends_with_the_same_bits(tmp_path: Path) -> None:
    def fresh() -> nn.Module:
        torch.manual_seed(0)
        return build(SPEC)

    whole, callback = fresh(), halo()
    job = trainer(whole, tmp_path / "a", [callback], save_strategy="epoch", seed=3)
    job.train()
    zeros = sum(int((p == 0).sum()) for p in callback.shrinker.weights)
    assert zeros > 0
    assert callback.shrinker.step == 6
    assert not callback.shrinker._handles  # let go at the end
    rest, again = fresh(), halo()
    middle = tmp_path / "a" / "checkpoint-3"
    trainer(rest, tmp_path / "a", [again], seed=3).train(resume_from_checkpoint=str(middle))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), rest.parameters()))
    for key in ("coefficients", "velocity"):
        for a, b in zip(callback.shrinker.state[key], again.shrinker.state[key]):
            assert torch.equal(a, b)
    (middle / "penalty.safetensors").rename(tmp_path / "penalty.safetensors")
    with pytest.raises(sprig.StoreError, match=r"goes on at step 3, but .*give the folder"):
        trainer(fresh(), tmp_path / "a", [halo()], seed=3).train(resume_from_checkpoint=str(middle))
    other = fresh()
    trainer(other, tmp_path / "a", [halo(resume=tmp_path)], seed=3).train(
        resume_from_checkpoint=str(middle)
    )
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), other.parameters()))


def test_a_training_that_was_interrupted_leaves_no_penalty_behind(tmp_path: Path) -> None:
    class Interrupts(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                raise KeyboardInterrupt

    model, callback, stop = build(SPEC), halo(), Interrupts()
    job = trainer(model, tmp_path, [callback, stop])
    with pytest.raises(KeyboardInterrupt):
        job.train()
    first = callback.shrinker
    job.remove_callback(stop)
    job.train()
    assert callback.shrinker is not first and callback.shrinker.step == 6
    assert first.step == 3 and not first._handles


def test_what_can_do_nothing_is_told_and_what_is_not_finite_never_saved(tmp_path: Path) -> None:
    model = build(SPEC)
    weak = huggingface.Shrinks(lambda m: Shrinker(m, Halo(xi=1e-6, psi=1e-6, mode="proximal")))
    with pytest.warns(UserWarning, match="Halo does nothing with these settings: in 6 steps"):
        trainer(model, tmp_path / "weak", [weak]).train()

    class Poison(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 6:
                callback.shrinker.state["coefficients"][0].fill_(float("inf"))

    callback = halo()
    job = trainer(model, tmp_path / "a", [Poison(), callback], save_strategy="epoch")
    with pytest.raises(sprig.core.errors.DivergenceError, match="coefficients of"):
        job.train()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["checkpoint-3"]


def test_single_weights_stay_masked(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(SPEC)
    name = "bert.encoder.layer.0.output.dense.weight"
    weight = model.get_parameter(name)
    masks = {name: weight.detach().abs() > 0.02}
    trainer(model, tmp_path, [huggingface.KeepMasks(masks)]).train()
    assert torch.equal(weight != 0, masks[name])
