"""A command of which one process kills itself in the middle of the final pass."""

import os
import signal
import sys
import time
from pathlib import Path

from sprig.cli.main import main
from sprig.methods.greedy.sequential import Sequential


def dying(stamp: str, rank: str, *line: str) -> None:
    visit, calls = Sequential.visit, [0]

    def counted(self, consumer):  # type: ignore[no-untyped-def]
        calls[0] += 1
        if calls[0] == 2 and os.environ["RANK"] == rank:
            Path(stamp).write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)
        visit(self, consumer)

    Sequential.visit = counted  # type: ignore[method-assign]
    sys.argv = ["sprig", *line]
    main()
