"""Signing secrets of webhooks: made and sealed where one is asked for, opened where one is used.

The database keeps them sealed, so that neither a dump nor a worker's key alone gives them away.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from minutehand.aws.sealing import Sealer, make_sealer, row_context
from minutehand.config import Settings

PREFIX: Final = "whsec_"
_BYTES = 32


@dataclass(frozen=True)
class NewSecret:
    """A fresh secret: as its owner sees it once, and as the database keeps it."""

    plain: str = field(repr=False)
    sealed: str


class WebhookSecrets:
    """Makes and opens signing secrets; keep one per process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _sealer(self) -> Sealer:
        return make_sealer(self._settings)

    async def make(self, workspace_id: str) -> NewSecret:
        """A secret of 32 random bytes, sealed for this workspace alone."""
        plain = PREFIX + base64.b64encode(secrets.token_bytes(_BYTES)).decode()
        return NewSecret(plain, await self._sealer.seal(plain, context=_context(workspace_id)))

    async def open(self, workspace_id: str, sealed: Sequence[str]) -> list[str]:
        """What was sealed for the workspace, in the same order."""
        context = _context(workspace_id)
        return [await self._sealer.open(one, context=context) for one in sealed]


def _context(workspace_id: str) -> dict[str, str]:
    # not a vendor's key of the same workspace either
    return row_context(workspace_id=str(workspace_id), secret="webhook")
