"""The console's JavaScript modules that need no page, and their tests under Node."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from minutehand.console import MAX_BUNDLE_AGE, console_folder, delete_old
from minutehand.node import node_binary
from tests.support.paths import ROOT

HERE = Path(__file__).resolve().parent
CONSOLE = ROOT / "infra" / "console"


#: Layers from the bottom: modules without a page, requests, shared parts, pages, the shell.
LAYERS = ("lib/jobs/", "lib/", "api.js", "parts/", "views/", "app.js")
#: A pattern of a file on another host, in a tag, an import or a style sheet.
FOREIGN = re.compile(r"""(?:src=|href=|from|import|url)[\s("'`]*(?:https?:)?//\w""")
IMPORT = re.compile(r"""(?:from|import\() ?"(\.[^"]+)\"""")


def layer_of(file: Path) -> int:
    """Return the number of a module's layer."""
    name = file.relative_to(CONSOLE).as_posix()
    return next(rank for rank, room in enumerate(LAYERS) if name.startswith(room))


def test_no_module_of_the_console_imports_from_above() -> None:
    """No module of the console imports one of a higher layer, and no view imports another view."""
    wrong = []
    for file in sorted(CONSOLE.rglob("*.js")):
        if file.is_relative_to(CONSOLE / "npm"):
            continue
        for found in IMPORT.findall(file.read_text("utf-8")):
            other = (file.parent / found).resolve()
            if not other.is_relative_to(CONSOLE) or not other.exists():
                continue  # the module belongs to an app
            own = layer_of(file)
            if layer_of(other) > own or layer_of(other) == own == LAYERS.index("views/"):
                wrong.append(f"{file.relative_to(CONSOLE)} imports {found}")

    assert wrong == []


def test_nothing_is_loaded_from_another_host() -> None:
    """No file of the console or of an app's page loads a file from another host."""
    files = [
        *(file for file in console_folder().rglob("*") if file.suffix in {".js", ".css", ".html"}),
        *ROOT.glob("shared/minutehand*/*/console/*.js"),
    ]

    assert [file.name for file in files if FOREIGN.search(file.read_text("utf-8"))] == []
    assert FOREIGN.search('import("https://esm.sh/marked")')


def test_only_bundles_of_a_week_ago_are_deleted(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name / "lib").mkdir(parents=True)
    os.utime(tmp_path / "old", (0, time.time() - MAX_BUNDLE_AGE - 1))

    delete_old(tmp_path)

    assert [bundle.name for bundle in tmp_path.iterdir()] == ["new"]


def test_the_bundle_has_what_pages_of_apps_import_and_the_licenses_of_its_packages() -> None:
    """The console's bundle contains each file that pages of apps import.

    It also contains the licenses of its packages.
    """
    folder = console_folder()
    pages = [*ROOT.glob("shared/minutehand*/*/console/*.js")]
    imported = {name for page in pages for name in IMPORT.findall(page.read_text("utf-8"))}
    shared = {name.removeprefix("../../") for name in imported if name.startswith("../../")}
    licenses = (folder / "licenses.txt").read_text("utf-8")

    assert {name for name in shared if not (folder / name).is_file()} == set()
    packages = ("@supabase/realtime-js", "htm", "marked", "preact", "uplot")
    assert [name for name in packages if f"{name}\n\n" not in licenses] == []


@pytest.mark.parametrize("file", sorted(HERE.glob("*.test.mjs")), ids=lambda file: file.stem)
def test_the_javascript_tests_pass(file: Path) -> None:
    """Node's test runner passes each JavaScript test file that needs no browser."""
    done = subprocess.run(
        # The option `--test` would add a process. `--test-force-exit` is needed because timers of
        # supabase-js keep the process running.
        [node_binary(), "--test-force-exit", "--test-timeout=60000", str(file)],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
