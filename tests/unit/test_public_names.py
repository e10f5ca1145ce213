"""The names that packages of `minutehand` export, and that the apps use."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from tests.support.paths import ROOT

SOURCE = ROOT / "shared"


def test_apps_import_exported_names_alone() -> None:
    """The example apps import only exported names.

    A name is exported by a module directly below `minutehand`, or by an `__init__.py`.
    """
    apps = sorted((SOURCE / "minutehand_apps").rglob("*.py"))
    found = [
        f"{path.relative_to(ROOT)}:{line}: {module}.{name}"
        for path in apps
        for line, module, name in imports_in(path)
        if module.partition(".")[0] == "minutehand" and not is_exported(module, name)
    ]

    assert len(apps) > 50
    assert found == []


def imports_in(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield line, module and name of each import in a file. For `import a.b` there is no name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, "") for alias in node.names)


def is_exported(module: str, name: str) -> bool:
    """Return whether a module exports the name."""
    folder = SOURCE.joinpath(*module.split("."))
    if folder.is_dir():
        return name in {name for _, _, name in imports_in(folder / "__init__.py")}
    return module.count(".") == 1


def test_each_export_is_found() -> None:
    """Each name that an `__init__.py` declares for type checkers can be imported."""
    for package in ("ai", "aws", "queue", "terminal", "web", "worker"):
        module = __import__(f"minutehand.{package}", fromlist=["*"])
        inside = SOURCE / "minutehand" / package / "__init__.py"
        for _, home, name in imports_in(inside):
            if home.startswith(f"minutehand.{package}."):
                assert getattr(module, name), name


#: Names that version 0.4.4 exported. A removed name stays as an alias for one release.
RELEASED = {
    "minutehand": "Backoff BatchedJob Call Cancel ChildrenFailed EnqueueOptions Fail Job"
    " JobContext NewJob Outcome ProcessorError RateLimit Registry Retry Returned Schedule Snooze"
    " Stage around processor",
    "minutehand.client": "Client DuplicateJob EnqueueOptions InvalidState Job JobEvent JobNotFound"
    " NewJob QueueError QueueUnavailable RateLimited TokenRefused UniqueOptions",
    "minutehand.worker": "Backoff BatchedJob Call Cancel ChildResult ChildrenFailed EnqueueOptions"
    " Fail FanOut Job JobContext JobType LeaseLost Middleware NewJob Outcome OutputRefused"
    " ProcessorError RateLimit Registry Retry Returned Schedule Snooze Stage StagesFailed"
    " StepTimeout Stream Suspended TickOptions TickSummary Worker around default_registry"
    " processor trace_headers",
}


def test_released_names_can_be_imported() -> None:
    """Each name that an earlier release exported can still be imported."""
    missing = [
        f"{module}.{name}"
        for module, names in RELEASED.items()
        for name in names.split()
        if not hasattr(import_module(module), name)
    ]

    assert missing == []


def test_a_renamed_name_still_works_and_warns() -> None:
    worker = import_module("minutehand.worker")

    with pytest.warns(DeprecationWarning, match="TurnEnded is now AttemptEnded"):
        former = worker.TurnEnded

    assert former is worker.AttemptEnded
