"""The processors `enrich_account` and `enrich_contact`.

SQL decides which fields of a record are overwritten.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from minutehand.aws import SealBroken
from minutehand.config import Settings
from minutehand.queue import ProcessorError, decode_object
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
    ApolloError,
    ApolloRateLimited,
    OrganizationMatch,
    PersonMatch,
    json_record,
)
from minutehand_apps.enrichment.models import (
    Applied,
    EnrichAccount,
    EnrichContact,
    Enriched,
    Kind,
    Loaded,
    account_fields,
    contact_fields,
    find_domain,
    find_email,
)
from minutehand_apps.enrichment.services import ApolloClient, Enrichment

logger = logging.getLogger(__name__)

#: Name of the step with the paid call of Apollo.
CALL = "apollo"

KEY_UNREADABLE = "The stored Apollo API key cannot be unsealed. Enter it again in the settings."
KEY_SERVICE_DOWN = (
    "The stored Apollo API key cannot be unsealed now, because the key service did not respond"
)
MIN_WAIT = timedelta(seconds=1)

Ended = Enriched | Fail | Snooze


@dataclass(frozen=True)
class Task:
    """One enrichment, with its record, its search term, and the conversion of Apollo's response."""

    kind: Kind
    record_id: str
    hint: Literal["domain", "email"]
    #: Search term in the payload, which is used instead of the record's search term.
    override: str | None

    def find_term(self, record: Mapping[str, Any]) -> str | None:
        """Return the domain or address to search for, or None without a valid search term."""
        text = self.override or record[self.hint]
        return find_domain(text) if self.kind == "account" else find_email(text)

    async def look_up(
        self, client: ApolloClient, term: str, record: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Make the paid call of Apollo."""
        if self.kind == "account":
            return json_record(await client.enrich_organization(term))
        return json_record(await client.match_person(email=term, name=record["name"]))

    def read(self, answer: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Return the fields to set and Apollo's whole record, or None if there was no match."""
        if self.kind == "account":
            company = OrganizationMatch.model_validate({"organization": None, **answer})
            organization = company.organization
            return (
                (account_fields(organization), json_record(organization)) if organization else None
            )
        person = PersonMatch.model_validate({"person": None, **answer}).person
        return (contact_fields(person), json_record(person)) if person else None


class Processors:
    """The processors of the app, and the dependencies that they share."""

    def __init__(self, app: Enrichment) -> None:
        self._app = app

    async def enrich_account(self, job: Job[EnrichAccount], ctx: JobContext) -> Ended:
        """Complete an account with the data that Apollo has for its domain."""
        payload = job.payload
        return await self._enrich(
            job, ctx, Task("account", payload.account_id, "domain", payload.domain)
        )

    async def enrich_contact(self, job: Job[EnrichContact], ctx: JobContext) -> Ended:
        """Complete a contact with the data that Apollo has for its e-mail address."""
        payload = job.payload
        return await self._enrich(
            job, ctx, Task("contact", payload.contact_id, "email", payload.email)
        )

    async def _enrich(self, job: Job[Any], ctx: JobContext, task: Task) -> Ended:
        noun = task.kind
        _begin(
            ctx,
            10,
            "starting",
            f"Starting enrichment for {noun}…",
            **{f"{noun}_id": task.record_id},
        )
        loaded = Loaded.model_validate(
            await self._call("enrichment_load", job, kind=noun, id=task.record_id)
        )
        record = loaded.record
        if record is None:
            # retry the job, because the transaction that creates the record may commit later
            raise _not_found(noun, task.record_id)

        _begin(ctx, 20, "settings", "Fetching workspace settings…")
        if loaded.sealed_key is None:
            return Fail("Apollo API key not configured for this workspace")
        try:
            with _key_service(job):
                api_key = await self._app.unseal(str(job.workspace_id), loaded.sealed_key)
        except SealBroken:
            return Fail(KEY_UNREADABLE)

        if loaded.paused_seconds is not None and loaded.paused_seconds > 0:
            return _wait_for_apollo(timedelta(seconds=loaded.paused_seconds), ctx)
        client = self._app.apollo(api_key)
        _begin(ctx, 30, "client", "Initializing Apollo client…", source=client.source)
        calls = VendorCalls(job, ctx, "Apollo")
        try:
            return await self._look_up_and_apply(job, ctx, calls, task, client, record)
        except ApolloRateLimited as error:
            if error.retry_after is not None:
                # pause the other jobs with this key too, because Apollo's rate limit is per key
                await self._call("enrichment_pause", job, seconds=error.retry_after.total_seconds())
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
        _begin(ctx, 40, "enriching", f"Enriching with {task.hint}…", **{task.hint: term})
        answer = await ctx.step(
            CALL,
            lambda: calls.make(lambda: self._paid(job, lambda: task.look_up(client, term, record))),
        )

        _begin(ctx, 70, "processing", "Processing enrichment data…", credits=answer["credits"])
        result = Enriched(
            outcome="no match", looked_up=term, source=answer["source"], credits=answer["credits"]
        )
        match = task.read(answer)
        if match is None:
            ctx.log("info", "No match at Apollo. Nothing was changed.")
            ctx.progress(100, "completed", "no match")
            return result

        fields, metadata = match
        _begin(ctx, 90, "updating", f"Updating {task.kind} record…")
        applied = Applied.model_validate(
            await self._call(
                "enrichment_apply",
                job,
                kind=task.kind,
                id=task.record_id,
                fields=fields,
                metadata={"apollo_source": answer["source"], "apollo": metadata},
            )
        )
        if applied.missing:
            raise _not_found(task.kind, task.record_id)
        changes = {"updated": applied.updated, "kept": applied.kept}
        done = f"{task.kind.capitalize()} enrichment completed successfully"
        _begin(ctx, 100, "completed", done, **changes)
        return result.model_copy(update={"outcome": "enriched", **changes})

    async def _paid(
        self, job: Job[Any], call: Callable[[], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        """Make the paid call once per job, over all of its attempts, and record the call's cost."""
        earlier: dict[str, Any] | None = (await self._call("enrichment_begin_call", job))["answer"]
        if earlier is not None:
            return earlier
        try:
            answer = await call()
        except ApolloError as error:
            if not error.charged:
                await self._call("enrichment_abandon_call", job)
            raise
        await self._call("enrichment_finish_call", job, answer=answer, credits=answer["credits"])
        return answer

    async def _call(self, function: str, job: Job[Any], **values: Any) -> dict[str, Any]:
        result: dict[str, Any] = await self._app.worker.call_held(
            function, job.id, job.fence, parse=decode_object, **values
        )
        return result


@contextmanager
def _key_service(job: Job[Any]) -> Iterator[None]:
    """Log errors of AWS, and replace their texts, because error texts name roles and keys."""
    try:
        yield
    except Exception as error:
        # compare the module's name, because an import of botocore would slow down workers without
        # KMS
        if not type(error).__module__.startswith("botocore."):
            raise
        logger.warning(
            "the key service rejected the request",
            extra={"event": "aws.unavailable", "job_id": job.id, "reason": str(error)[:300]},
        )
        raise ProcessorError(KEY_SERVICE_DOWN) from error


def _begin(ctx: JobContext, percentage: float, stage: str, message: str, **data: Any) -> None:
    """Report that a stage begins, and log its message with the data."""
    ctx.progress(percentage, stage, message)
    ctx.log("info", message, **data)


def _not_found(noun: str, record_id: str) -> ProcessorError:
    return ProcessorError(f"{noun.capitalize()} not found: {record_id}")


def _wait_for_apollo(wait: timedelta, ctx: JobContext) -> Snooze:
    wait = max(wait, MIN_WAIT)
    at = ctx.clock.now() + wait
    message = f"Apollo's rate limit is reached. The next call is at {clock_time(at, wait)}."
    ctx.log("warning", message, seconds=wait.total_seconds())
    ctx.progress(None, "waiting", message)
    return Snooze(after=wait)


def register(
    registry: Registry, settings: Settings, *, app: Enrichment | None = None
) -> Enrichment:
    """Add the app's processors to the registry.

    Return the dependencies, which the caller closes.
    """
    app = app or Enrichment(settings)
    processors = Processors(app)
    backoff = Backoff(first=60, cap=3600)
    # limit the jobs per workspace, because Apollo's limits are per key and a workspace has one key
    registry.processor(
        "enrich_account", payload=EnrichAccount, workspace_concurrency=5, backoff=backoff
    )(processors.enrich_account)
    registry.processor(
        "enrich_contact", payload=EnrichContact, workspace_concurrency=5, backoff=backoff
    )(processors.enrich_contact)
    return app
