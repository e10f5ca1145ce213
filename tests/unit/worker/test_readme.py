"""Code examples on the pages about processors run, and their own tests pass."""

import asyncio
import inspect
import re
from typing import Any

import pytest

import minutehand
from minutehand import docs
from minutehand.worker import Job, JobContext, default_registry
from tests.support.pages import blocks
from tests.support.paths import ROOT

#: Names that a host of workers imports and a processor does not.
HOSTS = {"Worker", "default_registry", "trace_headers"}
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
            else:  # the example starts its own event loop
                await asyncio.to_thread(test)
    finally:
        default_registry.forget("readme")
        default_registry._around.clear()

    assert len(tests) == (page in {"worker/README", "pages/own_data", "pages/SKILL"})


def named(heading: str) -> set[str]:
    """Return the names in the first column of a table on the page about `ctx`."""
    text = (ROOT / "shared" / "minutehand" / "worker" / "CONTEXT.md").read_text()
    part = text[text.index(heading) :].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \| ", part, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)[(`]", row)}


def test_the_tables_have_what_ctx_and_the_job_have() -> None:
    assert named("# `ctx`") == {name for name in vars(JobContext) if name[0] != "_"}
    assert named("## The job") == {*Job.__dataclass_fields__, "is_last_attempt"}


def test_what_pages_import_of_the_worker_is_there_by_the_short_name() -> None:
    """Each name that a page imports from `minutehand.worker` can be imported from `minutehand`."""
    for page in docs.PAGES:
        for code in blocks(page.text, "python", "py"):
            for line in re.findall(r"^from minutehand\.worker import (.+)$", code, re.M):
                asked = set(re.findall(r"\w+", line)) - HOSTS
                assert asked <= set(minutehand.__all__), f"{page.topic}: {line}"
    for name in minutehand.__all__:
        assert getattr(minutehand, name) is not None
