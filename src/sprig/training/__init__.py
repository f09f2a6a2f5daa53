"""Training: one short loop with hooks at named moments, and what hangs on it."""

from sprig.training.bn import reestimate_batch_norm
from sprig.training.config import FinetuneConfig, TrainConfig
from sprig.training.evaluate import Agreement, accuracy, agreement
from sprig.training.finetune import TrainRecord, finetune, train
from sprig.training.loop import Run, fit
from sprig.training.moments import Hook, Moment

__all__ = [
    "Agreement",
    "FinetuneConfig",
    "Hook",
    "Moment",
    "Run",
    "TrainConfig",
    "TrainRecord",
    "accuracy",
    "agreement",
    "finetune",
    "fit",
    "reestimate_batch_norm",
    "train",
]
