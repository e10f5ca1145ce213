"""Receipts over HTTP: list them, hand them out as a bundle, verify one, publish the keys.

Public keys are anybody's to read: who holds a bundle needs nothing else.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from minutehand.apps.beacon.models import Bundle, BundledReceipt, StoredReceipt
from minutehand.apps.beacon.run_routes import find_run
from minutehand.apps.beacon.services import Beacon
from minutehand.apps.beacon.store import MemberStore
from minutehand.web.auth import SignedIn
from minutehand.web.errors import not_found

KEYS_MAX_AGE_SECONDS = 300
_COLUMNS = "id,workspace_id,number,run_id,region,job_id,digest,previous,kid,payload,jws,issued_at"


class ReceiptPage(BaseModel):
    """Receipts in the order of the chain."""

    receipts: list[StoredReceipt]
    next: int | None = Field(default=None, description="Pass as `after`; null at the end.")


class KeySet(BaseModel):
    """Public keys (RFC 7517, RFC 8037): nbf and, once replaced, exp in seconds since 1970."""

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
    partial: bool = Field(description="Whether it may pass though something is missing.")
    checks: list[CheckMade]


class ReceiptRoutes:
    """The routes below `/api/beacon/receipts`, `/api/beacon/keys`, and a run's receipts."""

    def __init__(self, app: Beacon) -> None:
        self._app = app

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        router.add_api_route("/runs/{run_id}/receipts", self.receipts_of_run, methods=["GET"])
        router.add_api_route(
            "/runs/{run_id}/bundle",
            self.bundle_of_run,
            methods=["GET"],
            response_model_exclude_none=True,
        )
        router.add_api_route("/receipts", self.list_receipts, methods=["GET"])
        router.add_api_route("/receipts/verify", self.verify_receipts, methods=["POST"])
        router.add_api_route("/receipts/{receipt_id}", self.get_receipt, methods=["GET"])
        router.add_api_route("/keys", self.get_keys, methods=["GET"], response_model=KeySet)

    async def receipts_of_run(self, run_id: UUID, caller: SignedIn) -> ReceiptPage:
        """A run's receipts: its regions', and at the end its own."""
        store = self._app.acting_as(caller.token)
        await find_run(store, run_id)
        rows = await _receipts(store, ("run_id", f"eq.{run_id}"))
        return ReceiptPage.model_validate({"receipts": rows})

    async def bundle_of_run(self, run_id: UUID, caller: SignedIn, samples: bool = True) -> Bundle:
        """Everything to verify a run by, apart from the keys: `minutehand beacon verify`."""
        store = self._app.acting_as(caller.token)
        run = await find_run(store, run_id)
        [spec] = await store.select("beacon_specs", ("id", f"eq.{run.spec_id}"))
        columns = "jws,samples" if samples else "jws"
        rows = await _receipts(store, ("run_id", f"eq.{run_id}"), columns=columns)
        if not rows:
            raise not_found("receipt")
        return Bundle(
            spec=spec["spec"], receipts=[BundledReceipt.model_validate(row) for row in rows]
        )

    async def list_receipts(
        self,
        workspace_id: UUID,
        caller: SignedIn,
        after: Annotated[int, Query(ge=0, description="Numbers above this one.")] = 0,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> ReceiptPage:
        """A workspace's chain, from its beginning on."""
        rows = await _receipts(
            self._app.acting_as(caller.token),
            ("workspace_id", f"eq.{workspace_id}"),
            ("number", f"gt.{after}"),
            ("limit", str(limit)),
        )
        more = rows[-1]["number"] if len(rows) == limit else None
        return ReceiptPage.model_validate({"receipts": rows, "next": more})

    async def get_receipt(self, receipt_id: UUID, caller: SignedIn) -> StoredReceipt:
        """One receipt."""
        store = self._app.acting_as(caller.token)
        rows = await _receipts(store, ("id", f"eq.{receipt_id}"))
        if not rows:
            raise not_found("receipt")
        return StoredReceipt.model_validate(rows[0])

    async def verify_receipts(
        self,
        body: Bundle,
        _: SignedIn,
        partial: Annotated[
            bool, Query(description="Pass though receipts, samples or the spec are missing.")
        ] = False,
    ) -> Verification:
        """Verify a bundle by this deployment's keys; whoever trusts no server does it offline."""
        # here and not at the top: a cold start does without cryptography
        from minutehand.apps.beacon.verify import read_keys, verify

        keys = read_keys(await self._app.keys())
        # in a thread: a whole MiB of receipts takes its time, and others are being answered
        report = await asyncio.to_thread(verify, body, keys, partial=partial)
        return Verification.model_validate(report.as_json())

    async def get_keys(self) -> Response:
        """Every public key that ever signed, newest first; needs no token."""
        return JSONResponse(
            KeySet.model_validate(await self._app.keys()).model_dump(),
            headers={"Cache-Control": f"public, max-age={KEYS_MAX_AGE_SECONDS}"},
        )


async def _receipts(
    store: MemberStore, *filters: tuple[str, str], columns: str = _COLUMNS
) -> list[dict[str, Any]]:
    return await store.select(
        "beacon_receipts", ("select", columns), *filters, ("order", "number.asc")
    )
