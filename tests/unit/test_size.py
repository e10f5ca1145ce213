"""The lines of each folder beside its budget in `pyproject.toml`: numbers only fall."""

from __future__ import annotations

import math
import re
import subprocess
import tomllib
from collections import Counter
from pathlib import Path

from tests.support.paths import ROOT

#: A file counts once, for the first folder whose pattern is in its path.
FOLDERS = {
    "contract": r"^tests/contract/",
    "plans": r"minutehand_apps/plans|tests/.*/plans/|test_plan(_rules|_pages)|plans\.py",
    "chat": r"minutehand_apps/chat|tests/.*/chat/|test_chat|chat\.test|bench/chat",
    "training": r"minutehand_apps/training|tests/.*/training/|test_training|spoken",
    "beacon": r"minutehand_apps/beacon|tests/.*/beacon/|test_beacon|test_benchmarks",
    "enrichment": r"minutehand_apps/(enrichment|[^/]+$)|tests/.*/enrichment/|test_enrich",
    "measuring": r"^infra/(bench|truth|docs)/",
    "engine": r"^(supabase|tests/sql)/",
    "worker": r"^shared/minutehand/(functions/)?worker/|^tests/(unit|integration)/worker/",
    "queue": r"^shared/minutehand/(queue|client)/|^tests/unit/(queue|client)/",
    "web": r"^shared/minutehand/(web|webhooks|functions)/|^functions/"
    r"|^tests/unit/(web|webhooks)/|^tests/integration/(api|webhooks)/",
    "ai": r"^(shared/minutehand|tests/unit)/(ai|signing)/",
    "install": r"^shared/minutehand/(install|project\.py|app\.py|resources\.py)"
    r"|^tests/install/|starters|newcomer",
    "deploy": r"^shared/minutehand/(aws|deploy|commit)|^infra/(aws|release|container|bootstrap)/"
    r"|^tests/artefact/|^tests/unit/aws/|test_packaging|^tests/integration/serve|serverless"
    r"|^\.ci|^\.github/workflows",
    "command": r"^shared/minutehand/(cli|terminal)/|^tests/(integration|unit)/cli/",
    "local": r"^shared/minutehand/(local|node)|^tests/unit/local/"
    r"|^tests/(unit|integration)/realtime/|lambda_runtime|^tests/integration/stack/",
    "console": r"^infra/(console|eslint)|^tests/unit/console/|^tests/e2e/",
    "support": r"^tests/(support|fixtures)|^tests/(integration/)?conftest",
    "rest": r"",
}
#: What a formatter at a hundred columns breaks.
CODE = {".py", ".sql", ".js", ".mjs", ".cjs", ".ts", ".tsx", ".html"}
#: What else is text; locks are made by tools.
PROSE = {"", ".md", ".json", ".yml", ".yaml", ".toml", ".sh", ".txt", ".csv"}
LOCK = re.compile(r"(\.lock|package-lock\.json)$")
BUDGET: dict[str, int] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"][
    "minutehand"
]["size"]


def lines_of(file: Path) -> int:
    """Count the lines as a formatter would write them, so that packing saves nothing."""
    text = file.read_text("utf-8")
    if file.suffix == ".css":  # a line a declaration, and two for a rule's name and its end
        return text.count(";") + 2 * text.count("{")
    if file.suffix in CODE:
        return sum(max(1, math.ceil(len(line) / 100)) for line in text.splitlines())
    return text.count("\n")


def sizes() -> Counter[str]:
    """Lines by folder of what git tracks."""
    found: Counter[str] = Counter()
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True
    )
    for path in listed.stdout.split("\0"):
        file = ROOT / path
        if file.suffix not in CODE | PROSE | {".css"} or LOCK.search(path) or not file.is_file():
            continue
        folder = next(name for name, pattern in FOLDERS.items() if re.search(pattern, path))
        found[folder] += lines_of(file)
    return found


def test_every_room_keeps_its_budget() -> None:
    """Less, rather than more: what is added replaces something."""
    assert set(BUDGET) == set(FOLDERS)
    over = {name: (lines, BUDGET[name]) for name, lines in sizes().items() if lines > BUDGET[name]}
    assert over == {}
