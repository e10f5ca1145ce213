"""Signing secrets of webhooks, which the API creates and encrypts, and the processor decrypts.

The database stores only encrypted secrets, so that neither a dump nor a worker's key reveals a
secret.
"""

import base64
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from minutehand.aws.sealing import Sealer, make_sealer, row_context
from minutehand.config import Settings

PREFIX = "whsec_"
_BYTES = 32


@dataclass(frozen=True)
class NewSecret:
    """A new secret, in plain text for its owner, and encrypted for the database."""

    plain: str = field(repr=False)
    sealed: str


class WebhookSecrets:
    """Creates and decrypts signing secrets. A process needs only one instance of the class."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _sealer(self) -> Sealer:
        return make_sealer(self._settings)

    async def create(self, workspace_id: str) -> NewSecret:
        """Create a secret of 32 random bytes, encrypted for this workspace."""
        plain = PREFIX + base64.b64encode(secrets.token_bytes(_BYTES)).decode()
        return NewSecret(plain, await self._sealer.seal(plain, context=_context(workspace_id)))

    async def open(self, workspace_id: str, values: Sequence[str]) -> list[str]:
        """Decrypt secrets that were encrypted for the workspace.

        Return the secrets in the same order.
        """
        context = _context(workspace_id)
        return [await self._sealer.open(value, context=context) for value in values]


def _context(workspace_id: str) -> dict[str, str]:
    # add `secret` to the encryption context, so that an encrypted vendor's key of the workspace
    # cannot be used as a signing secret
    return row_context(workspace_id=workspace_id, secret="webhook")
