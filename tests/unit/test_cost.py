"""The cost page against what computes it: prices are in one place, and the page is its print."""

from __future__ import annotations

from pathlib import Path

from infra.bench.cost import PRICES, USAGE, idle, per_million, stream_month, tables


def test_the_page_shows_what_is_computed(repository: Path) -> None:
    """`python -m infra.bench.cost` prints the tables."""
    assert tables() in (repository / "infra/aws/COST.md").read_text("utf-8")


def test_idle_costs_less_than_ten_dollars() -> None:
    """The promise of having no server."""
    assert sum(usd for _, usd, _ in idle()) < 10


def test_realtime_is_counted_by_the_message() -> None:
    """It is more than everything else of a job alone together."""
    alone = {name: usd for name, usd, _ in per_million(alone=True)}
    batches = {name: usd for name, usd, _ in per_million(alone=False)}

    assert alone["Realtime, no one watching"] == USAGE.messages_alone * PRICES.million_messages
    assert batches["Realtime, no one watching"] < alone["Realtime, no one watching"] / 2
    assert alone["Realtime, no one watching"] > sum(alone.values()) / 2


def test_a_stream_that_does_not_wait_takes_next_to_no_slot() -> None:
    """Ten slots serve hundreds of readers, and reads beside them."""
    cheap, no_slot = stream_month(0)
    dear, whole_slot = stream_month(20)

    assert no_slot < 0.05 < 0.9 < whole_slot
    assert cheap < dear / 10
