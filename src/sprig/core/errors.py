"""The few error classes of sprig. Each message says what was found, what was expected, what to do."""


class SprigError(Exception):
    """Base of all errors that sprig raises on purpose; the command line prints them as one line."""


class InputError(SprigError, ValueError):
    """The caller's data, budget, names or files do not fit."""


class TraceError(SprigError):
    """The model could not be captured as a graph."""


class PlanError(SprigError, ValueError):
    """A plan is damaged, edited, or belongs to another model."""


class SurgeryError(SprigError):
    """The shrunk module does not run, or does not compute what the masked one computes."""


class StoreError(SprigError):
    """A run folder or one of its files is missing, damaged, unsafe or not writable."""


class DivergenceError(SprigError, ArithmeticError):
    """Numbers stopped being finite; says where."""


class RanksError(SprigError):
    """Another process of the run failed, ended or no longer answers.

    `told`: the process that failed says itself what was wrong.
    """

    def __init__(self, message: str, *, told: bool = False) -> None:
        super().__init__(message)
        self.told = told
