"""A command of which one process kills itself: before the group is made, during the moments, or in the final pass."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from sprig.cli.main import main
from sprig.core import collect
from sprig.methods.greedy.sequential import Sequential

PLACES: dict[str, tuple[Any, str, int]] = {  # whose function, at which of its calls
    "begin": (dist, "init_process_group", 1),
    "moments": (collect, "consumer_rows", 3),
    "final": (Sequential, "visit", 2),
}


def dying(stamp: str, place: str, rank: str, *line: str) -> None:
    """Run the command; `rank` "none": to its end."""
    if os.environ["RANK"] == rank:
        owner, name, at = PLACES[place]
        setattr(owner, name, deadly(getattr(owner, name), at, stamp))
    sys.argv = ["sprig", *line]
    main()


def deadly(function: Callable[..., Any], at: int, stamp: str) -> Callable[..., Any]:
    calls = [0]

    def counted(*given: Any, **more: Any) -> Any:
        calls[0] += 1
        if calls[0] == at:
            Path(stamp).write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*given, **more)

    return counted


if __name__ == "__main__":
    dying(*sys.argv[1:])
