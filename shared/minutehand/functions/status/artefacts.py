"""The files that jobs made: a list of them, each one, and all in a zip.

Who may read them is the database's to decide; what they may do in a browser is web/files.py's.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response

from minutehand.queue.client import UserQueue
from minutehand.queue.models import Artefacts
from minutehand.web.auth import Credentials, require_caller
from minutehand.web.errors import not_found
from minutehand.web.files import file_answer, zip_answer
from minutehand.web.services import Provided, Services

router = APIRouter(prefix="/api/jobs/{job_id:uuid}", tags=["status"])

Key = Annotated[
    str | None,
    Query(pattern="^[0-9a-f]{64}$", description="From a file's address; it replaces a token."),
]


def _holds(media_type: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {media_type: {}}, "description": "The content."}}


@router.get("/artefacts")
async def list_artefacts(
    request: Request, job_id: UUID, services: Provided, _: Credentials, key: Key = None
) -> Artefacts:
    """The files that a job made, by name."""
    queue = await _queue_of(request, services, key)
    return Artefacts(artefacts=tuple(await queue.artefacts(str(job_id), key=key)))


@router.get("/artefacts/{name}", response_class=Response, responses=_holds("*/*"))
async def get_artefact(
    request: Request,
    job_id: UUID,
    name: Annotated[str, Path(max_length=120)],
    services: Provided,
    _: Credentials,
    key: Key = None,
) -> Response:
    """A file that a job made; a page runs without network and apart from its reader's session."""
    queue = await _queue_of(request, services, key)
    found, content = await queue.read_artefact(str(job_id), name, key=key)
    return file_answer(found.name, content, found.media_type)


@router.get("/artefacts.zip", response_class=Response, responses=_holds("application/zip"))
async def get_artefacts(
    request: Request, job_id: UUID, services: Provided, _: Credentials, key: Key = None
) -> Response:
    """All files that a job made, in a zip; the same files give the same bytes."""
    queue = await _queue_of(request, services, key)
    found = await queue.artefacts(str(job_id), key=key)
    if not found:
        raise not_found("artefact")
    files = {
        each.name: (await queue.read_artefact(str(job_id), each.name, key=key))[1] for each in found
    }
    return await asyncio.to_thread(zip_answer, f"job-{job_id}.zip", files)


async def _queue_of(request: Request, services: Services, key: str | None) -> UserQueue:
    """The queue as the holder of a key sees it, or the user of a token."""
    if key is not None:
        services.limits.count_request(key)
        return services.queue_of(None)
    return services.queue_of(await require_caller(request, None))
