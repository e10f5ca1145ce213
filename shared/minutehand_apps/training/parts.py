"""Division of a file into parts, with the checksums of the parts and of the whole file."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

MIB = 1024 * 1024
#: Limits of parts. S3 accepts up to 10,000 parts of 5 MiB to 5 GiB. Fewer parts make the
#: responses shorter.
MIN_PART_BYTES = 8 * MIB
MAX_PARTS = 2_000
MAX_BYTES = 16 * 1024 * MIB


@dataclass(frozen=True)
class Part:
    """A part of an upload that has arrived."""

    number: int
    size_bytes: int
    etag: str
    #: SHA-256 of the part in base64, if the storage has stored it.
    checksum: str | None = None


@dataclass(frozen=True)
class Plan:
    """Plan for dividing a file of `size_bytes` into parts.

    All parts except the last have `part_bytes`.
    """

    size_bytes: int
    part_bytes: int

    @property
    def count(self) -> int:
        """Number of parts. S3 requires one part even for an empty file."""
        return max(1, -(-self.size_bytes // self.part_bytes))

    def part_size(self, number: int) -> int:
        """Return the bytes of the part with this number, counted from 1."""
        if number < self.count:
            return self.part_bytes
        return self.size_bytes - (self.count - 1) * self.part_bytes

    def missing(self, arrived: Iterable[Part]) -> tuple[int, ...]:
        """Return the numbers of parts that have not arrived, or not with their planned size."""
        whole = {part.number for part in arrived if part.size_bytes == self.part_size(part.number)}
        return tuple(number for number in range(1, self.count + 1) if number not in whole)


def plan(size_bytes: int) -> Plan:
    """Plan parts of a file. The number and the size of the parts are within the limits of S3."""
    if not 0 <= size_bytes <= MAX_BYTES:
        raise ValueError(f"a file must have 0 to {MAX_BYTES} bytes, but this one has {size_bytes}")
    part = max(MIN_PART_BYTES, -(-size_bytes // MAX_PARTS))
    return Plan(size_bytes, -(-part // MIB) * MIB)


class FileDigest:
    """Computes the SHA-256 of a file and of its parts' checksums, from pieces of the file.

    Args:
        part_bytes: Bytes of all parts except the last.

    References:
        https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html
    """

    def __init__(self, part_bytes: int) -> None:
        self._part_bytes = part_bytes
        self._whole = hashlib.sha256()
        self._part = hashlib.sha256()
        self._in_part = 0
        self._parts = b""

    def update(self, piece: bytes) -> None:
        """Add the next bytes of the file."""
        self._whole.update(piece)
        while piece:
            room = self._part_bytes - self._in_part
            self._part.update(piece[:room])
            self._in_part += min(room, len(piece))
            piece = piece[room:]
            if self._in_part == self._part_bytes:
                self._end_part()

    def matches(self, announced: str) -> bool:
        """Compare the file with a checksum in the form `<hex>` or `<hex>-<parts>`.

        Call this method only once, after the last byte.
        """
        if "-" not in announced:
            return announced == self._whole.hexdigest()
        if self._in_part or not self._parts:
            self._end_part()
        count = len(self._parts) // hashlib.sha256().digest_size
        return announced == f"{hashlib.sha256(self._parts).hexdigest()}-{count}"

    def _end_part(self) -> None:
        self._parts += self._part.digest()
        self._part, self._in_part = hashlib.sha256(), 0
