"""Groups of test files that one process runs together. Other files run one by one."""

from xdist.scheduler import LoadFileScheduling

#: The beginnings of the paths of files, by group. One process runs a whole group in this order with
#: shared fixtures, because a stack takes as long as sixty tests.
GROUPS = (
    # These tests use the stack and Chromium.
    ("tests/e2e/console/", "tests/e2e/live/"),
    # the stack
    (
        "tests/contract/test_guide_",
        "tests/e2e/npm/test_stranger.py",
        "tests/integration/cli/test_commands.py",
        "tests/integration/cli/test_doctor.py",
        "tests/integration/cli/test_mcp.py",
        "tests/integration/serve/test_deaths.py",
        "tests/integration/serve/test_serve.py",
        "tests/integration/serve/test_stop.py",
        "tests/integration/serve/test_realtime_wakeups.py",
        "tests/supabase_local/test_gateway.py",
        "tests/integration/stack/test_python_client.py",
        # These tests break the stack and repair it.
        "tests/integration/stack/test_dying.py",
        "tests/integration/stack/test_bad_days.py",
    ),
)

#: The beginnings of the paths of long files, which begin first. A long file that begins late would
#: run alone at the end.
LONG = ("tests/e2e/npm/", "tests/install/", "tests/integration/", "tests/unit/console/")


def group_of(file: str) -> tuple[int, int]:
    """Return a file's group and its position in the group. Files without a group sort last."""
    for number, files in enumerate(GROUPS):
        for place, beginning in enumerate(files):
            if file.startswith(beginning):
                return number, place
    return len(GROUPS), 0


class Grouped(LoadFileScheduling):  # type: ignore[misc]  # it has no types
    """A scheduler that gives each process a whole group or a whole file."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        number, _ = group_of(file)
        return f"group {number}" if number < len(GROUPS) else file
