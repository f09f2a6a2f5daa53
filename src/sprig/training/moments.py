"""The named moments of training, and the loop they sit in.

::

    RUN_OPENS
    for epoch:
        EPOCH_OPENS                   weights as the epoch starts; random numbers seeded from (seed, epoch)
        for batch:
            STEP_OPENS                run.args, run.kwargs, run.target, run.lr are set
            output = model(batch)
            LOSS_READY                run.output, run.loss are set; a hook may replace run.loss
            loss.backward()
            GRADIENTS_READY           gradients are complete, not yet clipped; a hook may change them
            optimizer.step()
            STEP_CLOSES               weights have moved, run.step has counted; a hook may move them further
        EPOCH_CLOSES                  run.epoch has counted; a hook may add to run.row
    RUN_CLOSES

What opens first closes last: at the moments that open, hooks are called in the order given; at the moments
that close (and at GRADIENTS_READY, on the way back), in reverse. RUN_CLOSES is kept even when the run fails,
for every hook whose RUN_OPENS succeeded, so that a hook can undo what it attached; the other moments are not.

A hook is any callable `hook(moment, run)`. A hook that remembers something between epochs also offers
`state_dict()` and `load_state_dict(state)` (tensors, numbers, strings, and lists and dicts of them); it is then
saved and restored with the checkpoint.
"""

from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from sprig.training.loop import Run


class Moment(Enum):
    """When a hook is called; see the loop above."""

    RUN_OPENS = "run opens"
    EPOCH_OPENS = "epoch opens"
    STEP_OPENS = "step opens"
    LOSS_READY = "loss ready"
    GRADIENTS_READY = "gradients ready"
    STEP_CLOSES = "step closes"
    EPOCH_CLOSES = "epoch closes"
    RUN_CLOSES = "run closes"

    @property
    def backwards(self) -> bool:
        """Whether hooks are called last to first."""
        return self in (
            Moment.GRADIENTS_READY,
            Moment.STEP_CLOSES,
            Moment.EPOCH_CLOSES,
            Moment.RUN_CLOSES,
        )


class Hook(Protocol):
    """Anything that wants to be called at the moments."""

    def __call__(self, moment: Moment, run: "Run") -> None: ...
