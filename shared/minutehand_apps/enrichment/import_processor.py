"""Reads an uploaded CSV file into accounts, batch by batch, from wherever the last run stopped.

A batch and the mark behind it are one transaction, so a crash repeats no row and loses none.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

from minutehand.queue.errors import ProcessorError
from minutehand.worker.context import JobContext
from minutehand.worker.job import Job
from minutehand.worker.outcomes import Fail, Snooze
from minutehand_apps.enrichment.csv_rows import (
    BadRow,
    Header,
    Record,
    UnreadableFile,
    read_header,
    read_row,
    split_records,
)
from minutehand_apps.enrichment.files import ImportFiles
from minutehand_apps.enrichment.models import Import, ImportAccounts
from minutehand_apps.enrichment.store import WorkerStore

BATCH_ROWS = 500
BATCH_BYTES = 1_000_000
"""A batch ends here too, however few rows it found: blank lines also move the mark."""
BEFORE_HEADER = re.compile(rb"(\xef\xbb\xbf)?\s*(sep=.)?\s*")
"""What spreadsheets write before the names of the columns."""
SECONDS_TO_SPARE = 10.0
"""With less than this left, the rest is handed to the next tick."""


class ImportProcessor:
    """The processor of `import_accounts`."""

    def __init__(
        self, store: WorkerStore, files: ImportFiles, *, batch_rows: int = BATCH_ROWS
    ) -> None:
        self._store = store
        self._files = files
        self._batch_rows = batch_rows

    async def import_accounts(
        self, job: Job[ImportAccounts], ctx: JobContext
    ) -> dict[str, Any] | Fail | Snooze:
        """Read the file from the import's position on."""
        found = await self._store.load_import(job.id, job.fence, job.payload.import_id)
        if found is None:
            return Fail(f"Import not found: {job.payload.import_id}")
        if found.rows_read == 0:
            ctx.log("info", "Starting account import…", file_name=found.file_name)
        else:
            ctx.log("info", "Resuming account import…", rows_read=found.rows_read)
        try:
            async for batch, done in self._batches(found):
                found = await self._store_batch(job, found, batch, done)
                ctx.progress(
                    100 if done else 99 * found.bytes_read / max(1, found.total_bytes),
                    "importing",
                    f"{found.rows_read} rows read",
                )
                if not done and ctx.remaining < SECONDS_TO_SPARE:
                    return Snooze(after=1)
        except UnreadableFile as error:
            return Fail(str(error))
        ctx.log("info", "Account import completed successfully", **_summary(found))
        return {
            "import_id": str(found.id),
            **_summary(found),
            "errors_url": found.errors_url if found.rows_failed else None,
        }

    async def _batches(self, found: Import) -> AsyncIterator[tuple[dict[str, Any], bool]]:
        """Cut what is left of the file into batches; the last one says so."""
        if found.finished_at is not None:
            return
        chunks = self._files.stream(found.object_key, start=found.bytes_read)
        records = split_records(chunks, start=found.bytes_read)
        header = Header.from_wire(found.columns) if found.columns else None
        began = found.bytes_read
        batch = _empty(began)
        number = found.rows_read
        async for record in records:
            batch["bytes_read"] = record.end
            if header is None and BEFORE_HEADER.fullmatch(record.raw):
                continue
            if header is None:
                header = _header_of(record)
                batch["columns"] = header.wire()
                continue
            row = read_row(header, record)
            if row is not None:
                number += 1
                _add(batch, number, row, record)
            size = len(batch["rows"]) + len(batch["errors"])
            if size >= self._batch_rows or record.end - began >= BATCH_BYTES:
                yield batch, False
                began = record.end
                batch = _empty(began)
        if header is None:
            raise UnreadableFile("The file is empty")
        batch["done"] = True
        yield batch, True

    async def _store_batch(
        self, job: Job[ImportAccounts], found: Import, batch: dict[str, Any], done: bool
    ) -> Import:
        stored = await self._store.store_batch(
            job.id, job.fence, found.id, from_row=found.rows_read, batch=batch
        )
        expected = found.rows_read + len(batch["rows"]) + len(batch["errors"])
        # a batch whose answer was lost is not applied twice, and the position is right
        if stored is None or stored.rows_read != expected:
            raise ProcessorError(
                f"Import {found.id} was advanced by another run; reading again from its position"
            )
        if done and stored.finished_at is None:
            raise ProcessorError(f"Import {found.id} could not be finished; trying again")
        return stored


def _empty(offset: int) -> dict[str, Any]:
    return {"rows": [], "errors": [], "bytes_read": offset, "done": False}


def _add(batch: dict[str, Any], number: int, row: dict[str, Any] | BadRow, record: Record) -> None:
    if isinstance(row, BadRow):
        line = record.raw[:4000].decode("utf-8", "replace").replace("\x00", "\ufffd")[:1000]
        batch["errors"].append(
            {"row_number": number, "field": row.field, "problem": row.problem, "line": line}
        )
    else:
        batch["rows"].append({"row": number, **row})


def _header_of(record: Record) -> Header:
    if record.problem:
        raise UnreadableFile(f"The file's first line {record.problem}")
    return read_header(record.raw)


def _summary(found: Import) -> dict[str, int]:
    return found.model_dump(include={"rows_read", "rows_created", "rows_updated", "rows_failed"})
