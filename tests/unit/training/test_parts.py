"""The division of an uploaded file into parts."""

import pytest

from minutehand_apps.training.parts import MAX_BYTES, MAX_PARTS, MIB, MIN_PART_BYTES, plan


@pytest.mark.parametrize(
    "size", [0, 1, MIN_PART_BYTES, MIN_PART_BYTES + 1, 10_000 * MIB, MAX_BYTES - 1, MAX_BYTES]
)
def test_any_file_is_cut_into_parts_that_s3_takes(size: int) -> None:
    """A file of any allowed size is divided into parts that S3 accepts, and their sizes add up."""
    cut = plan(size)

    assert cut.part_bytes >= MIN_PART_BYTES
    assert cut.part_bytes % MIB == 0
    assert 1 <= cut.count <= MAX_PARTS
    last = cut.part_size(cut.count)
    assert (cut.count - 1) * cut.part_bytes + last == size
    assert 0 <= last <= cut.part_bytes
    assert last > 0 or size == 0
