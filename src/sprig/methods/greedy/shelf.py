"""Which rule of `sprig.greedy` picks the units of a group under the refit objective.

exact, stochastic and backward walk once and give an order for every size. swap, distributed and beam choose a set of
one size: the search walks exactly, and they choose once the budget has fixed the sizes. lazy is refused: it needs
gains that never grow, and least squares has suppressors, units that are worth nothing alone and much beside another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sprig.core import greedy
from sprig.core.errors import InputError
from sprig.core.greedy import Trail
from sprig.greedy import ErrorFall, maximise
from sprig.greedy.rules import sample_size
from sprig.methods.greedy.exchange import TRIES, swap
from sprig.methods.greedy.problem import ConsumerProblem
from sprig.methods.greedy.pursuit import RefitObjective, backward, path

NESTED = ("exact", "stochastic", "backward")
SIZED = ("swap", "distributed", "beam")


@dataclass(frozen=True)
class Chooser:
    """A rule with its settings: delta of stochastic, parts of distributed, width of beam.

    swaps: most exchanges tried after any rule (0: none; the swap rule alone goes on while they help).
    """

    rule: str = "exact"
    delta: float = 0.1
    parts: int = 2
    width: int = 4
    swaps: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rule == "lazy":
            raise InputError(
                "the lazy rule needs gains that never grow, and those of least squares can: use exact or stochastic"
            )
        if self.rule not in (*NESTED, *SIZED):
            raise InputError(
                f"unknown rule {self.rule!r}; known are {', '.join((*NESTED, *SIZED))}"
            )

    @property
    def waits(self) -> bool:
        """Whether sets are chosen only once their size is known."""
        return self.rule in SIZED or self.swaps > 0

    def walk(
        self, problems: Sequence[ConsumerProblem], size: int, *, salt: int = 0, steps: int | None = None,
        dtype: torch.dtype = torch.float64, together: int = 1,
    ) -> Trail:  # fmt: skip
        """Units, best first, with the error at every size; exactly where the rule chooses sets of one size.

        together: see `path`; stochastic and backward go one unit at a time. stochastic: before pick n it looks at the
        sample that a set of n units asks for, so that its bound holds at every size of the walk.
        """
        if self.rule == "backward":
            return backward(problems, size, ridge=0.0, dtype=dtype)
        if self.rule != "stochastic":
            return path(problems, size, ridge=0.0, dtype=dtype, together=together, steps=steps)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + 11 + salt)

        def look(left: Tensor) -> Tensor:
            many = sample_size(size, size - len(left) + 1, self.delta)
            drawn = torch.randperm(len(left), generator=generator)[:many]
            return left[drawn.sort().values]

        objective = RefitObjective(problems, size, ridge=0.0, dtype=dtype)
        return greedy.exact(objective, size if steps is None else steps, look=look)

    def choose(
        self, problems: Sequence[ConsumerProblem], count: int, *, size: int, salt: int = 0
    ) -> tuple[int, ...]:
        """A set of `count` units; fewer where nothing can be added any more."""
        if self.rule in ("distributed", "beam"):
            fall = ErrorFall(RefitObjective(problems, size, ridge=0.0))
            own: dict[str, Any] = {"distributed": {"parts": self.parts}}.get(
                self.rule, {"width": self.width}
            )
            picks = maximise(fall, count, rule=self.rule, seed=self.seed + salt, **own).picks
        else:
            picks = self.walk(problems, size, salt=salt, steps=count).picks[:count]
        return self.exchanged(problems, picks, size=size)

    def exchanged(
        self, problems: Sequence[ConsumerProblem], picks: Sequence[int], *, size: int
    ) -> tuple[int, ...]:
        """The picks after the exchanges that are asked for."""
        if not self.swaps and self.rule != "swap":
            return tuple(picks)
        rounds = self.swaps or None
        return swap(problems, picks, size=size, ridge=0.0, rounds=rounds, tries=TRIES).picks
