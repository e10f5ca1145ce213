"""A service's signature over a webhook: only of these bytes, by this secret, in these minutes."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from minutehand.web.incoming import is_signed

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
        f"t={NOW},v1={signature()},v1={'0' * 64}",
        f"t={NOW - 299},v1={signature(at=NOW - 299)}",
    ],
)
def test_what_mux_signs_is_taken(header: str) -> None:
    """In any order, and beside a signature by another secret."""
    assert taken(header)


def test_the_time_of_a_comparison_says_nothing_of_a_signature(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor which of two secrets has signed."""
    compared: list[bytes] = []
    real = hmac.compare_digest

    def compare(given: bytes, wanted: bytes) -> bool:
        compared.append(given)
        return real(given, wanted)

    monkeypatch.setattr(hmac, "compare_digest", compare)

    assert taken(f"t={NOW},v1={signature()},v1={'0' * 64}")
    assert compared == [signature().encode(), b"0" * 64]


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
