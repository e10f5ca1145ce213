"""CSV imports over HTTP: upload a file, follow it, and download the refused rows.

A file comes as multipart, or is put to storage by a presigned URL and then submitted.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile

from minutehand.queue.functions import CallerFunctions
from minutehand.queue.models import Job
from minutehand.web.auth import SignedIn
from minutehand.web.errors import (
    ApiError,
    FieldProblem,
    invalid_argument,
    not_found,
    validation_failed,
)
from minutehand.web.foreign import standing_on
from minutehand.web.services import Provided
from minutehand.web.uploads import Body
from minutehand_apps.enrichment.files import UPLOAD_SECONDS, object_key
from minutehand_apps.enrichment.models import Import
from minutehand_apps.enrichment.services import Enrichment

MAX_UPLOAD_BYTES = 50 * 1024 * 1024
"""Most bytes of a multipart upload; API Gateway takes 10 MB, so larger files go by address."""
MAX_FILE_BYTES = 500 * 1024 * 1024
ERROR_PAGE = 500

FileName = Annotated[str, Field(min_length=1, max_length=255)]


class AskUpload(Body):
    """A file that is about to be uploaded."""

    workspace_id: UUID
    total_bytes: Annotated[int, Field(ge=1, le=MAX_FILE_BYTES)]


class Upload(BaseModel):
    """Where to put a file, by one PUT with exactly these headers."""

    import_id: UUID
    url: str
    headers: dict[str, str]
    expires_in_seconds: int


class UploadedImport(Body):
    """A file that was uploaded by address."""

    workspace_id: UUID
    import_id: UUID
    file_name: FileName = "accounts.csv"
    enrich: bool = False


class CreatedImport(BaseModel):
    """An import and the job that reads it."""

    model_config = ConfigDict(populate_by_name=True)

    account_import: Import = Field(alias="import")
    job: Job


class ImportRoutes:
    """The routes below `/api/accounts/import` and `/api/accounts/imports`."""

    def __init__(self, app: Enrichment) -> None:
        self._app = app

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        add = router.add_api_route
        add(
            "/accounts/import",
            self.create_import,
            methods=["POST"],
            status_code=201,
            response_model=CreatedImport,
            openapi_extra={"requestBody": _REQUEST_BODY},
        )
        add("/accounts/import/upload", self.ask_upload, methods=["POST"], status_code=201)
        add("/accounts/imports/{import_id}", self.get_import, methods=["GET"])
        add(
            "/accounts/imports/{import_id}/errors.csv",
            self.get_errors,
            methods=["GET"],
            response_class=StreamingResponse,
        )

    async def ask_upload(self, body: AskUpload, caller: SignedIn) -> Upload:
        """Sign a URL for a file too large for one request."""
        # a stranger gets 404 here already, before anything is signed
        await self._app.acting_as(caller.token).call(
            "get_workspace_settings", workspace_id=body.workspace_id
        )
        import_id = uuid4()
        key = object_key(body.workspace_id, import_id)
        with standing_on("the uploads bucket"):
            url = self._app.files.presign(key, length=body.total_bytes)
        return Upload(
            import_id=import_id,
            url=url,
            headers={"Content-Type": "text/csv"},
            expires_in_seconds=UPLOAD_SECONDS,
        )

    async def create_import(
        self, request: Request, caller: SignedIn, services: Provided
    ) -> dict[str, Any]:
        """Import accounts from a CSV file: multipart with `file`, or JSON for an uploaded one."""
        functions = self._app.acting_as(caller.token)
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if "workspace_id" in request.query_params:
            problem = "must be in the form or the JSON body, not in the query string"
            raise validation_failed(
                [FieldProblem(field="workspace_id", problem=problem, location="query")]
            )
        if not _TAKEN.fullmatch(content_type):
            raise _not_taken(content_type)
        if content_type == "multipart/form-data":
            uploaded, length = await self._receive(request, functions)
        else:
            uploaded = _validated(await request.body())
            await functions.call("get_workspace_settings", workspace_id=uploaded.workspace_id)
            length = await self._measure(uploaded)
        answer = await functions.call(
            "create_account_import",
            workspace_id=uploaded.workspace_id,
            repeatable=False,
            **{
                "import": {
                    "id": uploaded.import_id,
                    "object_key": object_key(uploaded.workspace_id, uploaded.import_id),
                    "file_name": uploaded.file_name,
                    "total_bytes": length,
                    "enrich": uploaded.enrich,
                }
            },
        )
        if answer["wake"]:
            await services.waker.wake()
        return {"import": answer["import"], "job": answer["job"]}

    async def get_import(self, import_id: UUID, caller: SignedIn) -> Import:
        """Return the progress of an import."""
        return await _find(self._app.acting_as(caller.token), import_id)

    async def get_errors(self, import_id: UUID, caller: SignedIn) -> StreamingResponse:
        """Download the rows that were refused, as CSV: row, field, problem, line."""
        functions = self._app.acting_as(caller.token)
        await _find(functions, import_id)
        return StreamingResponse(
            _error_lines(functions, import_id),
            media_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="import-errors.csv"'},
        )

    async def _receive(
        self, request: Request, functions: CallerFunctions
    ) -> tuple[UploadedImport, int]:
        """Take a multipart upload: parsed to disk as it arrives, then streamed to storage."""
        async with request.form(max_files=1, max_fields=5) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise validation_failed(
                    [FieldProblem(field="file", problem="should be a CSV file")]
                )
            fields = {
                "workspace_id": form.get("workspace_id"),
                "import_id": str(uuid4()),
                "file_name": (file.filename or "accounts.csv")[-255:],
                "enrich": form.get("enrich") or False,
            }
            uploaded = _validated(fields)
            await functions.call("get_workspace_settings", workspace_id=uploaded.workspace_id)
            with standing_on("the uploads bucket"):
                await self._app.files.put(
                    object_key(uploaded.workspace_id, uploaded.import_id), file.file
                )
            return uploaded, file.size or 0

    async def _measure(self, uploaded: UploadedImport) -> int:
        with standing_on("the uploads bucket"):
            length = await self._app.files.find_size(
                object_key(uploaded.workspace_id, uploaded.import_id)
            )
        if length is None:
            raise invalid_argument("import_id", "names no uploaded file; put the file first")
        return length


#: What this route takes; an empty body may call itself anything that clients send unasked.
_TAKEN = re.compile(
    r"(multipart/form-data|application/([a-z0-9.!#$&^_-]+\+)?json"
    r"|application/x-www-form-urlencoded|text/plain)?"
)


def _not_taken(content_type: str) -> ApiError:
    """415: a bare CSV file, above all."""
    return ApiError(
        415,
        "unsupported_media_type",
        "This route takes multipart/form-data with a CSV file as `file` and a `workspace_id`, or"
        f" application/json for an uploaded file; this is a body of type {content_type}",
        detail={"field": "content-type"},
    )


def _validated(data: bytes | dict[str, Any]) -> UploadedImport:
    try:
        if isinstance(data, bytes):
            return UploadedImport.model_validate_json(data or b"{}")
        return UploadedImport(**data)
    except ValidationError as error:  # refused as on the other routes
        problems = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
        raise RequestValidationError(problems) from error


async def _find(functions: CallerFunctions, import_id: UUID) -> Import:
    rows = await functions.select("account_imports", ("id", f"eq.{import_id}"), ("select", "*"))
    if not rows:
        raise not_found("import")
    return Import.model_validate(rows[0])


async def _error_lines(functions: CallerFunctions, import_id: UUID) -> AsyncIterator[str]:
    yield _csv_line(["row", "field", "problem", "line"])
    last = 0
    while True:
        rows = await functions.select(
            "account_import_errors",
            ("import_id", f"eq.{import_id}"),
            ("row_number", f"gt.{last}"),
            ("order", "row_number"),
            ("limit", str(ERROR_PAGE)),
            ("select", "row_number,field,problem,line"),
        )
        for row in rows:
            last = row["row_number"]
            yield _csv_line([last, row["field"] or "", row["problem"], row["line"]])
        if len(rows) < ERROR_PAGE:
            return


def _csv_line(cells: list[Any]) -> str:
    file = io.StringIO(newline="")
    csv.writer(file, quoting=csv.QUOTE_ALL).writerow([_inert(cell) for cell in cells])
    return file.getvalue()


#: Where a spreadsheet begins a cell, with any of the usual separators.
_FORMULA = re.compile(r"(^|[,;|\t\r\n])(\s*)(?=[=+\-@])")


def _inert(cell: Any) -> Any:
    """A cell that a spreadsheet would take for a formula, or cut into one, made plain text."""
    if not isinstance(cell, str):
        return cell
    plain = _FORMULA.sub(r"\1\2'", cell)
    return f"'{plain}" if plain[:1] in ("\t", "\r") else plain


_REQUEST_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["workspace_id", "file"],
                "properties": {
                    "workspace_id": {"type": "string", "format": "uuid"},
                    "enrich": {"type": "boolean", "default": False},
                    "file": {"type": "string", "format": "binary"},
                },
            }
        },
        "application/json": {"schema": UploadedImport.model_json_schema()},
    },
}
