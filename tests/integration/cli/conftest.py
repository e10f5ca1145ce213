"""A command line against the running stack."""

from __future__ import annotations

import pytest

from tests.support.command import Run
from tests.support.stacks import RunningStack


@pytest.fixture
def run(stack: RunningStack) -> Run:
    """Run a command line against the stack as Ada."""
    return Run(env={"MINUTEHAND_ENV_FILE": str(stack.folder / "env")})
