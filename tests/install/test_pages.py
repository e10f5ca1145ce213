"""The examples that `minutehand docs` prints in a user's project run unchanged."""

import ast
import json
import re
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import datetime

import psycopg
import pytest
import yaml

from minutehand.docs import PAGES, Names, render
from minutehand.install.rewrite import Schemas
from supabase_local.migrations import as_owner
from tests.support.databases import Database
from tests.support.engine import ACME
from tests.support.pages import blocks
from tests.support.patience import until
from tests.support.stacks import RunningStack, project_stack
from tests.support.stranger import Stranger

# The timeout is long, because the first test builds the wheel and starts a stack.
pytestmark = pytest.mark.timeout(600)
#: SQL that drops another test's table, and creates a table of the reader and the tables of other
#: queues, which pages use.
BEFORE = """
drop table if exists public.invoices cascade; create table public.notes (said text);
create schema pgboss;
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
#: SQL that drops objects that other pages created. If they remained, the removal would fail.
OF_OTHER_PAGES = """
drop table if exists public.invoices, public.orders cascade;
drop function if exists public.greet_customer(), public.send_invoices_invoice(jsonb) cascade
"""
#: The page that inserts into our table of workspaces, which this project does not have.
OF_WORKSPACES = "aws"
#: The page that drops tables of other tests in this file. tests/install/test_without.py tests it.
DROPS_TABLES = "webhooks"
#: A program that prints the outputs of command lines.
PRINT_OUTPUTS = """
import json, sys
from typer.testing import CliRunner
from minutehand.cli.__main__ import app

done = [CliRunner().invoke(app, line.split()) for line in json.loads(sys.argv[1])]
assert not any(result.exit_code for result in done), done
print(json.dumps([result.stdout for result in done]))
"""
#: A pattern of text about parts of the checkout, which a user of the wheel does not have.
OF_THE_CLONE = re.compile(
    r"(?:`|^)make [a-z]|enrich_account|\.venv|\]\((?!http)|tests/(?!test_)"
    r"|README|DECISIONS|shared/|infra/"
)


@pytest.fixture(scope="module")
def project(stranger: Stranger, tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    """A copy of the user's project for this file."""
    return stranger.copy(tmp_path_factory.mktemp("pages") / "bakery")


@pytest.fixture(scope="module")
def dev(project: Stranger) -> Iterator[RunningStack]:
    """The stack of the user's project, run by the wheel's `minutehand dev`."""
    with project_stack(project.environment, project.folder) as running:
        yield running


def printed(project: Stranger, *commands: str) -> list[str]:
    """Run command lines in one process, because a start is slow, and return the outputs."""
    done = project.environment.run(project.folder, "-c", PRINT_OUTPUTS, json.dumps(commands))
    outputs: list[str] = json.loads(done.stdout)
    return outputs


@pytest.fixture(scope="module")
def pages(project: Stranger, dev: RunningStack) -> dict[str, str]:
    """The printed pages by topic."""
    topics = [page.topic for page in PAGES]
    texts = printed(project, *(f"docs {topic}" for topic in topics))
    return dict(zip(topics, texts, strict=True))


