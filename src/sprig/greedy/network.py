"""A network whose last layer is a greedy search: an encoder makes features, `unfold` picks, gradients reach both.

    net = GreedyNetwork(encoder, concepts=24)
    loss = gold_loss(net(items, budgets=3, mask=mask), gold)       # training: soft, or mode="sampled" with a reward
    net.eval()(items, budgets=3, mask=mask).picks                  # hard: the picks of `maximise`

The encoder is any module that gives (B, N, U) real numbers. The first training batch sets two things for good:
 - each concept is centred and scaled, z, and its feature is m = softplus(3 z - 3) (a sigmoid of that for the curve
   "or", whose features are chances): few items hold much of a concept. Were all to hold alike, every curve would be
   as good as linear and the set function would have nothing to say;
 - gains are divided by their spread: the softmax of small gains is flat and nothing is learnt, and a spread that
   followed the network for good would keep it from ever becoming sure.
Weights are w = softplus of a parameter, 1 at first.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sprig.core.errors import InputError, StoreError
from sprig.core.weights import check_fit, read_all, state_of, write_tensors
from sprig.greedy.features import FeatureCoverage, curve_of
from sprig.greedy.unfolded import Walk, check_mask, gains, unfold

FLAT = 1e-8  # a spread below this is none
SHARP = (
    3.0  # of features at the start: softplus(3 z - 3), above 1 for one item in six if z is normal
)


class GreedyNetwork(nn.Module):
    """Picks k items of each example by a set function whose features are learnt.

    encoder: its output is (B, N, concepts), for whatever inputs it takes. curve: a name in `CURVES`; "linear" is the
    network without a set function: items are judged one by one. temperature: of the softmax in training, in units of
    the spread of the gains at the first training batch. mode: "soft" or "sampled", what training does; evaluation is
    hard.

    >>> from sprig.greedy import GreedyNetwork, gold_loss
    >>> net = GreedyNetwork(torch.nn.Linear(4, 3), 3)
    >>> items = torch.arange(24.0).reshape(2, 3, 4) / 24
    >>> gold = torch.tensor([[1, 0, 1], [0, 1, 0]])
    >>> gold_loss(net(items, budgets=[2, 1]), gold).backward()
    >>> net.eval()(items, budgets=[2, 1]).chosen.sum(1).tolist()
    [2.0, 1.0]
    """

    center: Tensor
    stretch: Tensor
    spread: Tensor
    settled: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        concepts: int,
        *,
        curve: str = "sqrt",
        temperature: float = 1.0,
        mode: str = "soft",
    ) -> None:
        super().__init__()
        curve_of(curve)
        if mode not in ("soft", "sampled"):
            raise InputError(
                f"training is 'soft' or 'sampled', found {mode!r}; evaluation is hard by itself"
            )
        if concepts < 1 or not temperature > 0:
            raise InputError(
                f"at least one concept and a temperature above 0, found {concepts} and {temperature}"
            )
        self.encoder, self.concepts = encoder, concepts
        self.curve, self.temperature, self.mode = curve, temperature, mode
        self.raw = nn.Parameter(torch.full((concepts,), 1.0).expm1().log())  # softplus gives 1
        self.register_buffer("center", torch.zeros(concepts))
        self.register_buffer("stretch", torch.ones(concepts))
        self.register_buffer("spread", torch.ones(()))
        self.register_buffer("settled", torch.zeros((), dtype=torch.bool))

    @property
    def weights(self) -> Tensor:
        """(U,) w, above 0."""
        return F.softplus(self.raw)

    def measure(self, *inputs: Any, mask: Tensor | None = None) -> Tensor:
        """(B, N, U) features of the items."""
        raw = self._encoded(*inputs)
        if mask is not None:
            check_mask(mask, tuple(raw.shape[:2]))
        if self.training and not bool(self.settled):
            self._settle(raw.detach(), mask)
        return self._features(raw)

    def forward(
        self,
        *inputs: Any,
        budgets: int | Sequence[int] | Tensor,
        mask: Tensor | None = None,
        draws: int = 1,
        generator: torch.Generator | None = None,
    ) -> Walk:
        """Soft or sampled steps while training, hard picks in evaluation; `unfold` says what the arguments are."""
        m = self.measure(*inputs, mask=mask)
        mode = self.mode if self.training else "hard"
        if mode != "sampled":
            draws, generator = 1, None
        return unfold(
            m,
            budgets,
            weights=self.weights,
            mask=mask,
            curve=self.curve,
            temperature=self.temperature,
            scale=self.spread,
            mode=mode,
            draws=draws,
            generator=generator,
        )

    def scores(self, *inputs: Any, mask: Tensor | None = None) -> Tensor:
        """(B, N) what each item is worth alone, over the spread: logits of the first step, a scorer without a set."""
        return self._alone(self.measure(*inputs, mask=mask)) / self.spread

    @torch.no_grad()
    def objectives(self, *inputs: Any, mask: Tensor | None = None) -> list[FeatureCoverage]:
        """The set function of every example, for any rule of `maximise`, for `guarantees`, on its items alone.

        They are counted without the padding: item i is the i-th that the mask lets through.
        """
        measured = self._features(self._encoded(*inputs))
        if mask is None:
            mask = torch.ones_like(measured[..., 0], dtype=torch.bool)
        check_mask(mask, tuple(measured.shape[:2]))
        w = self.weights
        return [
            FeatureCoverage(m[real].cpu(), w.cpu(), curve=self.curve)
            for m, real in zip(measured, mask)
        ]

    def save(self, path: str | Path) -> None:
        """Weights and settings as one safetensors file."""
        write_tensors(Path(path), state_of(self), meta=self._settings())

    def load(self, path: str | Path) -> "GreedyNetwork":
        """Fill this network from a file of `save`; curve, sizes and every tensor must be the file's."""
        state, meta = read_all(Path(path))
        found = meta if isinstance(meta, dict) else {}
        for name, want in self._settings().items():
            if found.get(name) != want:
                raise StoreError(
                    f"{path}: {name} is {found.get(name)!r}, this network has {want!r}; "
                    "build it as the saved one was"
                )
        check_fit(state, state_of(self), what=str(path))
        self.load_state_dict(state)
        return self

    def _settings(self) -> dict[str, Any]:
        return {"kind": "greedy network", "curve": self.curve, "concepts": self.concepts}

    def _encoded(self, *inputs: Any) -> Tensor:
        out = self.encoder(*inputs)
        if not isinstance(out, Tensor) or out.ndim != 3 or out.shape[-1] != self.concepts:
            found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise InputError(f"the encoder gives (examples, items, {self.concepts}), found {found}")
        return out

    def _features(self, raw: Tensor) -> Tensor:
        z = SHARP * ((raw - self.center) * self.stretch - 1)
        return torch.sigmoid(z) if self.curve == "or" else F.softplus(z)

    def _alone(self, m: Tensor) -> Tensor:
        nothing = torch.zeros_like(m[..., 0])
        return gains(m, self.weights.expand(len(m), -1), nothing, curve_of(self.curve))

    @torch.no_grad()
    def _settle(self, raw: Tensor, mask: Tensor | None) -> None:
        """Centre and scale of every concept over all items; the spread of the first gains within examples, averaged
        over those with two items or more."""
        real = torch.ones_like(raw[..., 0], dtype=torch.bool) if mask is None else mask
        rows = raw[real]
        if not bool(rows.isfinite().all()):
            raise InputError("the encoder gives finite numbers, found others in the first batch")
        self.center.copy_(rows.mean(0))
        deviation = rows.std(0, correction=0)
        self.stretch.copy_(torch.where(deviation > FLAT, 1 / deviation.clamp_min(FLAT), 1.0))
        first = self._alone(self._features(raw))
        spreads = [row[use].std() for row, use in zip(first, real) if int(use.sum()) > 1]
        found = torch.stack(spreads).mean() if spreads else torch.ones(())
        self.spread.copy_(found if float(found) > FLAT else torch.ones(()))
        self.settled.fill_(True)


def padded(examples: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Examples of different sizes as one batch: (B, N, ...) with zeros behind, and the (B, N) mask of what is real.

    >>> from sprig.greedy import padded
    >>> items, mask = padded([torch.ones(2, 5), torch.ones(3, 5)])
    >>> items.shape, mask.tolist()
    (torch.Size([2, 3, 5]), [[True, True, False], [True, True, True]])
    """
    if not examples:
        raise InputError("a batch has at least one example, found none")
    shapes = {tuple(e.shape[1:]) for e in examples}
    if len(shapes) > 1 or any(e.ndim < 1 for e in examples):
        raise InputError(f"items of one batch have one shape, found {sorted(shapes)}")
    sizes = torch.tensor([len(e) for e in examples], device=examples[0].device)
    mask = torch.arange(int(sizes.max()), device=sizes.device) < sizes[:, None]
    return nn.utils.rnn.pad_sequence(list(examples), batch_first=True), mask
