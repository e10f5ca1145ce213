"""Finds what no one uses: a script's exports, a module's names, a style sheet's classes."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

WORD = re.compile(r"[\w$]+")
EXPORT = re.compile(r"^export (?:async )?(?:function\*?|const|let|class) (\w+)", re.MULTILINE)
#: What is imported by name, and from which file; or a file by an expression, or as a whole.
IMPORT = re.compile(r"""\b(?:import|export)\s+([^;'"]*?)\s*from\s*['"]([^'"]+)['"]""")
WHOLE = re.compile(r"""\bimport\(\s*[`'"]([^`'"]+)[`'"]""")
CLASS = re.compile(r"\.([a-z][\w-]*)(?=[^{}]*\{)")
#: Read by another's rules: a page's title, the face of the npm package, the plugin of a build, and
#: what uPlot draws.
TAKEN = re.compile(r" title$|infra/console/npm/|ResourcesHook$| u-")

listed = subprocess.check_output(["git", "ls-files"], text=True).splitlines()
texts = {
    path: path.read_bytes().decode(errors="ignore")
    for path in map(Path, listed)
    if path.is_file()
    and path.suffix in {".js", ".mjs", ".cjs", ".ts", ".tsx", ".py", ".md", ".html", ".css"}
}
words = {path: Counter(WORD.findall(text)) for path, text in texts.items()}
everywhere = Counter[str]()
for counted in words.values():
    everywhere.update(counted)
imported: defaultdict[str, set[str]] = defaultdict(set)
for path, text in texts.items():
    for names, source in IMPORT.findall(text):
        imported[Path(source).name].update(words[path] if "*" in names else WORD.findall(names))
    for source in WHOLE.findall(text):
        imported[Path(source).name].update(words[path])
pages = [text for path, text in texts.items() if path.suffix in {".js", ".html"}]
named = {name for text in pages for name in re.findall(r"[\w-]+", text)}


def exported(path: Path) -> Iterator[str]:
    """What a script exports and no one imports."""
    yield from sorted(set(EXPORT.findall(texts[path])) - imported[path.name])


def defined(path: Path) -> Iterator[str]:
    """What a module defines that no line names; what is decorated is registered by that."""
    for node in ast.parse(texts[path]).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = [] if node.decorator_list else [node.name]
        else:
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            names = [each.id for each in targets if isinstance(each, ast.Name)]
        yield from (name for name in names if everywhere[name] == 1)


def drawn(path: Path) -> Iterator[str]:
    """The classes of a style sheet that no page or script names."""
    yield from sorted(set(CLASS.findall(texts[path])) - named)


FINDERS = {".js": exported, ".mjs": exported, ".py": defined, ".css": drawn}
found = [
    f"{path}: {name} is used by no one"
    for path in texts
    if path.suffix in FINDERS and not path.is_relative_to("tests")
    for name in FINDERS[path.suffix](path)
    if not TAKEN.search(f"{path} {name}")
]
print(*found, sep="\n", end="\n" * bool(found))
sys.exit(bool(found))
