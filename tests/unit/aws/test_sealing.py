"""Sealed values: they open in their own row, under their own key, and nowhere else."""

from __future__ import annotations

import base64
import json
import os
import stat
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from minutehand.aws.clients import client
from minutehand.aws.sealing import (
    DataKeys,
    FileDataKeys,
    KmsDataKeys,
    SealBroken,
    Sealer,
    key_id_of,
    make_sealer,
    row_context,
)
from minutehand.config import ConfigurationError, Settings

ACME = row_context(workspace_id="11111111-1111-4111-8111-111111111111")
GLOBEX = row_context(workspace_id="22222222-2222-4222-8222-222222222222")
SECRET = "apollo-key-sehr-geheim-é"


@pytest.fixture(params=["file", "kms"])
def keys(request: pytest.FixtureRequest, tmp_path: Path, settings: Settings) -> DataKeys:
    """Both sources of data keys keep the same promises."""
    if request.param == "file":
        return FileDataKeys(tmp_path / "keys" / "sealing.json")
    key = client(settings, "kms").create_key()["KeyMetadata"]["Arn"]
    return KmsDataKeys(settings, key)


async def test_a_sealed_value_opens_in_its_own_row(keys: DataKeys) -> None:
    """Also in another process, which shares nothing but the wrapping key."""
    sealed = await Sealer(keys).seal(SECRET, context=ACME)

    assert SECRET not in sealed
    assert sealed.startswith("mh1.")
    assert await Sealer(keys).open(sealed, context=ACME) == SECRET


async def test_two_sealings_of_one_secret_have_nothing_in_common(keys: DataKeys) -> None:
    """Equal keys of two workspaces must not be seen to be equal."""
    sealer = Sealer(keys)

    first, second = [await sealer.seal(SECRET, context=ACME) for _ in range(2)]

    assert first.split(".")[2:] != second.split(".")[2:]
    assert len({first, second}) == 2


async def test_what_was_opened_lately_is_opened_without_its_wrapping_key(tmp_path: Path) -> None:
    """KMS is asked once for each of the latest 256, and a process does not keep all it ever saw."""

    class Counted(FileDataKeys):
        asked = 0

        def unwrap(self, key_id: str, wrapped: bytes, context: Mapping[str, str]) -> bytes:
            Counted.asked += 1
            return super().unwrap(key_id, wrapped, context)

    sealer = Sealer(Counted(tmp_path / "sealing.json"))
    sealed = [await sealer.seal(SECRET, context=ACME) for _ in range(257)]
    for value in [*sealed, sealed[-1]]:
        await sealer.open(value, context=ACME)
    assert Counted.asked == 257

    await sealer.open(sealed[0], context=ACME)
    assert Counted.asked == 258


async def test_a_value_copied_to_another_row_stays_shut(keys: DataKeys) -> None:
    """Who can write to the table must not be able to use another tenant's key."""
    sealer = Sealer(keys)
    sealed = await sealer.seal(SECRET, context=ACME)
    await sealer.open(sealed, context=ACME)

    with pytest.raises(SealBroken):
        await sealer.open(sealed, context=GLOBEX)


def test_a_data_key_is_wrapped_for_one_row(keys: DataKeys) -> None:
    """Of 256 bits; its wrapping key is the current one."""
    made = keys.generate(ACME)

    assert (len(made.plain), keys.is_current(made.key_id)) == (32, True)
    assert keys.unwrap(made.key_id, made.wrapped, ACME) == made.plain
    with pytest.raises(SealBroken):
        keys.unwrap(made.key_id, made.wrapped, GLOBEX)


async def test_the_order_of_a_rows_names_does_not_matter(keys: DataKeys) -> None:
    """A context is a mapping; its purpose is what the functions' roles may use the key for."""
    assert row_context(a="1") == {"purpose": "vendor-key", "a": "1"}
    sealed = await Sealer(keys).seal(SECRET, context=row_context(a="1", b="2"))

    assert await Sealer(keys).open(sealed, context=dict(b="2", a="1", purpose="vendor-key"))


class RefusingKms:
    """KMS that answers every call with one error."""

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
    """A broken value is asked for again by a person, an outage by the worker."""
    keys = KmsDataKeys(settings, "alias/any", kms=RefusingKms(code))

    with pytest.raises(raised):
        keys.unwrap("a", b"x", ACME)


def test_a_key_that_is_named_itself_is_current_without_a_call(settings: Settings) -> None:
    """No alias can move it; nobody is asked."""
    arn = "arn:aws:kms:eu-central-1:123456789012:key/one"
    keys = KmsDataKeys(settings, arn, kms=RefusingKms(""))

    assert keys.is_current(arn)
    assert not keys.is_current(f"{arn}-more")


async def test_an_altered_value_stays_shut(keys: DataKeys) -> None:
    """Each byte is authenticated, and an error tells nothing of the content."""
    sealer = Sealer(keys)
    sealed = await sealer.seal(SECRET, context=ACME)
    version, key_id, wrapped, body = sealed.split(".")
    raw = bytearray(base64.urlsafe_b64decode(body))
    raw[-1] ^= 1
    other = await sealer.seal("another", context=ACME)

    for altered in (
        f"{version}.{key_id}.{wrapped}.{base64.urlsafe_b64encode(bytes(raw)).decode()}",
        f"{version}.{key_id}.{other.split('.')[2]}.{body}",
        f"{version}.{key_id}.{wrapped}.",
        f"mh2.{key_id}.{wrapped}.{body}",
        f"{version}.{key_id}.{body}",
        f"{version}.{base64.urlsafe_b64encode(bytes([255])).decode()}.{wrapped}.{body}",
        f"{version}.{key_id}.{wrapped}.{body}.{body}",
        f"{version}.a.{wrapped}.{body}",
        "plain text",
        "",
    ):
        with pytest.raises(SealBroken) as broken:
            await sealer.open(altered, context=ACME)
        assert SECRET not in str(broken.value)


