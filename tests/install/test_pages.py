"""What `minutehand docs` prints in a stranger's project can be typed as it is there."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import datetime
from typing import Any

import psycopg
import pytest
import yaml

from minutehand.docs import PAGES, Names, render
from minutehand.install.rewrite import Schemas
from supabase_local.migrations import as_user
from tests.support.databases import Database
from tests.support.engine import ACME
from tests.support.pages import blocks
from tests.support.paths import ROOT
from tests.support.patience import until
from tests.support.stacks import RunningStack, end, launch, wait_ready
from tests.support.stranger import Stranger

#: The first builds the wheel and starts its stack.
pytestmark = pytest.mark.timeout(600)
#: Without what another test made; and other queues' tables, as far as their page reads them.
BEFORE = """
drop table if exists public.invoices cascade; create schema pgboss;
create table pgboss.job
  (id uuid default gen_random_uuid(), name text, state text, data jsonb, start_after timestamptz);
insert into pgboss.job (name, state, data) values ('greet', 'created', '{"name": "Ada"}');
create schema graphile_worker;
create table graphile_worker._private_tasks (id int primary key, identifier text);
create table graphile_worker._private_jobs
  (id bigint, task_id int, payload json, run_at timestamptz, locked_at timestamptz);
insert into graphile_worker._private_tasks values (1, 'greet');
insert into graphile_worker._private_jobs values (1, 1, '{"name": "Ada"}', now())
"""
#: What other pages have made over the engine: with it, its removal is refused.
OF_OTHER_PAGES = b"""
drop table if exists public.invoices, public.orders cascade;
drop function if exists public.greet_customer(), public.send_invoices_invoice(jsonb) cascade
"""
#: Makes a row of our table of workspaces, which this project does not have.
OF_WORKSPACES = "aws"
#: Takes tables out that the other tests of the file use; tests/install/test_without.py keeps it.
TAKES_OUT = "webhooks"
#: Prints what each command line of its argument prints.
PRINTS = """
import json, sys
from typer.testing import CliRunner
from minutehand.cli.__main__ import app

done = [CliRunner().invoke(app, line.split()) for line in json.loads(sys.argv[1])]
assert not any(each.exit_code for each in done), done
print(json.dumps([each.stdout for each in done]))
"""
#: What the wheel and its user do not have.
OF_THE_CLONE = re.compile(
    r"(?:`|^)make [a-z]|enrich_account|\.venv|\]\((?!http)|tests/(?!test_)"
    r"|README|DECISIONS|shared/|infra/"
)


@pytest.fixture(scope="module")
def project(stranger: Stranger, tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    """A copy of the project, for this file."""
    return stranger.copy(tmp_path_factory.mktemp("pages") / "bakery")


@pytest.fixture(scope="module")
def dev(project: Stranger) -> Iterator[RunningStack]:
    """The wheel's own `minutehand dev` of it."""
    state, environment = project.folder / ".local", project.environment
    environ = {"PYTHONPATH": "", "XDG_CACHE_HOME": str(environment.cache)}
    environ["MINUTEHAND_PROJECT"] = str(project.folder)
    launcher = launch(state, "--no-demo", python=environment.python, root=project.folder, **environ)
    try:
        yield wait_ready(state, launcher)
    finally:
        end(state, launcher)


def run(project: Stranger, script: str) -> str:
    """A shell's output, with the wheel's command in its path and nothing of ours."""
    bin_ = project.environment.python.parent
    command = bin_ / "minutehand"
    if not command.exists():
        command.write_text(f'#!/bin/sh\nexec {bin_}/python -m minutehand.cli.entry "$@"\n')
        command.chmod(0o755)
    environ = {"PATH": f"{bin_}:{os.environ['PATH']}", "HOME": os.environ["HOME"]}
    how: Any = {"capture_output": True, "text": True, "timeout": 120, "check": False}
    done = subprocess.run(["bash", "-ec", script], cwd=project.folder, env=environ, **how)
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return str(done.stdout)


def printed(project: Stranger, *commands: str) -> list[str]:
    """What each command line prints, one process for all: its start costs more than they do."""
    done = project.environment.run(project.folder, "-c", PRINTS, json.dumps(commands))
    found: list[str] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def pages(project: Stranger, dev: RunningStack) -> dict[str, str]:
    """Each page by its topic, as it is printed."""
    topics = [each.topic for each in PAGES]
    texts = printed(project, *(f"docs {topic}" for topic in topics))
    return dict(zip(topics, texts, strict=True))


