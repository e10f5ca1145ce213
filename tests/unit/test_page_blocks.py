"""Each code block in the documentation is run by a test, or this file gives the reason why not."""

import subprocess

import pytest

from minutehand.docs import PAGES
from tests.support.pages import blocks_of
from tests.support.paths import ROOT
from tests.unit.worker.test_readme import PAGES as PYTHON_PAGES

#: For each page: the number of code blocks that tests run individually.
RUN = {
    # tests/e2e/npm/test_stranger.py, tests/install/test_pages.py and test_projects.py
    "README.md": 3,
    # tests/install/test_pages.py, also for the pages below without another file
    "functions/README.md": 2,
    # tests/integration/cli/test_deploy.py, tests/install/test_pages.py
    "infra/aws/README.md": 6,
    # tests/e2e/npm/test_stranger.py
    "infra/console/npm/README.md": 4,
    # tests/integration/worker/test_page_examples.py
    "shared/minutehand/ai/README.md": 2,
    # tests/install/test_projects.py and test_pages.py
    "shared/minutehand/install/README.md": 3,
    "shared/minutehand/local/README.md": 2,
    # tests/supabase_local/test_command.py
    "shared/supabase_local/README.md": 1,
    "shared/minutehand/pages/agents.md": 1,
    "shared/minutehand/pages/data.md": 1,
    "shared/minutehand/pages/deploys.md": 1,
    # tests/integration/worker/test_page_examples.py
    "shared/minutehand/pages/celery.md": 3,
    "shared/minutehand/pages/durable.md": 4,
    # tests/e2e/npm/test_chat.py
    "shared/minutehand/pages/nextjs.md": 15,
    "shared/minutehand/pages/own_data.md": 1,
    # tests/e2e/npm/test_stranger.py, tests/integration/worker/test_page_examples.py and
    # test_drain.py, tests/integration/stack/test_python_client.py
    "shared/minutehand/pages/recipes.md": 8,
    # tests/integration/worker/test_drain.py
    "shared/minutehand/worker/README.md": 1,
    "shared/minutehand/webhooks/README.md": 1,
}
#: For each page: the beginnings of the code blocks that no test runs, each below its reason.
NOT_RUN = {
    "README.md": [
        # an extract of the block in worker/CONTEXT.md, which is run
        '@processor("chat'
    ],
    ".github/CONTRIBUTING.md": [
        # commands that run these tests
        "make run",
        # an editor, and commands that run these tests
        "$EDITOR",
    ],
    "infra/aws/README.md": [
        # fetches from registries and signs in
        "pip install",
        # the block has example values, and the test of deploy uses its own values
        "STAGE=prod",
        # asks the stage's public address; its part of AWS is run
        "minutehand doctor",
    ],
    "infra/console/npm/README.md": [
        # fetches what is published; tests/e2e/npm installs the archive
        "npm install",
        # loads from a CDN; tests/e2e/console has the element
        "<minutehand-job",
    ],
    "infra/container/README.md": [
        # values of someone's project
        "SUPABASE_URL",
        # fetches from PyPI; tests/integration/serve has both commands
        "pip install",
        # needs Docker
        "FROM python",
    ],
    "shared/supabase_local/realtime/README.md": [
        # the stack starts Realtime by this command, and every test of Realtime uses it
        "DATABASE_URL="
    ],
    "shared/minutehand/pages/agents.md": [
        # fetches from PyPI
        "pip install",
        # the configuration of another program; tests/integration/cli/test_mcp.py tests the server
        "{ ",
    ],
    "shared/minutehand/pages/data.md": [
        # two hosted projects; tests/sql/test_restore.py restores a dump
        "pg_dump"
    ],
    "shared/minutehand/pages/concepts.md": [
        # a drawing
        "enqueue_job"
    ],
    "shared/minutehand/pages/recipes.md": [
        # one variable; tests/integration/telemetry exports spans
        "OTEL_EXPORTER"
    ],
}
#: For each language: the pages in which every block of the language is run.
KINDS = {
    "sql": {page.path for page in PAGES if page.topic != "aws"},
    "yaml": {page.path for page in PAGES},
    "python": {f"shared/minutehand/{name}.md" for name in PYTHON_PAGES},
}
#: The folder of pages whose code the apps' own tests run.
OF_APPS = "shared/minutehand_apps/"


def pages() -> list[str]:
    """Return every page of the repository that contains a code block."""
    listed = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = [path for path in listed.stdout.splitlines() if not path.startswith(OF_APPS)]
    return [path for path in found if blocks_of((ROOT / path).read_text())]


@pytest.mark.parametrize("path", pages())
def test_each_block_has_a_test_or_a_reason(path: str) -> None:
    """Each code block of a page is counted in RUN or listed in NOT_RUN.

    Blocks of the languages in KINDS are excepted.
    """
    begins = NOT_RUN.get(path, [])
    codes = [
        code.strip()
        for language, code in blocks_of((ROOT / path).read_text())
        if path not in KINDS.get(language, ())
    ]
    found = [begin for code in codes for begin in begins if code.startswith(begin)]

    assert (set(found), len(codes) - len(found)) == (set(begins), RUN.get(path, 0)), codes
