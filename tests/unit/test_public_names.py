"""Apps use of `minutehand` what any app may: names that its packages export."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support.paths import ROOT

SOURCE = ROOT / "shared"


def test_apps_import_exported_names_alone() -> None:
    """A module directly below `minutehand`, or what the `__init__.py` of a package names."""
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
    """Each imported name, with its line and its module; of `import a.b` no name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, "") for alias in node.names)


def is_exported(module: str, name: str) -> bool:
    """Whether a module exports the name."""
    folder = SOURCE.joinpath(*module.split("."))
    if folder.is_dir():
        return name in {name for _, _, name in imports_in(folder / "__init__.py")}
    return module.count(".") == 1


def test_each_export_is_found() -> None:
    """The names that type checkers read in `__init__.py` are those that Python loads."""
    for package in ("ai", "aws", "queue", "terminal", "web", "worker"):
        module = __import__(f"minutehand.{package}", fromlist=["*"])
        inside = SOURCE / "minutehand" / package / "__init__.py"
        for _, home, name in imports_in(inside):
            if home.startswith(f"minutehand.{package}."):
                assert getattr(module, name), name