def test_every_page_speaks_the_projects_names_and_its_code_is_code(
    pages: dict[str, str], dev: RunningStack
) -> None:
    """SQL runs as the dashboard's editor runs it; what needs a model or a server is read."""
    owner = as_user(dev.values["DATABASE_URL"], "postgres")
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute(BEFORE)
        for topic, text in pages.items():
            assert [line for line in text.splitlines() if OF_THE_CLONE.search(line)] == []
            assert max(map(len, text.splitlines())) <= 400  # more asks for a second reading
            assert "jobs.hello" not in text
            for block in blocks(text, "sql") if topic != OF_WORKSPACES else ():
                is_kept = topic != TAKES_OUT
                with nullcontext() if is_kept else connection.transaction(force_rollback=True):
                    connection.execute(block.encode())
            for block in blocks(text, "python", "py"):
                compile(block, topic, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            for block in blocks(text, "yaml"):
                assert yaml.safe_load(block)
        start = render((ROOT / "README.md").read_text(), Names(tenant=ACME))
        for block in blocks(start.replace("…workspace…", ACME), "sql"):
            connection.execute(block.encode())


def test_the_first_person_of_a_workspace_is_added_as_the_page_of_aws_says(
    database: Database,
) -> None:
    """With workspaces of ours, which the others' project does not have."""
    [aws] = [each for each in PAGES if each.topic == OF_WORKSPACES]
    [block] = blocks(render(aws.printed, Names(Schemas("public"))), "sql")
    with database.connect() as connection:
        connection.execute(
            "insert into auth.users (id, email) values (gen_random_uuid(), 'you@example.com')"
        )
        connection.execute(block.encode())
        seen = connection.execute(
            "select name, role from public.workspaces as w"
            " join public.workspace_members as m on m.workspace_id = w.id where name = 'Mine'"
        )
        assert seen.fetchall() == [("Mine", "manager")]


def test_no_page_keeps_the_default_names_in_another_schema() -> None:
    """Neither in SQL nor around it."""
    kept = r'minutehand_engine|chema\((?:supabase, )?"minutehand"| -n minutehand\b'
    kept += r"|minutehand\.(?:\w+\(|job|workspace)|[` ]jobs/`|pytest jobs"
    names = Names(Schemas("tasks"), package="work")
    found = {each.topic: re.findall(kept, render(each.printed, names)) for each in PAGES}
    assert {topic: words for topic, words in found.items() if words} == {}


def test_the_first_job_and_the_calls_over_http_run(
    project: Stranger, dev: RunningStack, pages: dict[str, str]
) -> None:
    """The README's in a terminal; the page's by curl and jq."""
    seen = run(project, """minutehand enqueue work.hello '{"name": "Ada"}' --watch""")
    assert '"greeting": "Hello, Ada!"' in seen
    assert "work.hello" in run(project, "minutehand enqueue work.helo '{}' 2>&1")
    text = pages["http"]
    assert ACME in text

    done = run(project, "\n".join(blocks(text, "sh")))

    assert '"greeting": "Hello, Ada!"' in done
    assert '"more":false,"count":0' in done


def test_own_tables_work_as_their_page_says(
    project: Stranger, dev: RunningStack, pages: dict[str, str]
) -> None:
    """A table, the functions, the processor and a job, while the stack runs."""
    text = pages["own-data"]
    [table], [processor, _] = blocks(text, "sql"), blocks(text, "python")
    migrations = project.folder / "supabase" / "migrations"
    newest = max(path.name.partition("_")[0] for path in migrations.glob("*.sql"))
    file = migrations / f"{int(newest) + 1}_create_invoices.sql"
    # the other test has run the page's SQL; here it is a migration
    with dev.connect() as connection:
        connection.execute("drop table if exists public.invoices")
    file.write_text(table)
    run(project, blocks(text, "sh")[0])
    its_test = "from work.tests.test_invoices_send import *; test_send_invoices_works_on_its_rows()"
    run(project, f"python -c '{its_test}'")
    (project.folder / "work" / "processors" / "invoices_send.py").write_text(processor)
    with dev.connect() as connection:
        row = "insert into public.invoices (organization_id, customer, amount) select %s, 'Ada', 12"
        made = "select to_regproc('public.send_invoices_invoice') is not null"
        until(lambda: connection.execute(made).fetchone() == (True,))
        connection.execute(row.encode(), [ACME])

    said = run(project, """minutehand enqueue invoices.send '{"invoice_id": 1}' --watch""")

    assert '"message_id": "message to Ada: 12.0 EUR"' in said
    assert "0 failed" in run(project, "minutehand doctor")


def test_the_skill_file_is_followed_to_the_letter(
    project: Stranger, dev: RunningStack, pages: dict[str, str]
) -> None:
    """Its processor, its test, its command, as an assistant would."""
    text = pages["skill"]
    [processor, test], folder = blocks(text, "python"), project.folder / "work"
    (folder / "processors" / "greet.py").write_text(processor)
    (folder / "tests" / "test_greet.py").write_text(
        f"from work.processors.greet import Greet, greet\n{test}"
    )
    run(project, "python -m pytest -q -p no:cacheprovider work/tests/test_greet.py")
    with dev.connect() as connection:
        published = "select from minutehand_engine.job_types where job_type = 'jobs.greet'"
        until(lambda: connection.execute(published).rowcount)
    assert "jobs.greet" in run(project, "minutehand types")
    [command] = re.findall(r"`(minutehand enqueue jobs\.greet .* --watch)`", text)

    assert '"said": "Hello Ada"' in run(project, command)
    assert "0 failed" in run(project, "minutehand doctor")


def test_people_and_webhooks_are_made_in_a_shell(
    project: Stranger, dev: RunningStack, pages: dict[str, str]
) -> None:
    """By curl and psql, as the pages of the local stack and of webhooks have it."""
    [signs_up, by_sql] = blocks(pages["local"], "sh")
    [subscribes] = blocks(pages["webhooks"], "sh")
    here = "set -a; . .local/env; set +a\nTOKEN=$(minutehand token)\n"

    run(project, signs_up)
    run(project, here + by_sql)

    assert "https://example.com/hooks" in run(project, here + subscribes)
    with dev.connect() as connection:
        said = "select email from auth.users where email ~ '^(you|new)@example' order by 1"
        assert [email for (email,) in connection.execute(said.encode())] == [
            "new@example.com",
            "you@example.com",
        ]
        [[user]] = connection.execute("select id from auth.users where email ~ '^new@example'")
    [exports] = [block for block in blocks(pages["data"], "sh") if "erase" in block]
    # at a terminal it asks first
    exports = exports.replace("USER_ID", str(user)).replace("erase ", "erase --yes ")
    run(project, here + exports)
    assert json.loads((project.folder / "ada.json").read_text())


def test_an_assistant_gets_its_skill_file_and_an_image_its_commit(
    project: Stranger, pages: dict[str, str]
) -> None:
    """The other lines that need no stack."""
    [_, skill] = blocks(pages["agents"], "sh")
    run(project, skill)
    assert (project.folder / ".claude/skills/minutehand/SKILL.md").read_text().startswith("---")

    [names] = blocks(pages["deploys"], "sh")
    printed = run(
        project, f"GITHUB_SHA=abc\n{names}\necho $MINUTEHAND_COMMIT $MINUTEHAND_DEPLOYED_AT"
    )
    commit, at = printed.split()
    assert commit == "abc"
    assert datetime.fromisoformat(at).tzinfo is not None


def test_every_verb_says_what_it_does(project: Stranger) -> None:
    """Also where no app brings verbs."""
    said = run(project, "minutehand --help")
    verbs = re.findall(r"^  ([a-z]+)  +\S", said.partition("Run:")[2], re.MULTILINE)

    assert len(verbs) > 20
    *helps, listed = printed(project, *(f"{verb} --help" for verb in verbs), "docs --json")
    assert all(map(str.strip, helps))
    assert json.loads(listed)


def test_the_last_page_takes_it_out_again(
    project: Stranger, dev: RunningStack, pages: dict[str, str]
) -> None:
    """While the stack runs, as its lines are printed; the last of the file."""
    [*_, removal] = blocks(pages["install"], "sh")
    lines = [line for line in removal.splitlines() if not line.startswith("pip ")]
    with dev.connect() as connection:
        connection.execute(OF_OTHER_PAGES)

    run(project, "set -a; . .local/env; set +a\n" + "\n".join(lines))

    with dev.connect() as connection:
        assert connection.execute("select to_regnamespace('minutehand')").fetchone() == (None,)
