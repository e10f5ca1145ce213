"""Executions and their receipts over HTTP, and the public keys that verify them.

Public keys are anyone's to read: the holder of a receipt needs nothing else.
"""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from minutehand.web.auth import SignedIn
from minutehand.web.errors import not_found
from minutehand_apps.beacon.job_routes import (
    Cursor,
    ExecutionOfJob,
    ExecutionWithOutput,
    Limit,
    WorkspaceFilter,
    page,
    quoted,
    refuse_doubled,
)
from minutehand_apps.beacon.models import Bundle, ExecutionStatus, Receipt
from minutehand_apps.beacon.services import Beacon

KEYS_MAX_AGE_SECONDS = 300
#: Receipts that one answer lists.
MOST_LINES = 500


class ListedExecution(ExecutionOfJob):
    """An execution in a list, without its output."""

    workspace_id: UUID
    job_id: UUID
    jobspec_id: str


class ExecutionState(ListedExecution, ExecutionWithOutput):
    """An execution with what it gave."""


class ExecutionPage(BaseModel):
    """Executions, newest first."""

    executions: list[ListedExecution]
    next: str | None = Field(description="Pass as `cursor` for more; null at the end.")


class KeySet(BaseModel):
    """Public keys (RFC 7517, RFC 8037), with nbf, exp, revoked_at and last; see the README."""

    keys: list[dict[str, Any]]


class CheckMade(BaseModel):
    """One check of one receipt."""

    subject: str
    check: str
    state: Literal["passed", "failed", "not_made"]
    detail: str


class Verification(BaseModel):
    """What verifying found."""

    verdict: Literal["passed", "failed", "not_made"] = Field(
        description="not_made: nothing is wrong, but not everything could be checked."
    )
    partial: bool = Field(description="Whether it may pass without the job spec.")
    checks: list[CheckMade]


class ExecutionRoutes:
    """The routes below `/api/v1/executions`, `/api/v1/keys` and `/api/v1/receipts`."""

    def __init__(self, app: Beacon) -> None:
        self._app = app

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        add = router.add_api_route
        add("/executions", self.list_executions, methods=["GET"])
        add(
            "/executions/{id}",
            self.get_execution,
            methods=["GET"],
            response_model_exclude_unset=True,
        )
        add(
            "/executions/{id}/receipt",
            self.get_receipt,
            methods=["GET"],
            responses={200: {"model": Receipt, "description": "The receipt, as it was signed."}},
        )
        add(
            "/receipts",
            self.list_receipts,
            methods=["GET"],
            response_class=Response,
            responses={
                200: {
                    "description": "A receipt on each line, by the schema receipt or closing.",
                    "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
                }
            },
        )
        add("/keys", self.get_keys, methods=["GET"], response_model=KeySet)
        add(
            "/receipts/verify",
            self.verify_receipts,
            methods=["POST"],
            dependencies=[Depends(refuse_doubled)],
        )

    async def list_executions(
        self,
        caller: SignedIn,
        workspace_id: WorkspaceFilter = None,
        job_id: UUID | None = None,
        jobspec_id: Annotated[str | None, Query(max_length=200)] = None,
        region: Annotated[str | None, Query(max_length=63, pattern=r"^[A-Za-z0-9._-]+$")] = None,
        status: ExecutionStatus | None = None,
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> ExecutionPage:
        """Executions of a workspace, newest first."""
        filters = [
            ("job_id", f"eq.{job_id}") if job_id is not None else None,
            ("jobspec_id", f"eq.{quoted(jobspec_id)}") if jobspec_id is not None else None,
            ("region", f"eq.{quoted(region)}") if region is not None else None,
            ("status", f"eq.{status}") if status is not None else None,
        ]
        rows, more = await page(
            self._app.acting_as(caller.token),
            "beacon_execution_states",
            ListedExecution,
            filters,
            workspace_id=workspace_id,
            cursor=cursor,
            limit=limit,
        )
        return ExecutionPage(executions=rows, next=more)

    async def get_execution(self, id: UUID, caller: SignedIn) -> ExecutionState:
        """One execution with its answers."""
        rows = await self._app.acting_as(caller.token).select(
            "beacon_execution_states", ("id", f"eq.{id}")
        )
        if not rows:
            raise not_found("execution")
        return ExecutionState.model_validate(rows[0])

    async def get_receipt(self, id: UUID, caller: SignedIn) -> JSONResponse:
        """The signed receipt of an execution; 404 while there is none."""
        rows = await self._app.acting_as(caller.token).select(
            "beacon_receipts", ("select", "receipt"), ("execution_id", f"eq.{id}")
        )
        if not rows:
            raise not_found("receipt")
        return JSONResponse(rows[0]["receipt"])

    async def list_receipts(
        self,
        caller: SignedIn,
        workspace_id: WorkspaceFilter = None,
        first: Annotated[int, Query(alias="from", ge=1, description="Number in the chain.")] = 1,
        last: Annotated[int | None, Query(alias="to", ge=1, description="Included.")] = None,
        limit: Annotated[int, Query(ge=1, le=MOST_LINES)] = MOST_LINES,
    ) -> Response:
        """A workspace's chain in order, as NDJSON, at most `limit`; for `verify --chain`."""
        store = self._app.acting_as(caller.token)
        params = [
            ("select", "receipt"),
            ("workspace_id", f"eq.{await store.workspace(workspace_id)}"),
            ("number", f"gte.{first}"),
        ]
        if last is not None:
            params.append(("number", f"lte.{last}"))
        rows = await store.select(
            "beacon_receipts", *params, ("order", "number.asc"), ("limit", str(limit))
        )
        lines = "".join(json.dumps(row["receipt"], ensure_ascii=False) + "\n" for row in rows)
        return Response(lines, media_type="application/x-ndjson")

    async def get_keys(self) -> Response:
        """Every public key that ever signed, newest first; needs no token."""
        return JSONResponse(
            KeySet.model_validate(await self._app.keys()).model_dump(),
            headers={"Cache-Control": f"public, max-age={KEYS_MAX_AGE_SECONDS}"},
        )

    async def verify_receipts(
        self,
        body: Bundle,
        _: SignedIn,
        partial: Annotated[
            bool, Query(description="Pass even if the job spec is missing.")
        ] = False,
    ) -> Verification:
        """Verify a bundle by this deployment's keys; to trust no server, verify it offline."""
        # here and not at the top: a cold start does without cryptography
        from minutehand.signing.verify import read_keys
        from minutehand_apps.beacon.verify import verify

        keys = read_keys(await self._app.keys())
        # in a thread: megabytes of receipts take their time, and others are being answered
        report = await asyncio.to_thread(verify, body, keys, partial=partial)
        return Verification.model_validate(report.as_json())
