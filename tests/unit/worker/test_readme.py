"""The pages about processors: their examples run, and their tests pass."""

from __future__ import annotations

import asyncio
import inspect
import re
from typing import Any

import pytest

from minutehand.worker import JobContext, default_registry
from tests.support.paths import ROOT

PAGES = ("worker/README", "worker/CONTEXT", "pages/own_data", "pages/app", "pages/SKILL")


@pytest.mark.parametrize("page", PAGES)
async def test_the_examples_are_true(page: str) -> None:
    text = (ROOT / "shared" / "minutehand" / f"{page}.md").read_text()
    space: dict[str, Any] = {"__name__": "readme"}

    try:
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            exec(compile(block, f"{page}.md", "exec"), space)
        tests = [value for name, value in space.items() if name.startswith("test_")]
        for test in tests:
            if inspect.iscoroutinefunction(test):
                await test()
            else:  # it has a loop of its own
                await asyncio.to_thread(test)
    finally:
        default_registry.forget("readme")
        default_registry._around.clear()

    assert len(tests) == (page in {"worker/README", "pages/own_data", "pages/SKILL"})


def test_the_table_has_what_ctx_has() -> None:
    text = (ROOT / "shared" / "minutehand" / "worker" / "CONTEXT.md").read_text()
    rows = re.findall(r"^\| (`.*?) \| ", text, re.MULTILINE)

    named = {name for row in rows for name in re.findall(r"`(\w+)[(`]", row)}
    assert named == {name for name in vars(JobContext) if name[0] != "_"}
