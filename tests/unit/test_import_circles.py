"""Python files import each other in one direction only."""

import graphlib


def test_no_two_files_import_each_other_in_a_loop() -> None:
    """The import graph of all packages has no cycle, including imports inside functions."""
    import grimp  # slow, and needed here alone

    packages = ("minutehand", "supabase_local", "functions", "infra", "tests")
    graph = grimp.build_graph(*packages, cache_dir=None)
    below = {each: graph.find_modules_directly_imported_by(each) for each in graph.modules}

    assert len(below) > 300
    # `prepare` raises CycleError, which names the files, if there is a cycle.
    graphlib.TopologicalSorter(below).prepare()
