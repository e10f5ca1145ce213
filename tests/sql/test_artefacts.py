"""Files of jobs: stored by the holder of the lease, read by members and holders of the key."""

from __future__ import annotations

import base64
from typing import Any

import psycopg
import pytest

from tests.sql.test_guest_sessions import anyone
from tests.support.engine import ACME, ADA, EVE, Engine, handle, refusal


def leased(engine: Engine, job_type: str = "work") -> dict[str, Any]:
    """A job of the first workspace, leased; its id and fence."""
    job_id = str(engine.enqueue(job_type=job_type))
    lease = engine.lease_one()
    assert lease["job"]["id"] == job_id
    return handle(lease)


def store(
    engine: Engine, held: dict[str, Any], content: bytes | None = b"hello", **more: Any
) -> dict[str, Any]:
    sent = None if content is None else base64.b64encode(content).decode()
    request = {
        "name": "page.html",
        "media_type": "text/html",
        "keep_seconds": 3600,
        "content": sent,
    }
    stored: dict[str, Any] = engine.rpc("store_artefact", p_request=request | held | more)
    return stored


def key_of(stored: dict[str, Any]) -> str:
    return str(stored["url"]).partition("?key=")[2]


def test_a_file_is_replaced_under_its_address_and_read_whole(engine: Engine) -> None:
    """An attempt that is made again stores what it stored."""
    held = leased(engine)
    content = bytes(range(256)) * 1000

    first = store(engine, held)
    again = store(engine, held, content, media_type="image/png", keep_seconds=7200)
    other = store(engine, held, name="b.txt")
    [read] = engine.rpc("job_artefacts", p_job_id=held["job_id"], p_name="page.html")["artefacts"]

    assert again["url"] == first["url"]
    assert key_of(other) == key_of(first)
    assert again["expires_at"] > other["expires_at"]
    assert again["created_at"] > first["created_at"]  # when it was last written
    assert (again["media_type"], again["size_bytes"]) == ("image/png", len(content))
    assert base64.b64decode(read.pop("content")) == content
    assert read == again


def test_only_members_and_holders_of_the_key_read_it(engine: Engine) -> None:
    """Another workspace, a guest, and the key of another job find nothing."""
    held = leased(engine)
    stored = store(engine, held)
    other = store(engine, leased(engine))
    job = held["job_id"]
    with engine.member(ADA) as ada:
        [seen] = ada.rpc("job_artefacts", p_job_id=job)["artefacts"]
    with anyone(engine) as holder:
        [shown] = holder.rpc("job_artefacts", p_job_id=job, p_key=key_of(stored))["artefacts"]

    assert seen == shown == stored
    for who in (engine.member(EVE), anyone(engine)):
        with who as stranger:
            for key in (None, key_of(other)):
                with pytest.raises(psycopg.Error) as refused:
                    stranger.rpc("job_artefacts", p_job_id=job, p_key=key)
                assert refusal(refused.value)[0] == "PT404"


def test_a_zombie_stores_no_file(engine: Engine) -> None:
    """Not beside its heir's, and not over it."""
    held = leased(engine)
    store(engine, held, b"mine")
    engine.advance(61)
    heir = engine.lease_one(worker="heir")

    for name in ("page.html", "other.html"):
        with pytest.raises(psycopg.Error) as refused:
            store(engine, held, b"zombie", name=name)
        assert refusal(refused.value)[:2] == ("PT409", "lease_lost")
    assert heir["job"]["id"] == held["job_id"]
    assert engine.rows("select convert_from(content, 'utf8') from queue.artefacts") == ["mine"]


@pytest.mark.parametrize(
    ("more", "refused_with"),
    [
        ({"name": "../x"}, ("PT400", "invalid_argument", "name")),
        ({"name": None}, ("PT400", "invalid_argument", "name")),
        ({"media_type": "text/html\nX: y"}, ("PT400", "invalid_argument", "media_type")),
        ({"name": "x" * 121}, ("PT400", "invalid_argument", "name")),
        ({"keep_seconds": 0}, ("PT400", "invalid_argument", "keep_seconds")),
        ({"keep_seconds": 315_360_001}, ("PT400", "invalid_argument", "keep_seconds")),
        ({"keep_seconds": 7.5}, ("PT400", "invalid_argument", "keep_seconds")),
        ({"content": None}, ("PT400", "invalid_argument", "content")),
        ({"content": b"x" * 4_000_001}, ("PT413", "artefacts_too_large", "page.html")),
    ],
)  # fmt: skip
def test_what_cannot_be_stored_is_named(
    engine: Engine, more: dict[str, Any], refused_with: tuple[str, ...]
) -> None:
    """And nothing of it is."""
    held = leased(engine)

    with pytest.raises(psycopg.Error) as refused:
        store(engine, held, **more)

    assert refusal(refused.value) == refused_with
    assert engine.one("select count(*) from queue.artefacts") == 0
    with pytest.raises(psycopg.Error) as garbled:
        engine.rpc(
            "store_artefact",
            p_request={**held, "name": "a", "media_type": "a/b", "keep_seconds": 1, "content": "?"},
        )
    assert refusal(garbled.value)[2] == "content"


def test_the_files_of_a_job_and_of_a_workspace_are_bounded(engine: Engine) -> None:
    """In bytes together and in number, for the worker too."""
    held = leased(engine)
    store(engine, held, b"x" * 3_000_000)
    with pytest.raises(psycopg.Error) as large:
        store(engine, held, b"x" * 1_000_001, name="second")
    engine.run(
        "insert into queue.artefacts (job_id, name, workspace_id, media_type, content, key,"
        " expires_at) select job_id, 'f' || n, workspace_id, media_type, '', key, expires_at"
        " from queue.artefacts, generate_series(1, 99) as n"
    )
    store(engine, held, name="f1")
    with pytest.raises(psycopg.Error) as crowded:
        store(engine, held, name="second")
    engine.run("update queue.settings set value = '1' where name = 'max_artefacts'")
    with pytest.raises(psycopg.Error) as many:
        store(engine, held, name="second")

    for error in (large, crowded):
        assert refusal(error.value)[:2] == ("PT413", "artefacts_too_large")
    assert refusal(many.value) == ("PT429", "quota_exceeded", "max_artefacts")
    with engine.member(ADA) as ada:
        limits = ada.rpc("workspace_limits", p_workspace_id=ACME)
    assert limits["quotas"]["max_artefacts"] == {"max": 1, "used": 1}


def test_it_outlasts_its_job_and_not_its_time(engine: Engine) -> None:
    """Its address works until then, whatever retention says of the job."""
    engine.enqueue()
    lease = engine.lease_one()
    held = handle(lease)
    stored = store(engine, held, keep_seconds=40 * 86400)
    engine.settle(lease)
    engine.advance(31 * 86400)
    engine.maintain()
    read = {"p_job_id": held["job_id"], "p_key": key_of(stored)}

    assert engine.one("select count(*) from public.jobs") == 0
    assert engine.rpc("job_artefacts", **read)["artefacts"] == [stored]
    engine.advance(10 * 86400)
    with pytest.raises(psycopg.Error) as ended:
        engine.rpc("job_artefacts", **read)
    engine.maintain()
    assert refusal(ended.value)[:2] == ("PT404", "artefact_not_found")
    assert engine.one("select count(*) from queue.artefacts") == 0


def test_deleting_a_job_deletes_its_files(engine: Engine) -> None:
    """A person's data is erased with their jobs."""
    store(engine, leased(engine))

    engine.run("delete from public.jobs")

    assert engine.one("select count(*) from queue.artefacts") == 0
