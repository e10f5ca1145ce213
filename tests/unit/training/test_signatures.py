"""What is read of Mux's events."""

from __future__ import annotations

import pytest

from minutehand_apps.training.webhooks import read_event


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"null", b"\xff", b'"x"', b"[" * 100_000, b'{"type": 1, "data": {}}',
        b'{"id": "e", "type": "video.asset.ready", "data": []}',
        b'{"id": {"a": 1}, "type": "video.asset.ready", "data": {}}',
        b'{"id": "", "type": "video.asset.ready", "data": {}}',
        b'{"id": "e", "type": "video.live_stream.active", "data": {}}',
    ],
)  # fmt: skip
def test_events_of_another_shape_mean_nothing(body: bytes) -> None:
    """Signed or not: they name no upload and no video."""
    assert read_event(body) is None


def test_only_texts_are_read_from_an_event() -> None:
    """An id that is no text is left out."""
    body = b'{"id": "e", "type": "video.asset.ready", "data": {"id": 7, "upload_id": ["u"]}}'
    assert read_event(body) == {"event_id": "e", "type": "video.asset.ready"}
