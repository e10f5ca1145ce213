"""Sealing of small secrets, such as a workspace's vendor key, for storage in a table.

Each value has its own data key, wrapped by KMS or, in development, by a key file. The row is part
of the authenticated data, so that a sealed value copied to another row cannot be opened.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from minutehand.aws.clients import client
from minutehand.config import ConfigurationError, JobServiceError, Settings

#: `purpose` in the encryption context, the only one for which the functions may use the key.
PURPOSE = "vendor-key"
_VERSION = "mh1"
_NONCE_BYTES = 12
_CACHED_KEYS = 256
#: Error codes of KMS for a value that can never be opened, so that a retry is useless.
_PERMANENT_CODES = {
    "InvalidCiphertextException",
    "IncorrectKeyException",
    "NotFoundException",
    "ValidationException",
    "InvalidArnException",
}


def row_context(**row: str) -> dict[str, str]:
    """Return the encryption context of a row, e.g. `row_context(workspace_id=…)`."""
    return {"purpose": PURPOSE, **row}


class SealBroken(JobServiceError):
    """A sealed value cannot be opened: wrong row, unknown key, or altered value."""


@dataclass(frozen=True)
class DataKey:
    """A new AES-256 key, in plain text and wrapped by another key."""

    key_id: str
    plain: bytes
    wrapped: bytes

    def __repr__(self) -> str:
        return f"DataKey(key_id={self.key_id!r})"


class DataKeys(Protocol):
    """Source of data keys. Calls may block, so `Sealer` runs them in a thread."""

    def generate(self, context: Mapping[str, str]) -> DataKey:
        """Generate a data key under the current wrapping key."""
        ...

    def unwrap(self, key_id: str, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """Unwrap a data key, or raise `SealBroken`."""
        ...


class KmsDataKeys:
    """Data keys wrapped by a KMS key, whose id, ARN or alias is `key`."""

    def __init__(self, settings: Settings, key: str, *, kms: Any = None) -> None:
        self._settings = settings
        self._key = key
        self._client = kms

    @property
    def _kms(self) -> Any:
        if self._client is None:
            self._client = client(self._settings, "kms")
        return self._client

    def generate(self, context: Mapping[str, str]) -> DataKey:
        """Generate a data key under the current wrapping key."""
        response = self._kms.generate_data_key(
            KeyId=self._key, KeySpec="AES_256", EncryptionContext=dict(context)
        )
        return DataKey(response["KeyId"], response["Plaintext"], response["CiphertextBlob"])

    def unwrap(self, key_id: str, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """Unwrap a data key, or raise `SealBroken`."""
        from botocore.exceptions import ClientError, ParamValidationError

        try:
            response = self._kms.decrypt(
                KeyId=key_id, CiphertextBlob=wrapped, EncryptionContext=dict(context)
            )
        except ClientError as error:
            if error.response["Error"]["Code"] in _PERMANENT_CODES:
                raise SealBroken("the data key cannot be unwrapped") from error
            raise
        except ParamValidationError as error:
            raise SealBroken("not a sealed value") from error
        plain: bytes = response["Plaintext"]
        return plain


class FileDataKeys:
    """Data keys for development, wrapped by a key in a local file that the first call creates."""

    KEY_ID = "file"

    def __init__(self, path: Path) -> None:
        self._path = path

    def generate(self, context: Mapping[str, str]) -> DataKey:
        """Generate a data key under the wrapping key."""
        plain = secrets.token_bytes(32)
        wrapped = _encrypt(self._key(), plain, _auth_data(self.KEY_ID, context))
        return DataKey(self.KEY_ID, plain, wrapped)

    def unwrap(self, key_id: str, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """Unwrap a data key, or raise `SealBroken`."""
        return _decrypt(self._key(), wrapped, _auth_data(key_id, context))

    def _key(self) -> bytes:
        if not self._path.exists():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            scratch = self._path.with_name(f"{self._path.name}.{secrets.token_hex(8)}")
            handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(_b64(secrets.token_bytes(32)))
            # if another process created the file first, the link fails, and that process's key is
            # used
            with contextlib.suppress(FileExistsError):
                os.link(scratch, self._path)
            scratch.unlink()
        return base64.urlsafe_b64decode(self._path.read_text())


class Sealer:
    """Seals each value with AES-256-GCM under its own data key."""

    def __init__(self, keys: DataKeys) -> None:
        self._keys = keys
        self._key_cache: OrderedDict[tuple[str, bytes, bytes], bytes] = OrderedDict()

    async def seal(self, secret: str, *, context: Mapping[str, str]) -> str:
        """Seal a secret for the row in `context`; see `row_context`."""
        key = await asyncio.to_thread(self._keys.generate, context)
        parts = [
            key.key_id.encode(),
            key.wrapped,
            _encrypt(key.plain, secret.encode(), _auth_data(key.key_id, context)),
        ]
        return ".".join([_VERSION, *(_b64(part) for part in parts)])

    async def open(self, sealed: str, *, context: Mapping[str, str]) -> str:
        """Open a value that was sealed for the same context.

        Raises:
            SealBroken: The value was sealed for another row or altered, or its key was deleted.
        """
        key_id, wrapped, body = _split(sealed)
        auth_data = _auth_data(key_id, context)
        cache_key = (key_id, wrapped, auth_data)
        plain = self._key_cache.get(cache_key)
        if plain is None:
            plain = await asyncio.to_thread(self._keys.unwrap, key_id, wrapped, context)
            self._key_cache[cache_key] = plain
            if len(self._key_cache) > _CACHED_KEYS:
                self._key_cache.popitem(last=False)
        return _decrypt(plain, body, auth_data).decode()


def make_sealer(settings: Settings) -> Sealer:
    """Return this deployment's sealer, with the KMS key or the local key file of the settings.

    Raises:
        ConfigurationError: Neither is set.
    """
    if settings.kms_key_id:
        return Sealer(KmsDataKeys(settings, settings.kms_key_id))
    if settings.sealing_key_file:
        return Sealer(FileDataKeys(Path(settings.sealing_key_file)))
    raise ConfigurationError("KMS_KEY_ID", "is not set", "alias/minutehand-prod")


def _split(text: str) -> tuple[str, bytes, bytes]:
    version, *parts = text.split(".")
    if version != _VERSION:
        raise SealBroken("not a sealed value")
    try:
        key_id, wrapped, body = (base64.urlsafe_b64decode(part) for part in parts)
        return key_id.decode(), wrapped, body
    except ValueError as error:
        raise SealBroken("not a sealed value") from error


def _auth_data(key_id: str, context: Mapping[str, str]) -> bytes:
    return json.dumps([_VERSION, key_id, dict(context)], sort_keys=True).encode()


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


def _encrypt(key: bytes, plain: bytes, auth_data: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, auth_data)


def _decrypt(key: bytes, ciphertext: bytes, auth_data: bytes) -> bytes:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        return AESGCM(key).decrypt(ciphertext[:_NONCE_BYTES], ciphertext[_NONCE_BYTES:], auth_data)
    except (InvalidTag, ValueError) as error:
        raise SealBroken("the value cannot be decrypted in this context") from error
