"""boto3's clients are made once, also when many threads ask at the same moment."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from minutehand.aws.clients import client
from minutehand.config import Settings


def test_threads_that_ask_first_get_the_same_client(settings: Settings) -> None:
    """Making one is not safe between threads, and a second one is a second pool of connections."""
    gate = threading.Barrier(8)

    def ask(_: int) -> Any:
        gate.wait()
        return client(settings, "kms", read_timeout=4.25)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(8)))

    assert len({id(one) for one in found}) == 1


def test_a_client_waits_as_long_as_it_should_at_the_address_that_is_set(
    settings: Settings,
) -> None:
    """A hint gives up after a second, a processor waits for a large file."""
    kms = client(settings, "kms", connect_timeout=1.5, read_timeout=7.5, attempts=2).meta
    assert (kms.config.connect_timeout, kms.config.read_timeout) == (1.5, 7.5)
    assert kms.config.retries["total_max_attempts"] == 2
    assert (kms.endpoint_url, kms.region_name) == (settings.aws_endpoint_url, "eu-central-1")

    usual = client(settings, "ssm").meta.config
    assert (usual.connect_timeout, usual.read_timeout) == (2, 5)
    assert usual.retries == {"total_max_attempts": 3, "mode": "standard"}
    assert client(settings, "lambda").meta.endpoint_url == settings.aws_endpoint_url

    hosted = settings.model_copy(update={"aws_endpoint_url": None})
    assert "eu-central-1" in client(hosted, "s3").meta.endpoint_url
    # a path is taken by any endpoint; AWS itself wants the bucket in the host's name
    for where, style in ((settings, {"addressing_style": "path"}), (hosted, {})):
        config = client(where, "s3").meta.config
        assert (config.s3, config.signature_version) == (style, "s3v4")
