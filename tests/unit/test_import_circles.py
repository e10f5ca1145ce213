"""Files import each other one way only; what two of them need is in a third, below both."""

from __future__ import annotations

import graphlib

import grimp


def test_no_two_files_import_each_other_in_a_loop() -> None:
    """Imports inside functions count; those for types alone do not."""
    graph = grimp.build_graph(
        "minutehand", "functions", "infra", "tests",
        cache_dir=None, exclude_type_checking_imports=True,
    )  # fmt: skip
    below = {each: graph.find_modules_directly_imported_by(each) for each in graph.modules}

    assert len(below) > 300
    # raises CycleError, which names the files
    graphlib.TopologicalSorter(below).prepare()
