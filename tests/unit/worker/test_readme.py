"""The worker's README: its examples run, and its tests pass."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from minutehand.worker import default_registry


async def test_the_examples_are_true(repository: Path) -> None:
    text = (repository / "shared" / "minutehand" / "worker" / "README.md").read_text()
    space: dict[str, Any] = {"__name__": "readme"}

    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "README.md", "exec"), space)
    try:
        tests = [value for name, value in space.items() if name.startswith("test_")]
        for test in tests:
            await test()
    finally:
        default_registry.forget("readme")

    assert len(tests) == 1
