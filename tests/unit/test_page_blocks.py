"""Every block of code that a page prints is run by a test, or it is said here why none can."""

from __future__ import annotations

import re
import subprocess

import pytest

from minutehand.docs import PAGES
from tests.support.pages import Block, blocks_of
from tests.support.paths import ROOT
from tests.unit.worker.test_readme import PAGES as PYTHON_PAGES

IN_THE_WHEEL = "tests/install/test_pages.py"
EXAMPLES = "tests/unit/worker/test_page_examples.py"
DRAINED = "tests/integration/worker/test_drain.py"
DEPLOYED = "tests/integration/cli/test_deploy.py"
NPM = "tests/e2e/npm/test_stranger.py"
#: By page: how a block begins, and the test that runs it or, after `not run: `, the reason.
HELD: dict[str, dict[str, str]] = {
    "README.md": {
        '@processor("enrich': "not run: an extract of an app; tests/integration/enrichment runs it",
        '@processor("chat': "not run: an extract; that of worker/CONTEXT.md is run",
        "watchJob": f"{NPM}::test_every_example",
        "select minutehand.enqueue_job": f"{IN_THE_WHEEL}::test_every_page_speaks",
        "pip install": "tests/install/test_projects.py::test_an_ordinary_project",
        "minutehand enqueue": f"{IN_THE_WHEEL}::test_the_first_job",
        "make run": "not run: starts a developer's own stack; tests/integration/stack does",
    },
    ".github/CONTRIBUTING.md": {
        "make run": "not run: these are the commands of the suite itself",
        "$EDITOR": "not run: an editor, and the commands of the suite itself",
    },
    "functions/README.md": {
        "set -a": f"{IN_THE_WHEEL}::test_the_first_job",
        "curl": f"{IN_THE_WHEEL}::test_the_first_job",
    },
    "infra/aws/README.md": {
        "pip install": "not run: fetches from registries and signs in",
        "STAGE=prod": "not run: values of someone's project; the deploy has its own",
        "(umask 077; supabase gen": f"{DEPLOYED}::test_a_project_is_deployed",
        "(umask 077; {": f"{DEPLOYED}::test_a_project_is_deployed",
        "minutehand deploy prod": f"{DEPLOYED}::test_a_project_is_deployed",
        "with made as": f"{IN_THE_WHEEL}::test_the_first_person",
        "minutehand doctor": "not run: asks the stage's public address; its part of AWS is run",
    },
    "infra/console/README.md": {
        ".venv/bin/python -m pytest": "not run: a command of the suite itself"
    },
    "infra/console/npm/README.md": {
        "npm install": "not run: fetches what is published; tests/e2e/npm installs the archive",
        "import { createClient }": f"{NPM}::test_the_readme_s_program",
        "+const messages": "not run: a diff of someone's chat; the page of Next.js has it whole",
        "import { outputOf": f"{NPM}::test_every_example",
        "declare module": f"{NPM}::test_a_payload",
        "<minutehand-job": "not run: loads from a CDN; tests/e2e/console has the element",
        "import { makeHooks }": f"{NPM}::test_every_example",
    },
    "infra/container/README.md": {
        "SUPABASE_URL": "not run: values of someone's project",
        "pip install": "not run: fetches from PyPI; tests/integration/serve has both commands",
        "FROM python": "not run: needs Docker",
    },
    "shared/minutehand/ai/README.md": {
        "from minutehand.ai": f"{EXAMPLES}::test_a_model_is_asked",
        "# `words`": f"{EXAMPLES}::test_a_model_is_asked",
    },
    "shared/minutehand/install/README.md": {
        'pip install "minutehand': "tests/install/test_projects.py::test_an_ordinary_project",
        "pip install -U": "tests/install/test_projects.py::test_an_ordinary_project",
        "minutehand uninstall": f"{IN_THE_WHEEL}::test_the_last_page",
    },
    "shared/minutehand/local/README.md": {
        "set -a": f"{IN_THE_WHEEL}::test_people_and_webhooks",
        "psql": f"{IN_THE_WHEEL}::test_people_and_webhooks",
    },
    "shared/supabase_local/README.md": {
        "pip install": "tests/supabase_local/test_command.py::test_it_starts_in_an_empty_folder"
    },
    "shared/supabase_local/realtime/README.md": {
        "DATABASE_URL=": "not run: the stack starts it so, and every test of Realtime uses it"
    },
    "shared/minutehand/pages/agents.md": {
        "pip install": "not run: fetches from PyPI",
        "{ ": "not run: another program's; tests/integration/cli/test_mcp.py has the server",
        "mkdir": f"{IN_THE_WHEEL}::test_an_assistant",
    },
    "shared/minutehand/pages/data.md": {
        "pg_dump": "not run: two hosted projects; tests/sql/test_restore.py restores a dump",
        "minutehand export": f"{IN_THE_WHEEL}::test_people_and_webhooks",
    },
    "shared/minutehand/pages/deploys.md": {
        "MINUTEHAND_COMMIT": f"{IN_THE_WHEEL}::test_an_assistant"
    },
    "shared/minutehand/pages/celery.md": {
        "from minutehand import Call": f"{EXAMPLES}::test_only_listed_exceptions",
        "from minutehand import NewJob": f"{EXAMPLES}::test_the_last_failure",
        "import asyncio": f"{EXAMPLES}::test_a_job_is_asked_for",
    },
    # followed to the letter, all of it, by tests/e2e/npm/site.py
    "shared/minutehand/pages/nextjs.md": {
        "": "tests/e2e/npm/test_chat.py::test_the_page_s_chat_says_each_word_once_through_a_reload"
    },
    "shared/minutehand/pages/own_data.md": {
        "minutehand init": f"{IN_THE_WHEEL}::test_own_tables_work"
    },
    "shared/minutehand/pages/concepts.md": {"enqueue_job": "not run: a drawing"},
    "shared/minutehand/pages/recipes.md": {
        '"use server"': f"{NPM}::test_every_example",
        "export async function POST": f"{NPM}::test_every_example",
        "async with session": f"{EXAMPLES}::test_a_job_of_the_sessions",
        "import asyncio": f"{DRAINED}::test_a_worker_runs_in_the_lifespan",
        "from supabase import": "tests/integration/stack/test_python_client.py::test_synchronous",
        "async def fetch": f"{EXAMPLES}::test_only_what_can_pass",
        "import httpx": f"{EXAMPLES}::test_a_route_of_the_app",
        "OTEL_EXPORTER": "not run: one variable; tests/unit/telemetry exports spans",
        "from minutehand.worker.sentry": f"{EXAMPLES}::test_failures_are_reported",
    },
    "shared/minutehand/worker/README.md": {"import os": f"{DRAINED}::test_what_is_there_is_run"},
    "shared/minutehand/webhooks/README.md": {"curl": f"{IN_THE_WHEEL}::test_people_and_webhooks"},
}
#: Whole kinds: every block of a language in these pages.
KINDS = {
    "sql": {page.path for page in PAGES if page.topic != "aws"},
    "yaml": {page.path for page in PAGES},
    "python": {f"shared/minutehand/{name}.md" for name in PYTHON_PAGES},
}
#: Pages of the checkout alone: what they show is run by their app's own tests.
OF_APPS = "shared/minutehand_apps/"


