"""The local database gives its owner the rights of a hosted project and no more."""

import re

import psycopg
import pytest

from tests.support.databases import Database
from tests.support.paths import ROOT

FIXTURES = ROOT / "tests/fixtures/hosted"
TABLES, *TAKEN = (FIXTURES / "takes.sql").read_text().split("\n\n")[1:]
#: Statements that a hosted project rejects, each with its error.
REFUSED = re.findall(
    r"-- (.+) \(.+\)\n((?:(?!--).+\n)+)", (FIXTURES / "refuses.sql").read_text().split("\n\n", 1)[1]
)


@pytest.mark.parametrize("paragraph", TAKEN, ids=lambda text: " ".join(text.split()[:5]))
def test_hosted_takes_it(database: Database, paragraph: str) -> None:
    with database.connect(user="postgres", autocommit=False) as owner:
        owner.execute(TABLES.encode())
        owner.execute(paragraph.encode())
        owner.rollback()


@pytest.mark.parametrize(
    ("result", "statement"), REFUSED, ids=lambda text: " ".join(text.split()[:6])
)
def test_hosted_refuses_it(database: Database, result: str, statement: str) -> None:
    """A statement that a hosted project rejects is rejected locally.

    A migration thus fails before its push.
    """
    database.run(TABLES)
    database.run(
        "create trigger theirs before insert on storage.migrations"
        " for each row execute function handle()"
    )
    with (
        database.connect(user="postgres") as owner,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match=result),
    ):
        owner.execute(statement.encode())


def test_a_sign_up_trigger_is_tried_as_auths_own_role(database: Database) -> None:
    with database.connect(user="postgres") as owner:
        owner.execute(TABLES.encode())
        owner.execute(
            "create or replace function public.handle() returns trigger language plpgsql"
            " security definer set search_path = '' as $$ begin"
            " insert into public.notes (user_id, body) values (new.id, 'welcome');"
            " return new; end $$"
        )
        owner.execute(
            "create trigger welcome after insert on auth.users"
            " for each row execute function public.handle()"
        )
    with database.as_role("supabase_auth_admin") as auth:
        auth.execute("insert into auth.users (id) values (gen_random_uuid())")
    assert database.run("select body from public.notes") == [("welcome",)]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        # RFC 4231's first case, and a vector of crypt_blowfish
        (
            "encode(extensions.hmac('Hi There', repeat(chr(11), 20), 'sha256'), 'hex')",
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
        ),
        (
            "extensions.crypt('U*U', '$2a$05$CCCCCCCCCCCCCCCCCCCCC.')",
            "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
        ),
    ],
)
def test_stand_ins_answer_as_the_extensions_do(
    database: Database, expression: str, value: str
) -> None:
    assert database.run(f"select {expression}") == [(value,)]
