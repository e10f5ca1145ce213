"""A command line against the running stack."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.console.worker import HandWorker
from tests.support.command import Run
from tests.support.stacks import RunningStack


@pytest.fixture
def run(stack: RunningStack) -> Run:
    """Run a command line against the stack as Ada."""
    return Run(env={"MINUTEHAND_ENV_FILE": str(stack.folder / "env")})


@pytest.fixture
def worker(stack: RunningStack) -> Iterator[HandWorker]:
    """A worker in the test's hand, which alone serves its type."""
    with HandWorker(stack, stack.demo_workspace_id) as made:
        yield made
