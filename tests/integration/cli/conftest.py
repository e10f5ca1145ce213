"""A command line against the running stack."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.support.command import Run, app
from tests.support.stacks import RunningStack


@pytest.fixture
def run(stack: RunningStack, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line against the stack as Ada."""
    monkeypatch.setenv("MINUTEHAND_ENV_FILE", str(stack.folder / "env"))

    def call(*arguments: str, code: int = 0, **options: Any) -> Result:
        result = CliRunner().invoke(app, list(arguments), **options)
        assert result.exit_code == code, (result.output, result.stderr, result.exception)
        return result

    return call
