"""Find words that this project does not use, and print each place with the word to use."""

from __future__ import annotations

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
#: Pattern for a whole word, also as a part of a name such as `heardAt` or `HEARD`.
WORD = r"(?i:(?<![A-Za-z])(?:{}))(?![a-z]|(?<=[A-Z])[A-Z])"
#: Files with history or with texts of others, and this list.
EXCLUDED = r"CHANGELOG|DECISIONS|LICENSE|\.lock|-lock|vendor/|/recorded/|fixtures/|infra/words"
has_matches = False
for path in map(Path, subprocess.check_output(["git", "ls-files"], text=True).splitlines()):
    if path.is_file() and not re.search(EXCLUDED, path.as_posix()):
        text = path.read_bytes().decode(errors="ignore")
        for pattern, replacement in DROPPED.items():
            for match in re.finditer(WORD.format(pattern), text):
                line = text.count("\n", 0, match.start()) + 1
                print(f"{path}:{line}: {match[0]!r}: {replacement}")
                has_matches = True
sys.exit(has_matches)