async def test_rotation_of_the_file_reseals_and_old_values_still_open(tmp_path: Path) -> None:
    """Rotation is a walk over rows, and each row works at every moment of it."""
    keys = FileDataKeys(tmp_path / "sealing.json")
    sealer = Sealer(keys)
    old = await sealer.seal(SECRET, context=ACME)
    assert await sealer.reseal(old, context=ACME) is None

    current = keys.rotate()
    assert current.startswith("local-2-")
    assert stat.S_IMODE((tmp_path / "sealing.json").stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["sealing.json"]
    new = await sealer.reseal(old, context=ACME)

    assert new is not None
    assert key_id_of(new) == current != key_id_of(old)
    assert await sealer.open(new, context=ACME) == await sealer.open(old, context=ACME) == SECRET
    assert await sealer.reseal(new, context=ACME) is None


async def test_rotation_of_the_kms_key_behind_an_alias_reseals(settings: Settings) -> None:
    """An operator points the alias at a new key; values follow one by one."""
    kms = client(settings, "kms")
    first, second = (kms.create_key()["KeyMetadata"]["Arn"] for _ in range(2))
    kms.create_alias(AliasName="alias/rotating", TargetKeyId=first)
    old = await Sealer(KmsDataKeys(settings, "alias/rotating")).seal(SECRET, context=ACME)

    kms.update_alias(AliasName="alias/rotating", TargetKeyId=second)
    sealer = Sealer(KmsDataKeys(settings, "alias/rotating"))
    new = await sealer.reseal(old, context=ACME)

    assert new is not None
    assert (key_id_of(old), key_id_of(new)) == (first, second)
    assert await sealer.open(old, context=ACME) == await sealer.open(new, context=ACME) == SECRET


async def test_a_process_that_outlives_the_rotation_reseals_too(settings: Settings) -> None:
    """A warm worker must not hold yesterday's key for the present one: it would be deleted."""
    kms = client(settings, "kms")
    first, second = (kms.create_key()["KeyMetadata"]["Arn"] for _ in range(2))
    kms.create_alias(AliasName="alias/warm", TargetKeyId=first)
    sealer = Sealer(KmsDataKeys(settings, "alias/warm"))
    old = await sealer.seal(SECRET, context=ACME)
    assert await sealer.reseal(old, context=ACME) is None

    kms.update_alias(AliasName="alias/warm", TargetKeyId=second)
    new = await sealer.reseal(old, context=ACME)

    assert new is not None
    assert key_id_of(new) == second


@pytest.mark.parametrize(
    "parts", [("", "eA==", "eA=="), ("eA==", "", "eA=="), ("IA==", "eA==", "")]
)
async def test_what_kms_would_not_even_take_is_no_sealed_value(
    settings: Settings, parts: list[str]
) -> None:
    """Nonsense in the column is a person's to mend, and no outage."""
    with pytest.raises(SealBroken):
        await Sealer(KmsDataKeys(settings, "alias/any")).open(
            ".".join(["mh1", *parts]), context=ACME
        )


def test_the_key_file_is_private_and_made_once_by_the_first(tmp_path: Path) -> None:
    """API and worker start together on a fresh clone."""
    path = tmp_path / "deep" / "er" / "sealing.json"
    made: list[str] = []
    start = threading.Barrier(8)

    def make() -> None:
        start.wait()
        made.append(FileDataKeys(path).generate(ACME).key_id)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(made)) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


async def test_a_key_file_without_the_values_key_does_not_open_it(tmp_path: Path) -> None:
    """A lost file is told from a wrong row only in the log of who looks for it."""
    sealed = await Sealer(FileDataKeys(tmp_path / "a.json")).seal(SECRET, context=ACME)

    with pytest.raises(SealBroken, match="unknown"):
        await Sealer(FileDataKeys(tmp_path / "b.json")).open(sealed, context=ACME)


def test_the_deployment_names_its_key(settings: Settings, tmp_path: Path) -> None:
    """KMS where a key is named, the file in development, a clear error otherwise."""
    local = settings.model_copy(update={"sealing_key_file": str(tmp_path / "k.json")})

    assert isinstance(make_sealer(local)._keys, FileDataKeys)
    both = make_sealer(local.model_copy(update={"kms_key_id": "alias/x"}))
    assert isinstance(both._keys, KmsDataKeys)
    with pytest.raises(ConfigurationError, match=r"KMS_KEY_ID is not set.*alias/minutehand-prod"):
        make_sealer(settings)


def test_a_data_key_does_not_print_itself(tmp_path: Path) -> None:
    """It would end up in a log one day."""
    key = FileDataKeys(tmp_path / "k.json").generate(ACME)

    assert repr(key.plain) not in repr(key)
    assert json.loads((tmp_path / "k.json").read_text())["current"] == key.key_id
