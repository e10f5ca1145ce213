"""Mux's signature over a webhook: only of these bytes, by this secret, in these minutes."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from minutehand.apps.training.webhooks import is_signed, read_event

NOW = 1_800_000_000
SECRET, BODY = "whsec-of-tests", b'{"id":"event-1"}'


def signature(body: bytes = BODY, *, secret: str = SECRET, at: object = NOW) -> str:
    """The hexadecimal signature of a body at an instant."""
    return hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()


def taken(header: str, body: bytes = BODY) -> bool:
    return is_signed(body, header, SECRET, clock=lambda: float(NOW))


@pytest.mark.parametrize(
    "header",
    [
        f"t={NOW},v1={signature()}",
        f" v1={signature()} , t={NOW} ",
        f"t={NOW},v1={'0' * 64},v1={signature()}",  # while Mux rotates its secret
        f"t={NOW - 299},v1={signature(at=NOW - 299)}",
    ],
)
def test_what_mux_signs_is_taken(header: str) -> None:
    """In any order, and beside a signature by another secret."""
    assert taken(header)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "t=",
        "v1",
        f"t={NOW}",
        f"t={NOW},v1=",
        f"t={NOW},v0={signature()}",
        f"t={NOW},v1={signature(BODY + b' ')}",
        f"t={NOW},v1={signature(secret='whsec-of-another')}",
        f"t={NOW},v1={signature(secret='')}",
        f"t={NOW + 1},v1={signature()}",
        f"t={NOW},t={NOW - 1},v1={signature(at=NOW - 1)}",
        f"t={NOW - 301},v1={signature(at=NOW - 301)}",
        f"t={NOW + 301},v1={signature(at=NOW + 301)}",
        f"t=-{NOW},v1={signature(at=-NOW)}",
        f"t={NOW}.0,v1={signature(at=f'{NOW}.0')}",
        f"t={'9' * 400},v1={signature(at='9' * 400)}",
        f"t={'9' * 5000},v1={signature(at='9' * 5000)}",
        f"t=\uff11{NOW},v1={signature()}",
        f"t={NOW},v1={signature().upper()}",
        f"t={NOW},v1=é{signature()}",
    ],
)
def test_anything_else_is_refused(header: str) -> None:
    """Unsigned, forged, of other bytes, of another time: refused, whatever stands in it."""
    assert not taken(header)


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
