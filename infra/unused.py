"""Finds definitions in SQL, Python, JavaScript and CSS that no other code uses.

A test's use of a definition does not count, except if a tool in `infra` contains the definition.
"""

import ast
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

WORD = re.compile(r"[\w$]+")
SUFFIXES = {".js", ".mjs", ".cjs", ".ts", ".tsx", ".py", ".md", ".html", ".css", ".sql"}
EXPORT = re.compile(r"^export (?:async )?(?:function\*?|const|let|class) (\w+)", re.MULTILINE)
#: Pattern of a static import and its file.
IMPORT = re.compile(r"""\b(?:import|export)\s+([^;'"]*?)\s*from\s*['"]([^'"]+)['"]""")
#: Pattern of a dynamic import and its file.
DYNAMIC_IMPORT = re.compile(r"""\bimport\(\s*[`'"]([^`'"]+)[`'"]""")
CLASS = re.compile(r"\.([a-z][\w-]*)(?=[^{}]*\{)")
COMMENT = re.compile(r"('[^']*')|--[^\n]*")
# possessive, because backtracking in a text without a semicolon took minutes
STATEMENT = re.compile(r"(?:\$(\w*)\$.*?\$\1\$|'[^']*+'|[^;])++(?:;|\Z)", re.DOTALL)
CREATED = re.compile(
    r"\s*create (?:or replace )?(?:unique )?(function|table|type|view|sequence|index) "
    r"(?:if not exists )?(?:(\w+)\.)?(\w+)(?:\s+on (queue\.)?(\w+)[^(]*\(\W*(\w+))?"
)
INDEX = re.compile(r"\s*create (?:unique )?index|\s*create table")
COLUMN = re.compile(r"^  (?!constraint|primary|unique|check)(\w+) [\w.]+", re.MULTILINE)
#: Pattern of columns that a statement writes. Writing a column does not count as a use.
WRITTEN = re.compile(r"(insert into \S+(?: as \w+)?) \([^)]*\)|^\s+(?:set )?\w+ = ", re.MULTILINE)
RIGHTS = re.compile(r"\s*(?:comment on|revoke|grant|select queue\.allow\()")
#: Definitions that no code of the project uses, but other programs do: titles of pages, exports of
#: the npm package, CSS classes of uPlot and highlight.js, methods that Python, a build, Click,
#: httpx and botocore call, functions whose names are composed, a function that copied pages import,
#: and a column in the JSON of a row.
USED_BY_OTHERS = re.compile(
    r" title$| __\w+__$|infra/console/npm/| u-|: hljs-|ResourcesHook$|resources.py: initialize$"
    r"| format_commands$| auth_flow$| access_key$|queue\.(do|findings_of)_"
    r"| createTranscriptionJob$|sessions\.opened_at$"
)

listed = list(map(Path, subprocess.check_output(["git", "ls-files"], text=True).splitlines()))
texts = {
    path: path.read_bytes().decode(errors="ignore")
    for path in listed
    if path.suffix in SUFFIXES and path.is_file()
    if not {"tests", "migrations", "steps"} & set(path.parts) and path.name != "CHANGELOG.md"
}
words = {path: Counter(WORD.findall(text)) for path, text in texts.items()}
everywhere = Counter[str]()
for counted in words.values():
    everywhere.update(counted)
tested = {
    name
    for path in listed
    if path.parts[0] == "tests" and path.suffix == ".py"
    for name in WORD.findall(path.read_text())
}
imported: defaultdict[str, set[str]] = defaultdict(set)
for path, text in texts.items():
    for names, source in IMPORT.findall(text):
        imported[Path(source).name].update(words[path] if "*" in names else WORD.findall(names))
    for source in DYNAMIC_IMPORT.findall(text):
        imported[Path(source).name].update(words[path])
pages = [text for path, text in texts.items() if path.suffix in {".js", ".html"}]
named = {name for text in pages for name in re.findall(r"[\w-]+", text)}
statements = {
    path: [
        (statement[0], set(WORD.findall(WRITTEN.sub(r"\1 ", statement[0]))))
        for statement in STATEMENT.finditer(COMMENT.sub(r"\1", text))
        if not RIGHTS.match(statement[0])
    ]
    for path, text in texts.items()
    if path.suffix == ".sql"
}
others = {name for path in words.keys() - statements for name in words[path]}


def has_reader(created: str, *names: str) -> bool:
    """Return whether a SQL statement uses all names, or whether other code uses a single name."""
    return (len(names) == 1 and names[0] in others) or any(
        set(names) <= words_read
        for parsed in statements.values()
        for statement, words_read in parsed
        if statement != created and not INDEX.match(statement)
    )


def created(path: Path) -> Iterator[str]:
    """Yield the functions, relations, columns and indexes in a SQL file that no code uses."""
    for statement, _ in statements[path] if "schemas" in path.parts else ():
        if not (match := CREATED.match(statement)):
            continue
        kind, schema, name, is_internal, relation, column = match.groups()
        if kind == "index":
            is_open = relation in others and not is_internal
            if not is_open and not has_reader(statement, relation, column):
                yield name
        elif not has_reader(statement, name):
            yield f"{schema}.{name}"
        elif kind in {"table", "type"}:
            yield from (
                f"{schema}.{name}.{column}"
                for column in COLUMN.findall(statement)
                if not has_reader(statement, column)
            )


def exported(path: Path) -> Iterator[str]:
    """Yield the exports of a script that no other script imports."""
    used = set(imported[path.name])
    if path.is_relative_to("infra/console"):
        # the build of the console exports shared modules from app.js, for the pages of apps
        used |= imported["app.js"]
    yield from sorted(set(EXPORT.findall(texts[path])) - used)


def defined(path: Path) -> Iterator[str]:
    """Yield the definitions in a Python file that no code uses.

    Definitions with a decorator count as used.
    """
    shared = tested if path.is_relative_to("infra") else set()
    for node in ast.walk(ast.parse(texts[path])):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = [] if node.decorator_list else [node.name]
        else:
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            names = [target.id for target in targets if isinstance(target, ast.Name)]
        yield from (name for name in names if everywhere[name] == 1 and name not in shared)


def drawn(path: Path) -> Iterator[str]:
    """Yield the CSS classes of a style sheet that no page or script names."""
    yield from sorted(set(CLASS.findall(texts[path])) - named)


FINDERS = {".js": exported, ".mjs": exported, ".py": defined, ".css": drawn, ".sql": created}
lines = [
    line
    for path in texts
    if path.suffix in FINDERS
    for name in FINDERS[path.suffix](path)
    if not USED_BY_OTHERS.search(line := f"{path}: {name}")
]
for line in lines:
    print(f"{line} is not used")
sys.exit(bool(lines))
