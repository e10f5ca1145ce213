"""Signed receipts of jobs, and the public keys that verify them: the keys are anyone's to read."""

from __future__ import annotations

import json
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from minutehand.signing.bundle import JobBundle
from minutehand.web.auth import SignedIn
from minutehand.web.services import Provided

router = APIRouter(prefix="/api", tags=["status"])
KEYS_MAX_AGE_SECONDS = 300


class SigningKeys(BaseModel):
    """Public keys (RFC 7517, RFC 8037), with nbf, exp, revoked_at and last, see the page."""

    keys: list[dict[str, Any]]


@router.get("/jobs/{job_id:uuid}/receipt", responses={200: {"model": JobBundle}})
async def get_receipt(job_id: UUID, caller: SignedIn, services: Provided) -> JSONResponse:
    """A job's signed receipt with what it vouches for; 404 while there is none."""
    return JSONResponse(await services.queue_of(caller).receipt(str(job_id)))


@router.get(
    "/receipts",
    response_class=Response,
    responses={200: {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}}},
)
async def list_receipts(
    workspace_id: UUID,
    caller: SignedIn,
    services: Provided,
    first: Annotated[int, Query(alias="from", ge=1, le=2**53)] = 1,
) -> Response:
    """A workspace's receipts in order from a number of its chain, at most 500: one a line."""
    found = await services.queue_of(caller).receipts(str(workspace_id), after=first - 1)
    lines = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in found)
    return Response(lines, media_type="application/x-ndjson")


@router.get("/keys", responses={200: {"model": SigningKeys}})
async def get_keys(services: Provided) -> JSONResponse:
    """Every public key that ever signed a receipt, newest first; needs no token."""
    return JSONResponse(
        await services.queue_of(None).signing_keys(),
        headers={"Cache-Control": f"public, max-age={KEYS_MAX_AGE_SECONDS}"},
    )
