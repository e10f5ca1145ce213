"""Files import each other in one direction only. Shared code is in a third file below both."""

from __future__ import annotations

import graphlib


def test_no_two_files_import_each_other_in_a_loop() -> None:
    """Imports inside functions count, and imports for types only."""
    import grimp  # slow, and needed here alone

    packages = ("minutehand", "supabase_local", "functions", "infra", "tests")
    graph = grimp.build_graph(*packages, cache_dir=None)
    below = {each: graph.find_modules_directly_imported_by(each) for each in graph.modules}

    assert len(below) > 300
    # raises CycleError, which names the files
    graphlib.TopologicalSorter(below).prepare()
