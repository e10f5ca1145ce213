"""Rows of a project's own tables as a worker reaches them: those of the tenant of a job it holds.

Which rows those are is decided by the table's grants and policies to `job_worker`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minutehand.queue.data_api import profile_headers
from minutehand.queue.functions import WorkerFunctions

Rows = list[dict[str, Any]]


class Table:
    """One table, for one leased job; `where` names columns and what they must be, None for null.

    Each call raises LeaseLost when another attempt has taken over, and QueueError with the Data
    API's own code for what grants, policies or constraints refuse.
    """

    def __init__(
        self, functions: WorkerFunctions, name: str, *, schema: str, job_id: str, fence: int
    ) -> None:
        self._functions = functions
        self._path = f"/{name}"
        self._headers = {
            **profile_headers(schema),
            "X-Job-Id": job_id,
            "X-Job-Fence": str(fence),
            "Prefer": "return=representation",
        }

    async def select(
        self, columns: str = "*", *, order: str = "", limit: int = 1000, **where: Any
    ) -> Rows:
        """Rows, at most `limit` of them; `order` as `name.asc,id.desc`."""
        shaped = {"select": columns, "limit": str(limit)} | ({"order": order} if order else {})
        return await self._send("GET", {**shaped, **_filters(where)})

    async def insert(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Insert a row and return it; a call that may have arrived is not repeated."""
        [made] = await self._send("POST", {}, row, repeatable=False)
        return made

    async def update(self, row: Mapping[str, Any], /, **where: Any) -> Rows:
        """Change rows and return them as they are now."""
        return await self._send("PATCH", _some(where), row)

    async def delete(self, **where: Any) -> Rows:
        """Delete rows and return what they were; none when a call was repeated."""
        return await self._send("DELETE", _some(where))

    async def _send(
        self,
        method: str,
        params: Mapping[str, str],
        row: Mapping[str, Any] | None = None,
        *,
        repeatable: bool = True,
    ) -> Rows:
        return await self._functions.rows(
            method, self._path, params, row, headers=self._headers, repeatable=repeatable
        )


def _some(where: Mapping[str, Any]) -> dict[str, str]:
    if not where:
        raise ValueError("name the rows, such as id=7")
    return _filters(where)


def _filters(where: Mapping[str, Any]) -> dict[str, str]:
    return {name: "is.null" if value is None else f"eq.{value}" for name, value in where.items()}
