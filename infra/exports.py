"""Finds what a script exports and no file imports, and what a module defines and nothing names."""

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
#: Read by another's rules: a page's title, the face of the npm package, the plugin of a build.
TAKEN = re.compile(r" title$|infra/console/npm/|ResourcesHook$")

listed = subprocess.check_output(["git", "ls-files"], text=True).splitlines()
texts = {
    path: path.read_bytes().decode(errors="ignore")
    for path in map(Path, listed)
    if path.is_file() and path.suffix in {".js", ".mjs", ".cjs", ".ts", ".tsx", ".py", ".md"}
}
words = {path: Counter(WORD.findall(text)) for path, text in texts.items()}
everywhere = sum(words.values(), Counter[str]())
imported: defaultdict[str, set[str]] = defaultdict(set)
for path, text in texts.items():
    for names, source in IMPORT.findall(text):
        imported[Path(source).name].update(words[path] if "*" in names else WORD.findall(names))
    for source in WHOLE.findall(text):
        imported[Path(source).name].update(words[path])


def exported(path: Path) -> Iterator[str]:
    """What a script exports and no one imports."""
    for name in EXPORT.findall(texts[path]):
        if name not in imported[path.name]:
            yield name


def defined(path: Path) -> Iterator[str]:
    """What a module defines that no line names; what is decorated is registered by that."""
    for node in ast.parse(texts[path]).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = [] if node.decorator_list else [node.name]
        else:
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            names = [each.id for each in targets if isinstance(each, ast.Name)]
        yield from (name for name in names if everywhere[name] == 1)


found = [
    f"{path}: {name} is used by no one"
    for path in texts
    if path.suffix in {".js", ".mjs", ".py"} and not path.is_relative_to("tests")
    for name in (defined(path) if path.suffix == ".py" else exported(path))
    if not TAKEN.search(f"{path} {name}")
]
print("\n".join(found))
sys.exit(bool(found))