def pages() -> list[str]:
    """Every page of the repository that prints code."""
    listed = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = [path for path in listed.stdout.splitlines() if not path.startswith(OF_APPS)]
    return [path for path in found if blocks_of((ROOT / path).read_text("utf-8"))]


def where(path: str, block: Block) -> list[str]:
    """What is said of a block."""
    if path in KINDS.get(block.language, ()):
        return ["a whole kind"]
    code = block.code.strip()
    return [said for begins, said in HELD.get(path, {}).items() if code.startswith(begins)]


@pytest.mark.parametrize("path", pages())
def test_each_block_has_a_test_or_a_reason(path: str) -> None:
    """And each entry here has a block."""
    blocks = blocks_of((ROOT / path).read_text("utf-8"))
    lost = [block.code.strip()[:60] for block in blocks if len(where(path, block)) != 1]
    assert lost == [], "run it by a test, and say here by which"
    begun = {
        begins
        for begins in HELD.get(path, {})
        if any(block.code.strip().startswith(begins) for block in blocks)
    }
    assert begun == set(HELD.get(path, {}))


def test_each_test_that_is_named_is_there() -> None:
    for said in {said for page in HELD.values() for said in page.values()}:
        file, _, name = said.partition("::")
        if said.startswith("not run: "):
            for other in re.findall(r"tests/[\w/]+(?:\.py)?", said):
                assert (ROOT / other).exists(), said
        else:
            assert re.search(rf"^(?:async )?def {name}\w*\(", (ROOT / file).read_text(), re.M), said
