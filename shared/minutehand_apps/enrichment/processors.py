"""The enrichment processors: one account, one contact.

What may be overwritten is decided in SQL.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from minutehand.aws import SealBroken
from minutehand.config import Settings
from minutehand.queue import ProcessorError
from minutehand.worker import (
    Backoff,
    Fail,
    Job,
    JobContext,
    Registry,
    Snooze,
    VendorCalls,
    VendorError,
    clock_time,
)
from minutehand_apps.enrichment.apollo import (
    ApolloClient,
    ApolloError,
    ApolloRateLimited,
    OrganizationMatch,
    PersonMatch,
    json_record,
)
from minutehand_apps.enrichment.models import (
    EnrichAccount,
    EnrichContact,
    Enriched,
    Kind,
    account_fields,
    contact_fields,
    find_domain,
    find_email,
)
from minutehand_apps.enrichment.services import Enrichment

logger = logging.getLogger(__name__)

#: The name of a job's one paid call, in its steps.
CALL = "apollo"

SHUT = "The stored Apollo API key cannot be opened; enter it again in the settings"
AWAY = "The stored Apollo API key cannot be opened now: the key service did not answer"
SHORTEST_WAIT = timedelta(seconds=1)

Ended = Enriched | Fail | Snooze


@dataclass(frozen=True)
class Task:
    """One enrichment: which record, looked up by what, and how its answer becomes fields."""

    kind: Kind
    record_id: str
    hint: Literal["domain", "email"]
    #: Looked up instead of the record's own.
    given: str | None

    def find_term(self, record: Mapping[str, Any]) -> str | None:
        """What is looked up; None where there is nothing usable."""
        text = self.given or record[self.hint]
        return find_domain(text) if self.kind == "account" else find_email(text)

    async def look_up(
        self, client: ApolloClient, term: str, record: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Make the one paid call."""
        if self.kind == "account":
            return json_record(await client.enrich_organization(term))
        return json_record(await client.match_person(email=term, name=record["name"]))

    def read(self, answer: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The fields, and all that was said; None when no one was found."""
        if self.kind == "account":
            company = OrganizationMatch.model_validate({"organization": None, **answer})
            found = company.organization
            return (account_fields(found), json_record(found)) if found else None
        person = PersonMatch.model_validate({"person": None, **answer}).person
        return (contact_fields(person), json_record(person)) if person else None


class Processors:
    """The app's processors over one process's dependencies."""

    def __init__(self, app: Enrichment) -> None:
        self._app = app

    async def enrich_account(self, job: Job[EnrichAccount], ctx: JobContext) -> Ended:
        """Complete an account with what Apollo knows about its domain."""
        given = job.payload
        return await self._enrich(
            job, ctx, Task("account", given.account_id, "domain", given.domain)
        )

    async def enrich_contact(self, job: Job[EnrichContact], ctx: JobContext) -> Ended:
        """Complete a contact with what Apollo knows about its mail address."""
        given = job.payload
        return await self._enrich(job, ctx, Task("contact", given.contact_id, "email", given.email))

    async def _enrich(self, job: Job[Any], ctx: JobContext, task: Task) -> Ended:
        noun = task.kind
        ctx.progress(10, "starting")
        ctx.log("info", f"Starting enrichment for {noun}…", **{f"{noun}_id": task.record_id})
        loaded = await self._app.store.load(job.id, job.fence, noun, task.record_id)
        record = loaded.record
        if record is None:
            # it may be in a transaction that commits a moment later, so this is worth retrying
            raise _not_found(noun, task.record_id)

        ctx.progress(20, "settings")
        ctx.log("info", "Fetching workspace settings…")
        if loaded.sealed_key is None:
            return Fail("Apollo API key not configured for this workspace")
        try:
            with _key_service(job):
                api_key = await self._app.unseal(
                    str(job.workspace_id), loaded.sealed_key, mode=loaded.apollo_client
                )
        except SealBroken:
            return Fail(SHUT)

        if loaded.paused_seconds is not None and loaded.paused_seconds > 0:
            return _wait_for_apollo(timedelta(seconds=loaded.paused_seconds), ctx)
        ctx.progress(30, "client")
        client = self._app.apollo(api_key, mode=loaded.apollo_client)
        ctx.log("info", "Initializing Apollo client…", source=client.source)
        calls = VendorCalls(job, ctx, "Apollo")
        try:
            return await self._look_up_and_apply(job, ctx, calls, task, client, record)
        except ApolloRateLimited as error:
            if error.retry_after is not None:
                # the limit is the key's: its other jobs need not run into it one by one
                await self._app.store.pause(
                    job.id, job.fence, seconds=error.retry_after.total_seconds()
                )
            calls.end(error)
        except VendorError as error:
            calls.end(error)

    async def _look_up_and_apply(
        self,
        job: Job[Any],
        ctx: JobContext,
        calls: VendorCalls,
        task: Task,
        client: ApolloClient,
        record: Mapping[str, Any],
    ) -> Ended:
        term = task.find_term(record)
        if term is None:
            return Fail(f"The {task.kind} has no usable {task.hint} to look up")
        ctx.progress(40, "enriching")
        ctx.log("info", f"Enriching with {task.hint}…", **{task.hint: term})
        answer = await ctx.step(
            CALL,
            lambda: calls.make(lambda: self._paid(job, lambda: task.look_up(client, term, record))),
        )

        ctx.progress(70, "processing")
        ctx.log("info", "Processing enrichment data…", credits=answer["credits"])
        result = Enriched(
            outcome="no match", looked_up=term, source=answer["source"], credits=answer["credits"]
        )
        found = task.read(answer)
        if found is None:
            ctx.log("info", "no match: Apollo does not know it; nothing was changed")
            ctx.progress(100, "completed", "no match")
            return result

        fields, metadata = found
        ctx.progress(90, "updating")
        ctx.log("info", f"Updating {task.kind} record…")
        applied = await self._app.store.apply(
            job.id,
            job.fence,
            task.kind,
            task.record_id,
            fields=fields,
            metadata={"apollo_source": answer["source"], "apollo": metadata},
        )
        if applied.missing:
            raise _not_found(task.kind, task.record_id)
        ctx.log(
            "info",
            f"{task.kind.capitalize()} enrichment completed successfully",
            updated=applied.updated,
            kept=applied.kept,
        )
        ctx.progress(100, "completed")
        return result.model_copy(
            update={"outcome": "enriched", "updated": applied.updated, "kept": applied.kept}
        )

    async def _paid(
        self, job: Job[Any], call: Callable[[], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        """Call once per job, however many attempts it takes, and count its cost."""
        store = self._app.store
        already = await store.begin_call(job.id, job.fence)
        if already is not None:
            return already
        try:
            answer = await call()
        except ApolloError as error:
            if not error.charged:
                await store.abandon_call(job.id, job.fence)
            raise
        await store.finish_call(job.id, job.fence, answer)
        return answer


@contextmanager
def _key_service(job: Job[Any]) -> Iterator[None]:
    """Keep AWS's own words from the job, where members read them: they name roles and keys."""
    try:
        yield
    except Exception as error:
        # known by its name: importing botocore to ask would cost every worker that needs none
        if not type(error).__module__.startswith("botocore."):
            raise
        logger.warning(
            "the key service refused",
            extra={"event": "aws.unavailable", "job_id": job.id, "reason": str(error)[:300]},
        )
        raise ProcessorError(AWAY) from error


def _not_found(noun: str, record_id: str) -> ProcessorError:
    return ProcessorError(f"{noun.capitalize()} not found: {record_id}")


def _wait_for_apollo(wait: timedelta, ctx: JobContext) -> Snooze:
    wait = max(wait, SHORTEST_WAIT)
    at = ctx.clock.now() + wait
    again = f"Apollo has reached its rate limit; it is asked again at {clock_time(at, wait)}"
    ctx.log("warning", again, seconds=wait.total_seconds())
    ctx.progress(None, "waiting", again)
    return Snooze(after=wait)


def register(
    registry: Registry, settings: Settings, *, app: Enrichment | None = None
) -> Enrichment:
    """Add the app's processors to `registry`; returns what they hold, to be closed at the end."""
    app = app or Enrichment(settings)
    processors = Processors(app)
    backoff = Backoff(first=60, cap=3600)
    # Apollo limits calls by key, and a key is a workspace's
    registry.processor(
        "enrich_account", payload=EnrichAccount, workspace_concurrency=5, backoff=backoff
    )(processors.enrich_account)
    registry.processor(
        "enrich_contact", payload=EnrichContact, workspace_concurrency=5, backoff=backoff
    )(processors.enrich_contact)
    return app