def test_every_page_speaks_the_projects_names_and_its_code_is_code(
    pages: dict[str, str], dev: RunningStack
) -> None:
    """Each page contains the project's own names.

    Its SQL runs, and its Python and YAML can be parsed.
    """
    owner = as_owner(dev.values["DATABASE_URL"])
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute(BEFORE)
        for topic, text in pages.items():
            assert [line for line in text.splitlines() if OF_THE_CLONE.search(line)] == []
            assert max(map(len, text.splitlines())) <= 400  # longer lines are hard to read
            assert "jobs.hello" not in text
            for block in blocks(text, "sql") if topic != OF_WORKSPACES else ():
                # only a hosted project has the extensions that wake a worker
                is_kept = topic != DROPS_TABLES and "connect_worker" not in block
                with nullcontext() if is_kept else connection.transaction(force_rollback=True):
                    connection.execute(block.encode())
            for block in blocks(text, "python", "py"):
                compile(block, topic, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            for block in blocks(text, "yaml"):
                assert yaml.safe_load(block)


def test_the_first_person_of_a_workspace_is_added_as_the_page_of_aws_says(
    database: Database,
) -> None:
    """The SQL on the page about AWS creates a workspace with its first manager."""
    [aws] = [page for page in PAGES if page.topic == OF_WORKSPACES]
    [block] = blocks(render(aws.printed, Names(Schemas("public"))), "sql")
    database.run("insert into auth.users (id, email) values (gen_random_uuid(), 'you@example.com')")
    database.run(block)
    rows = database.run(
        "select name, role from public.workspaces as w"
        " join public.workspace_members as m on m.workspace_id = w.id where name = 'Mine'"
    )
    assert rows == [("Mine", "manager")]


def test_no_page_keeps_the_default_names_in_another_schema() -> None:
    """For a project with another schema, pages contain no default names in SQL and text."""
    default_names = r'minutehand_engine|chema\((?:supabase, )?"minutehand"| -n minutehand\b'
    default_names += r"|minutehand\.(?:\w+\(|job|workspace)|[` ]jobs/`|pytest jobs"
    names = Names(Schemas("tasks"), package="work")
    matches = {page.topic: re.findall(default_names, render(page.printed, names)) for page in PAGES}
    assert {topic: words for topic, words in matches.items() if words} == {}


def test_the_first_job_and_the_calls_over_http_run(
    project: Stranger, dev: RunningStack, pages: dict[str, str]
) -> None:
    """The README's first job and the HTTP page's curl commands run as printed."""
    output = project.sh("""minutehand enqueue work.hello '{"name": "Ada"}' --watch""")
    assert '"greeting": "Hello, Ada!"' in output
    assert "work.hello" in project.sh("minutehand enqueue work.helo '{}' 2>&1")
    text = pages["http"]
    assert ACME in text

    done = project.sh("\n".join(blocks(text, "sh")))

    assert '"greeting": "Hello, Ada!"' in done
    assert '"more":false,"count":0' in done


def test_own_tables_work_as_their_page_says(
    project: Stranger, dev: RunningStack, pages: dict[str, str]
) -> None:
    """The page about own tables is followed while the stack runs, and its job completes."""
    text = pages["own-data"]
    [table], [processor, _] = blocks(text, "sql"), blocks(text, "python")
    migrations = project.folder / "supabase" / "migrations"
    newest = max(path.name.partition("_")[0] for path in migrations.glob("*.sql"))
    file = migrations / f"{int(newest) + 1}_create_invoices.sql"
    # Another test has run the SQL that is a migration in this test.
    dev.run("drop table if exists public.invoices")
    file.write_text(table)
    project.sh(blocks(text, "sh")[0])
    its_test = "from work.tests.test_invoices_send import *; test_send_invoices_works_on_its_rows()"
    project.sh(f"python -c '{its_test}'")
    (project.folder / "work" / "processors" / "invoices_send.py").write_text(processor)
    exists = "select 1 where to_regproc('public.send_invoices_invoice') is not null"
    until(lambda: dev.run(exists))
    row = "insert into public.invoices (organization_id, customer, amount) select %s, 'Ada', 12"
    dev.run(row, ACME)
    # The first worker that has loaded the page's processor publishes its description.
    published = "select 1 from minutehand_engine.job_types where description ~ '^Mail an invoice'"
    until(lambda: dev.run(published))

    output = project.sh("""minutehand enqueue invoices.send '{"invoice_id": 1}' --watch""")

    assert '"message_id": "message to Ada: 12.0 EUR"' in output
    assert "0 failed" in project.sh("minutehand doctor")


def test_the_skill_file_is_followed_to_the_letter(
    project: Stranger, dev: RunningStack, pages: dict[str, str]
) -> None:
    """The processor, the test and the command of the skill file work as printed."""
    text = pages["skill"]
    [processor, test], folder = blocks(text, "python"), project.folder / "work"
    (folder / "processors" / "greet.py").write_text(processor)
    (folder / "tests" / "test_greet.py").write_text(
        f"from work.processors.greet import Greet, greet\n{test}"
    )
    project.sh("python -m pytest -q -p no:cacheprovider work/tests/test_greet.py")
    published = "select 1 from minutehand_engine.job_types where job_type = 'jobs.greet'"
    until(lambda: dev.run(published))
    assert "jobs.greet" in project.sh("minutehand types")
    [command] = re.findall(r"`(minutehand enqueue jobs\.greet .* --watch)`", text)

    assert '"said": "Hello Ada"' in project.sh(command)
    assert "0 failed" in project.sh("minutehand doctor")


def test_people_and_webhooks_are_made_in_a_shell(
    project: Stranger, dev: RunningStack, pages: dict[str, str]
) -> None:
    """The printed curl and psql commands create users and webhooks, and export a user's data."""
    [signs_up, by_sql] = blocks(pages["local"], "sh")
    [subscribes] = blocks(pages["webhooks"], "sh")
    here = "set -a; . .local/env; set +a\nTOKEN=$(minutehand token)\n"

    project.sh(signs_up)
    project.sh(here + by_sql)

    assert "https://example.com/hooks" in project.sh(here + subscribes)
    users = "select email, id from auth.users where email ~ '^(you|new)@example' order by 1"
    [(new, user), (you, _)] = dev.run(users)
    assert (new, you) == ("new@example.com", "you@example.com")
    [exports] = [block for block in blocks(pages["data"], "sh") if "erase" in block]
    # --yes, because at a terminal the command asks for confirmation
    exports = exports.replace("USER_ID", str(user)).replace("erase ", "erase --yes ")
    project.sh(here + exports)
    assert json.loads((project.folder / "ada.json").read_text())


def test_an_assistant_gets_its_skill_file_and_an_image_its_commit(
    project: Stranger, pages: dict[str, str]
) -> None:
    """The printed commands write the skill file and set the commit of a container image."""
    [_, skill] = blocks(pages["agents"], "sh")
    project.sh(skill)
    assert (project.folder / ".claude/skills/minutehand/SKILL.md").read_text().startswith("---")

    [names] = blocks(pages["deploys"], "sh")
    printed = project.sh(
        f"GITHUB_SHA=abc\n{names}\necho $MINUTEHAND_COMMIT $MINUTEHAND_DEPLOYED_AT"
    )
    commit, at = printed.split()
    assert commit == "abc"
    assert datetime.fromisoformat(at).tzinfo is not None


def test_the_last_page_takes_it_out_again(
    project: Stranger, dev: RunningStack, pages: dict[str, str]
) -> None:
    """The printed commands remove the engine while the stack runs.

    This is the last test of the file.
    """
    [*_, removal] = blocks(pages["install"], "sh")
    lines = [line for line in removal.splitlines() if not line.startswith("pip ")]
    dev.run(OF_OTHER_PAGES)

    project.sh("set -a; . .local/env; set +a\n" + "\n".join(lines))

    assert dev.run("select to_regnamespace('minutehand')") == [(None,)]
