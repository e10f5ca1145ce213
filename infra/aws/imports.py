"""The import graph, read from source: which files a handler reaches and which packages it needs.

Nothing is imported to find out; names built at run time are the caller's to add.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

FIRST_PARTY = ("functions", "shared")


def imported_names(path: Path, root: Path) -> Iterator[str]:
    """Every absolute module name an import statement in `path` may load, submodules included."""
    package = path.relative_to(root).with_suffix("").parts
    package = package[:-1]
    for node in ast.walk(ast.parse(path.read_bytes(), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*prefix, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def module_file(name: str, root: Path) -> Path | None:
    """The file of a first-party module, or None when `name` is an attribute or foreign."""
    base = root.joinpath(*name.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def closure(modules: Iterable[str], root: Path) -> list[Path]:
    """The first-party files that importing `modules` reads, parents' `__init__.py` included."""
    found: set[Path] = set()
    queue = list(modules)
    seen: set[str] = set()
    while queue:
        name = queue.pop()
        if name in seen or name.split(".")[0] not in FIRST_PARTY:
            continue
        seen.add(name)
        if "." in name:
            queue.append(name.rpartition(".")[0])
        file = module_file(name, root)
        if file is not None and file not in found:
            found.add(file)
            queue.extend(imported_names(file, root))
    return sorted(found)


def third_party(files: Iterable[Path], root: Path) -> dict[str, set[str]]:
    """Top-level foreign modules that `files` import → the distributions that provide them.

    A module nobody installed maps to an empty set.
    """
    distributions = packages_distributions()
    tops = {
        name.split(".")[0]
        for file in files
        if file.suffix == ".py"
        for name in imported_names(file, root)
    }
    foreign = tops - set(sys.stdlib_module_names) - set(FIRST_PARTY) - {"", "__future__"}
    return {top: {canonical(name) for name in distributions.get(top, [])} for top in foreign}


def canonical(name: str) -> str:
    """A distribution's name as PyPI normalises it."""
    return name.lower().replace("_", "-").replace(".", "-")
