"""Pytest hooks that show the progress of a long test run, and each failure with its command."""

import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

#: The environment variable that is set when no package registry can be reached.
OFFLINE = "MINUTEHAND_TESTS_OFFLINE"
#: The test files and fixtures that install packages from npm or PyPI.
FETCHING_FILES = ("tests/e2e/npm/",)
FETCHING_FIXTURES = {"cli", "projects"}


def is_offline() -> bool:
    """Return whether npm's registry cannot be reached with the machine's settings."""
    npm = str(Path(sys.executable).with_name("npm"))
    ask = [npm, "view", "npm", "version", "--fetch-retries=0", "--fetch-timeout=20000"]
    return subprocess.run(ask, capture_output=True).returncode != 0


class RunReport:
    """Prints the progress of a test run with several processes."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.left: Counter[str] = Counter()
        self.all = 0
        self.is_over = False
        #: The seconds of each file that has begun.
        self.seconds: dict[str, float] = {}

    def write(self, text: str, **markup: bool) -> None:
        self.config.get_terminal_writer().line(text, **markup)

    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Count the tests of each file."""
        self.left = self.left or Counter(nodeid.partition("::")[0] for nodeid in ids)
        self.all = len(ids)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Record that a file is running."""
        self.seconds.setdefault(nodeid.partition("::")[0], 0)

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self) -> Generator[None, Any, Any]:
        """Omit pytest's dots during the run, but not the words in its summary."""
        category, *words = yield
        return (category, *(words if self.is_over else ("", "")))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Print a failure immediately, and a file after its last test."""
        file = report.nodeid.partition("::")[0]
        self.seconds[file] += report.duration
        if report.failed:
            result = getattr(getattr(report.longrepr, "reprcrash", None), "message", "")
            self.write(f"FAILED {report.nodeid}: {result.partition(chr(10))[0][:200]}", red=True)
            command = f".venv/bin/python -m pytest {shlex.quote(report.nodeid)}"
            self.write(f"       repeat it: {command}")
        if report.when == "teardown":
            self.left[file] -= 1
            if not self.left[file]:
                running = ", ".join(name for name in self.seconds if self.left[name])
                done = 100 - 100 * self.left.total() // self.all
                self.write(f"{done:3} % {file}: {self.seconds[file]:.0f} s (runs: {running})")

    def pytest_terminal_summary(self) -> None:
        """List the tests that were left out with the reason."""
        self.is_over = True
        if "WEEKLY" not in os.environ:
            self.write(
                "left out: deploys, Lambda's runtime, bad days, the doctor's loop, shapes of"
                " projects and a part of some tables; `make weekly` runs them"
            )
        if OFFLINE in os.environ:
            reason = "left out: what installs packages, because npm's registry does not respond"
            self.write(reason, yellow=True)


def install(config: pytest.Config) -> None:
    """Report a run with several processes. Leave out tests whose packages cannot be installed."""
    if config.getoption("dist", "no") == "no" or hasattr(config, "workerinput"):
        return
    config.pluginmanager.register(RunReport(config))
    os.environ.pop(OFFLINE, None)
    # Unit tests install nothing.
    if any(not path.startswith("tests/unit") for path in config.args) and is_offline():
        os.environ[OFFLINE] = "1"


def leave_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests that need a registry, and weekly tests."""

    def is_left_out(item: pytest.Item) -> bool:
        weekly = item.get_closest_marker("weekly")
        if weekly is not None and weekly.kwargs.get("only") and "WEEKLY" not in os.environ:
            return True
        fixtures = FETCHING_FIXTURES.intersection(getattr(item, "fixturenames", ()))
        return OFFLINE in os.environ and bool(fixtures or item.nodeid.startswith(FETCHING_FILES))

    left_out = [item for item in items if is_left_out(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
