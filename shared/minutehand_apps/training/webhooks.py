"""The video host's webhooks: signed, in any order, harmless when repeated.

An event alone decides nothing: it makes the waiting job ask the host at once.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, ValidationError

from minutehand.config import ConfigurationError
from minutehand.web.errors import ApiError
from minutehand.web.incoming import is_signed
from minutehand.web.services import Provided
from minutehand_apps.training.services import Training


class TakenEvent(BaseModel):
    """What became of a webhook."""

    known: bool


class WebhookRoutes:
    """The routes below `/api/trainings/webhooks`."""

    def __init__(self, app: Training) -> None:
        self._app = app

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        router.add_api_route("/mux", self.take_mux, methods=["POST"])

    async def take_mux(self, request: Request, services: Provided) -> TakenEvent:
        """Take a webhook of Mux, signed by `MUX_WEBHOOK_SECRET`; harmless when repeated."""
        secret = self._app.videos.mux_webhook_secret
        if secret is None:
            raise ApiError(404, "not_found", "This deployment takes no webhooks")
        body = await request.body()
        if not is_signed(body, request.headers.get("mux-signature", ""), secret):
            raise ApiError(401, "unauthorized", "Unauthorized")
        event = read_event(body)
        if event is None:
            return TakenEvent(known=False)
        try:
            taken = await self._app.store.host_event(event)
        except ConfigurationError as error:
            raise ApiError(503, "not_configured", "This deployment lacks a sign-in") from error
        if taken["wake"]:
            await services.waker.wake()
        return TakenEvent.model_validate(taken)


class Event(BaseModel):
    """An event of an upload or a video, as far as it matters here."""

    type: str = Field(pattern=r"^video\.(upload|asset)\.")
    data: dict[str, Any]


def read_event(body: bytes) -> dict[str, Any] | None:
    """What an event says that matters here; None for other shapes and other objects."""
    try:
        told = Event.model_validate_json(body)
    except ValidationError:
        return None
    data, of_asset = told.data, told.type.startswith("video.asset.")
    found = {
        "upload": data.get("upload_id") if of_asset else data.get("id"),
        "asset": data.get("id") if of_asset else data.get("asset_id"),
    }
    return {name: value for name, value in found.items() if isinstance(value, str)}
