"""Sealed (encrypted) values can be opened only in their own row and with their own key."""

import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from minutehand.aws.clients import client
from minutehand.aws.sealing import (
    DataKey,
    DataKeys,
    FileDataKeys,
    KmsDataKeys,
    SealBroken,
    Sealer,
    row_context,
)
from minutehand.config import Settings

ACME = row_context(workspace_id="11111111-1111-4111-8111-111111111111")
GLOBEX = row_context(workspace_id="22222222-2222-4222-8222-222222222222")
SECRET = "apollo-key-sehr-geheim-é"


@pytest.fixture(params=["file", "kms"])
def keys(request: pytest.FixtureRequest, tmp_path: Path, settings: Settings) -> DataKeys:
    """Data keys from a local file and from KMS. Every test runs with each."""
    if request.param == "file":
        return FileDataKeys(tmp_path / "keys" / "sealing.key")
    key = client(settings, "kms").create_key()["KeyMetadata"]["Arn"]
    return KmsDataKeys(settings, key)


async def test_a_sealed_value_opens_in_its_own_row_alone(keys: DataKeys) -> None:
    """A sealed value can be opened by another process that has the wrapping key.

    If it was copied to another workspace's row, it cannot be opened. No one can therefore use
    another tenant's key.
    """
    sealed = await Sealer(keys).seal(SECRET, context=ACME)

    assert SECRET not in sealed
    assert sealed.startswith("mh1.")
    sealer = Sealer(keys)
    assert await sealer.open(sealed, context=ACME) == SECRET
    with pytest.raises(SealBroken):
        await sealer.open(sealed, context=GLOBEX)


class FailingKms:
    """A KMS that returns the same error for every call."""

    def __init__(self, code: str) -> None:
        self.code = code

    def decrypt(self, **_: object) -> None:
        raise ClientError({"Error": {"Code": self.code}}, "Decrypt")


@pytest.mark.parametrize(
    ("code", "raised"),
    [
        ("InvalidCiphertextException", SealBroken),
        ("IncorrectKeyException", SealBroken),
        ("NotFoundException", SealBroken),
        ("ValidationException", SealBroken),
        ("InvalidArnException", SealBroken),
        ("ThrottlingException", ClientError),
        ("AccessDeniedException", ClientError),
    ],
)
def test_an_outage_of_kms_is_not_taken_for_a_broken_value(
    code: str, raised: type[Exception], settings: Settings
) -> None:
    """Errors of KMS about the value raise SealBroken, because a person must enter it again.

    Other errors of KMS are passed on, so that the worker retries.
    """
    keys = KmsDataKeys(settings, "alias/any", kms=FailingKms(code))

    with pytest.raises(raised):
        keys.unwrap("a", b"x", ACME)


def test_the_key_file_is_private_and_made_once_by_the_first(tmp_path: Path) -> None:
    """Eight threads that need the key file at once create one file. Only its owner may read it."""
    path = tmp_path / "deep" / "er" / "sealing.key"
    start = threading.Barrier(8)

    def generate(_: int) -> DataKey:
        start.wait()
        return FileDataKeys(path).generate(ACME)

    with ThreadPoolExecutor(8) as threads:
        keys = list(threads.map(generate, range(8)))

    opened = [FileDataKeys(path).unwrap(key.key_id, key.wrapped, ACME) for key in keys]
    assert opened == [key.plain for key in keys]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
