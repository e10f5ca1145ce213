"""The import graph, read from source: which files a handler reaches and which packages it needs.

Nothing is imported to find out; names built at run time are the caller's to add.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.utils import canonicalize_name

from minutehand.deploy.bundles import PackagingError

_distributions = functools.cache(packages_distributions)


@dataclass(frozen=True)
class Sources:
    """Folders from which first-party modules are imported, and the top-level names that are."""

    roots: tuple[Path, ...]
    tops: frozenset[str]

    def place(self, file: Path) -> Path:
        """Where `file` goes in a zip: its path below the folder it is imported from."""
        for root in self.roots:
            if file.is_relative_to(root):
                place = file.relative_to(root)
                if place.parts[0].removesuffix(".py") in self.tops:
                    return place
        raise ValueError(f"{file} is in none of {', '.join(map(str, self.roots))}")

    def module_name(self, file: Path) -> str:
        """The name under which `file` is imported."""
        parts = self.place(file).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def module_file(self, name: str) -> Path | None:
        """The file of a first-party module, or None when `name` is an attribute or foreign."""
        for root in self.roots:
            base = root.joinpath(*name.split("."))
            for candidate in (base.with_suffix(".py"), base / "__init__.py"):
                if candidate.is_file():
                    return candidate
        return None


def imported_names(path: Path, sources: Sources) -> Iterator[str]:
    """Every absolute module name an import statement in `path` may load, submodules included.

    What is imported for type checkers alone is never loaded.
    """
    package = sources.place(path).parts[:-1]
    for level, module, names in _statements(path.read_bytes(), str(path)):
        if module is None and not level:
            yield from names
            continue
        prefix = package[: len(package) - level + 1] if level else ()
        base = ".".join([*prefix, *([module] if module else [])])
        yield base
        yield from (f"{base}.{name}" for name in names)


@functools.lru_cache(maxsize=2048)
def _statements(source: bytes, name: str) -> tuple[tuple[int, str | None, tuple[str, ...]], ...]:
    """Dots, module and names of each import statement; both are 0 and None for `import names`."""
    found: list[tuple[int, str | None, tuple[str, ...]]] = []
    try:
        tree = ast.parse(source, filename=name)
    except SyntaxError as error:
        raise PackagingError(f"{name}:{error.lineno} cannot be read: {error.msg}") from error
    for node in _run_time_statements(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            level, module = (
                (node.level, node.module) if isinstance(node, ast.ImportFrom) else (0, None)
            )
            found.append((level, module, names))
    return tuple(found)


def _run_time_statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Every statement but those below `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=others):
                for other in others:
                    yield other
                    yield from _run_time_statements(other)
            case ast.stmt() | ast.excepthandler() | ast.match_case():
                yield node
                yield from _run_time_statements(node)


def closure(modules: Iterable[str], sources: Sources) -> list[Path]:
    """The first-party files that importing `modules` reads, parents' `__init__.py` included."""
    found: set[Path] = set()
    queue = list(modules)
    seen: set[str] = set()
    while queue:
        name = queue.pop()
        if name in seen or name.split(".")[0] not in sources.tops:
            continue
        seen.add(name)
        if "." in name:
            queue.append(name.rpartition(".")[0])
        file = sources.module_file(name)
        if file is not None and file not in found:
            found.add(file)
            queue.extend(imported_names(file, sources))
    return sorted(found)


def third_party(files: Iterable[Path], sources: Sources) -> dict[str, set[str]]:
    """Top-level foreign modules that `files` import → the distributions that provide them.

    A module no one installed maps to an empty set.
    """
    distributions = _distributions()
    tops = {
        name.split(".")[0]
        for file in files
        if file.suffix == ".py"
        for name in imported_names(file, sources)
    }
    foreign = tops - set(sys.stdlib_module_names) - sources.tops - {""}
    return {
        top: {canonicalize_name(name) for name in distributions.get(top, [])} for top in foreign
    }
