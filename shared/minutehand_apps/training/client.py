"""The guide's client for Python: submit a recording, get the id of its job.

The browser's twin is `console/client.js`.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from minutehand.queue.lean_httpx import httpx


class TrainingRefused(Exception):
    """The API refused; `status`, `code` and `detail` are its own."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        self.status = status
        self.code = body.get("code")
        self.detail = body.get("detail")
        super().__init__(body.get("error") or f"The API answered {status}")


class TrainingClient:
    """Calls the API as one user.

    Args:
        api: Where the HTTP API is, as https://api.example.com.
        token: The user's access token.
        transport: Replaces httpx's own.
    """

    def __init__(
        self, api: str, token: str, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._http = httpx.AsyncClient(
            base_url=api,
            headers={"Authorization": f"Bearer {token}"},
            transport=transport,
            timeout=20,
        )

    async def create_transcription_job(
        self, user_id: str | UUID, company_id: str | UUID, audio_url: str, training_id: str | UUID
    ) -> str:
        """Have a recording transcribed, and a procedure made of it; the job's id.

        Args:
            user_id: The caller.
            company_id: The workspace.
            audio_url: An upload's key or address, or an https address of an allowed host.
            training_id: Of a training to be made, or of one with the same recording: called
                again, it is the same job.

        Raises:
            TrainingRefused: By the API, see its code.
        """
        answer = await self._http.post(
            f"/api/trainings/{training_id}/transcription",
            json={
                "user_id": str(user_id),
                "company_id": str(company_id),
                "audio_url": audio_url,
            },
        )
        body: dict[str, Any] = answer.json()
        if answer.status_code not in {200, 201}:
            raise TrainingRefused(answer.status_code, body)
        job_id: str = body["job_id"]
        return job_id

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()
