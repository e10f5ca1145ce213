"""Encryption ("sealing") of small secrets, e.g. a workspace's vendor key, for a database table.

Each secret has its own data key. KMS encrypts the data keys or, in development, the key in a local
file does. The identity of the secret's row is part of the authenticated data, so that a sealed
value cannot be decrypted if it was copied to another row.
"""

import asyncio
import base64
import contextlib
import json
import os
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minutehand.aws.clients import client
from minutehand.config import ConfigurationError, JobServiceError, Settings

#: Value of `purpose` in the encryption context of KMS. The Lambda functions may use the KMS key
#: only with this value.
PURPOSE = "vendor-key"
_VERSION = "mh1"
_NONCE_BYTES = 12
_CACHED_KEYS = 256
#: Error codes of KMS that mean that the value can never be decrypted, so that a retry is useless.
_PERMANENT_CODES = {
    "InvalidCiphertextException",
    "IncorrectKeyException",
    "NotFoundException",
    "ValidationException",
    "InvalidArnException",
}


def row_context(**row: str) -> dict[str, str]:
    """Return the encryption context for a row, e.g. `row_context(workspace_id=…)`."""
    return {"purpose": PURPOSE, **row}


class SealBroken(JobServiceError):
    """A sealed value cannot be decrypted: its row or key is wrong, or the value was changed."""


@dataclass(frozen=True)
class DataKey:
    """A new AES-256 key, in plain form and encrypted by another key."""

    key_id: str
    plain: bytes = field(repr=False)
    wrapped: bytes = field(repr=False)


class KmsDataKeys:
    """Data keys that a KMS key encrypts. `key` is the KMS key's id, ARN or alias."""

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
        """Generate a data key, encrypted by the current wrapping key."""
        response = self._kms.generate_data_key(
            KeyId=self._key, KeySpec="AES_256", EncryptionContext=dict(context)
        )
        return DataKey(response["KeyId"], response["Plaintext"], response["CiphertextBlob"])

    def unwrap(self, key_id: str, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """Decrypt a data key. Raise `SealBroken` if the key cannot be decrypted."""
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
    """Data keys for development, encrypted by the key in a local file.

    The first use creates the file.
    """

    KEY_ID = "file"

    def __init__(self, path: Path) -> None:
        self._path = path

    def generate(self, context: Mapping[str, str]) -> DataKey:
        """Generate a data key, encrypted by the key in the file."""
        plain = secrets.token_bytes(32)
        wrapped = _encrypt(self._key(), plain, _auth_data(self.KEY_ID, context))
        return DataKey(self.KEY_ID, plain, wrapped)

    def unwrap(self, key_id: str, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """Decrypt a data key. Raise `SealBroken` if the key cannot be decrypted."""
        return _decrypt(self._key(), wrapped, _auth_data(key_id, context))

    def _key(self) -> bytes:
        if not self._path.exists():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            scratch = self._path.with_name(f"{self._path.name}.{secrets.token_hex(8)}")
            handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(_b64(secrets.token_bytes(32)))
            # link the new key file, because creating the link fails if another process has created
            # the key file, whose key is then used
            with contextlib.suppress(FileExistsError):
                os.link(scratch, self._path)
            scratch.unlink()
        return base64.urlsafe_b64decode(self._path.read_text())


#: Creates and decrypts data keys. `Sealer` calls the methods in a thread.
DataKeys = KmsDataKeys | FileDataKeys


class Sealer:
    """Encrypts ("seals") each secret by AES-256-GCM with its own data key."""

    def __init__(self, keys: DataKeys) -> None:
        self._keys = keys
        self._key_cache: OrderedDict[tuple[str, bytes, bytes], bytes] = OrderedDict()

    async def seal(self, secret: str, *, context: Mapping[str, str]) -> str:
        """Encrypt a secret for the table row that `context`, made by `row_context`, identifies."""
        key = await asyncio.to_thread(self._keys.generate, context)
        parts = [
            key.key_id.encode(),
            key.wrapped,
            _encrypt(key.plain, secret.encode(), _auth_data(key.key_id, context)),
        ]
        return ".".join([_VERSION, *(_b64(part) for part in parts)])

    async def open(self, sealed: str, *, context: Mapping[str, str]) -> str:
        """Decrypt a sealed value with the `context` for which it was encrypted.

        Raises:
            SealBroken: The sealed value was encrypted for another row, was changed, or its KMS key
                was deleted.
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
    """Return the deployment's sealer, which uses the KMS key or the key file in the settings.

    Raises:
        ConfigurationError: The settings contain neither a KMS key nor a key file.
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
