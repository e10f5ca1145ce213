"""Finds words that this project avoids, and prints their places and a word to use instead.

The program also finds names in Python that use a term of the engine in another sense.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

DROPPED = {
    "tells?|told": "say, report, notify, distinguish",
    "hears?|heard": "receive, transcribe",
    "judges?|judged|judging": "check",
    "anew": "again",
    r"(?<!['.\"])nobody": "no one",
    "whoever": "every caller, one who",
    "(?<!<)(?<!</)aside": "without, beside",
    "stands": "is",
    "goes on|left alone": "continues, unchanged",
    "hands? back|handed back": "release",
    "lapses?|lapsed": "expire",
    "revives?|revived": "redrive",
    "siblings?": "worker",
    "chores?|upkeep": "maintenance",
    "rehears[a-z]*|desks?": "test, harness",
    "took_ms|run time": "duration",
    "went to wait": "suspended",
    "kind: JobType": "job_type",
    "(?<!t)is no (?:level|list|number|option|string|table)": "must be",
}
#: Pattern of a whole word, which may be a part of a name such as `heardAt` or `HEARD`.
WORD = r"(?i:(?<![A-Za-z])(?:{}))(?![a-z]|(?<=[A-Z])[A-Z])"
#: Files that this program does not check: history, generated files, texts by others, and this file.
EXCLUDED = r"CHANGELOG|DECISIONS|LICENSE|\.lock|-lock|/recorded/|fixtures/|infra/words"
#: Pattern of terms of the engine, which only names in SQL may contain, and published names with
#: these terms.
TERMS = re.compile(r"(?:^|_)(?:turns?|rings?|note[sd]?|places?)(?:_|$)")
PUBLISHED = {"notes", "place", "places", "TurnEnded"}
has_matches = False


def names(tree: ast.AST) -> list[tuple[int, str]]:
    """List the names that a Python module defines, with their line numbers."""
    given = []
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                given.append((node.lineno, name))
            case ast.ClassDef(name=name) | ast.arg(arg=name):
                given.append((node.lineno, name))
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                given.append((node.lineno, name))
    return given


for path in map(Path, subprocess.check_output(["git", "ls-files"], text=True).splitlines()):
    if path.is_file() and not re.search(EXCLUDED, path.as_posix()):
        text = path.read_bytes().decode(errors="ignore")
        for pattern, replacement in DROPPED.items():
            for match in re.finditer(WORD.format(pattern), text):
                line = text.count("\n", 0, match.start()) + 1
                print(f"{path}:{line}: {match[0]!r}: {replacement}")
                has_matches = True
        if path.suffix == ".py" and path.parts[0] == "shared":
            for line, name in names(ast.parse(text)):
                words = re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower()
                if TERMS.search(words) and name not in PUBLISHED:
                    print(f"{path}:{line}: {name!r}: a term of the engine, see 01_foundation.sql")
                    has_matches = True
sys.exit(has_matches)
