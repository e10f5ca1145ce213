"""Rotation: keys are sealed anew while jobs go on, under KMS and under a key file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import boto3
import psycopg
import pytest
from botocore.exceptions import ClientError

from minutehand.aws.sealing import PURPOSE, FileDataKeys, KmsDataKeys, Sealer, key_id_of
from minutehand.config import Settings
from minutehand.queue.errors import QueueError
from minutehand_apps.enrichment.services import key_context
from tests.integration.enrichment.conftest import BOB, INITECH, Office
from tests.support.functions import as_worker, lease
from tests.support.project import ACME, ADA, Project

PATH = f"/api/workspaces/{ACME}/settings"


@pytest.fixture
async def under_kms(settings: Settings, project: Project, aws: str) -> AsyncIterator[Office]:
    """The app with its keys under KMS, by an alias."""
    kms = boto3.client("kms", endpoint_url=aws, region_name=settings.aws_region)
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    alias = f"alias/test-{key_id}"
    kms.create_alias(AliasName=alias, TargetKeyId=key_id)
    changed = settings.model_copy(update={"kms_key_id": alias, "sealing_key_file": None})
    async with Office(changed, project).open() as office:
        yield office


def sealed(office: Office) -> str:
    [row] = office.project.rows(
        "select apollo_api_key_encrypted as sealed from public.workspace_settings"
        " where workspace_id = %s",
        ACME,
    )
    text: str = row["sealed"]
    return text


async def test_a_key_under_kms_works_in_a_job(under_kms: Office) -> None:
    """As deployed: a data key per value, wrapped by KMS."""
    await under_kms.call("PUT", PATH, json={"apollo_api_key": "test-key-under-kms"})

    job = await under_kms.run("enrich_account", {"account_id": INITECH})

    assert job["status"] == "completed"
    assert "arn:aws:kms" in key_id_of(sealed(under_kms))


def test_the_keys_purpose_is_the_one_the_roles_may_use_the_key_for() -> None:
    """roles.yml binds every use of the KMS key to it; anything else is denied in production."""
    assert key_context(ACME)["purpose"] == PURPOSE


async def test_a_rotation_seals_again_and_old_values_open_meanwhile(
    office: Office, settings: Settings
) -> None:
    """Between the rotation and the job that reseals, everything keeps working."""
    await office.call("PUT", PATH, json={"apollo_api_key": "test-key-rotates"})
    before = sealed(office)
    current = FileDataKeys(Path(settings.sealing_key_file or "")).rotate()

    meanwhile = await office.run("enrich_account", {"account_id": INITECH})
    answer = await office.call("POST", f"{PATH}/reseal")
    await office.tick()
    afterwards = await office.run("enrich_account", {"account_id": INITECH})

    assert answer.status_code == 202
    assert office.project.row(answer.json()["id"])["result"] == {"resealed": True}
    assert key_id_of(sealed(office)) == current != key_id_of(before)
    assert (meanwhile["status"], afterwards["status"]) == ("completed", "completed")
    told = await office.call("GET", PATH)
    assert told.json()["apollo_api_key"]["last4"] == "ates"


class RefusingKms:
    """KMS where the role's right is missing: it answers with the names of role and key."""

    def decrypt(self, **asked: object) -> None:
        """Refuse."""
        said = (
            "User: arn:aws:sts::123456789012:assumed-role/minutehand-worker/w is not authorized"
            " to perform: kms:Decrypt on the resource"
        )
        raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": said}}, "Decrypt")

    def generate_data_key(self, **asked: object) -> None:
        """Refuse."""
        self.decrypt()


async def test_members_do_not_read_the_key_services_words(
    office: Office, settings: Settings
) -> None:
    """A job's error is the tenant's to read; account, role and key are the operator's."""
    await office.call("PUT", PATH, json={"apollo_api_key": "test-key-unreached"})
    office.enrichment.sealer = Sealer(KmsDataKeys(settings, "alias/any", kms=RefusingKms()))

    job = await office.run("enrich_account", {"account_id": INITECH})
    await office.call("POST", f"{PATH}/reseal")
    await office.tick()

    assert (job["status"], job["attempts"]) == ("pending", 1)
    assert "the key service did not answer" in job["error_message"]
    for table in ("public.jobs", "public.job_logs", "public.job_events", "queue.attempts"):
        rows = str(office.project.rows(f"select to_jsonb(t) as row from {table} as t"))
        assert "arn:" not in rows, table
        assert "AccessDenied" not in rows, table


async def test_resealing_what_is_current_does_nothing(office: Office) -> None:
    """Safe to run every night."""
    await office.call("PUT", PATH, json={"apollo_api_key": "test-key-current"})
    before = sealed(office)

    answer = await office.call("POST", f"{PATH}/reseal")
    await office.tick()

    job = office.project.row(answer.json()["id"])
    assert job["result"] == {"resealed": False}
    assert sealed(office) == before


async def lease_reseal(office: Office) -> tuple[str, int]:
    """Order a reseal and lease its job."""
    made = await office.call("POST", f"{PATH}/reseal")
    held = lease(office.project.database, made.json()["id"], "reseal_apollo_key")
    return held["job_id"], held["fence"]


async def test_a_key_changed_during_the_rotation_wins(office: Office) -> None:
    """Compare and swap: the manager's new key must not be undone by the old one resealed."""
    await office.call("PUT", PATH, json={"apollo_api_key": "test-key-old"})
    old = sealed(office)
    held = await lease_reseal(office)
    await office.call("PUT", PATH, json={"apollo_api_key": "test-key-newer"})
    newer = sealed(office)

    swapped = await office.enrichment.store.swap_key(*held, old=old, new=old)

    assert swapped is False
    assert sealed(office) == newer


async def test_a_workers_key_alone_replaces_and_reads_no_sealed_key(office: Office) -> None:
    """Only the lease's holder may, and only by a sealed key: rubbish would lose the vendor's."""
    await office.call("PUT", PATH, json={"apollo_api_key": "test-key-old"})
    old = sealed(office)
    job_id, fence = await lease_reseal(office)
    store = office.enrichment.store

    for name in ("enrichment_load_key", "enrichment_swap_key"):
        request = {"job_id": job_id, "fence": fence + 1, "old": old, "new": old}
        with pytest.raises(psycopg.Error, match="lease"):
            as_worker(office.project.database, name, request)
    with pytest.raises(QueueError, match="sealed"):
        await store.swap_key(job_id, fence, old=old, new="rubbish")
    with pytest.raises(QueueError, match="ticket"):
        await store.load_key_by_ticket(job_id)

    assert await store.load_key(job_id, fence) == sealed(office) == old


async def test_a_managers_ticket_opens_the_key_for_a_minute(office: Office) -> None:
    """The connection test reads it without a job; whoever keeps the ticket reads nothing later."""
    await office.call("PUT", PATH, json={"apollo_api_key": "test-key-old"})
    manager = office.enrichment.acting_as(office.project.token(ADA))
    ticket = (await manager.call("apollo_key_ticket", workspace_id=ACME))["ticket"]

    assert await office.enrichment.store.load_key_by_ticket(ticket) == sealed(office)
    assert await manager.call("apollo_key_ticket", workspace_id=ACME) == {"ticket": ticket}

    office.project.run_sql("update enrichment.key_tickets set expires_at = queue.clock()")
    with pytest.raises(QueueError, match="ticket"):
        await office.enrichment.store.load_key_by_ticket(ticket)
    member = office.enrichment.acting_as(office.project.token(BOB))
    with pytest.raises(QueueError):
        await member.call("apollo_key_ticket", workspace_id=ACME)
