"""A restart of Postgres while the Realtime server runs."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from supabase_local import migrations
from supabase_local.postgres import Postgres
from tests.supabase_local.realtime.support import SECRET_KEY, Server, open_socket, unique

AWAY = "UnableToConnectToProject: Realtime was unable to connect to the project database"


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[Postgres]:
    """A Postgres server of this test, which the test stops."""
    server = Postgres(tmp_path, scratch=True)
    server.start()
    migrations.prepare_hosted(server.url())
    yield server
    server.destroy()


@pytest.fixture
def own_server(own_postgres: Postgres) -> Iterator[Server]:
    """A Realtime server for that Postgres."""
    server = Server(own_postgres.url())
    yield server
    server.stop()


async def test_the_server_survives_a_restart_of_postgres(
    own_postgres: Postgres, own_server: Server
) -> None:
    """While Postgres restarts, joins are rejected with a documented reason. Later joins succeed."""
    server, topic = own_server, unique()
    socket = await open_socket(server, key=SECRET_KEY)
    await socket.joined(topic, private=True)

    own_postgres.stop()
    server.wait_for_health(503)
    refused = [await socket.join(unique(), private=private) for private in (False, True)]
    own_postgres.start()
    server.wait_for_health(200)

    assert [reply["response"] for reply in refused] == [{"reason": AWAY}] * 2
    with psycopg.connect(own_postgres.url(), autocommit=True) as sql:
        sql.execute("select realtime.send('{}', 'after', %s)", [topic])
        assert (await socket.expect("broadcast"))["payload"]["event"] == "after"
    await socket.joined(unique(), private=True)
    await socket.connection.close()
