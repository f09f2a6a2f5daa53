"""What every test stands on: one thread, and seeds that are fixed and told when a test fails."""

import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

SEED = int(os.environ.get("SPRIG_TEST_SEED", "0"))


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)  # workers share few cores, and sums keep one order


def pytest_report_header() -> str:
    return f"seed: {SEED} (another: SPRIG_TEST_SEED=N)"


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Global generators start alike in every test: layers draw their first weights from them."""
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    yield
    assert torch.is_grad_enabled(), "the test left gradients switched off for the next one"


@pytest.fixture
def seed() -> int:
    """The seed of this run."""
    return SEED


@pytest.fixture
def generator() -> torch.Generator:
    """A generator of the test's own."""
    return torch.Generator().manual_seed(SEED)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    if report.failed:
        report.sections.append(("seed", f"run it again with SPRIG_TEST_SEED={SEED}"))
