"""The console's JavaScript modules that need no page, and their tests under Node."""

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
IMPORT = re.compile(r"""(?:from|import\() ?"(\.[^"]+)\"""")


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
    imported = {name for page in pages for name in IMPORT.findall(page.read_text())}
    shared = {name.removeprefix("../../") for name in imported if name.startswith("../../")}
    licenses = (folder / "licenses.txt").read_text()

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
    )

    assert done.returncode == 0, done.stdout + done.stderr
