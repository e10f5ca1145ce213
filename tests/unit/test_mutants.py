"""Each code edit that `make mutants` tests still applies to the code."""

from infra.mutants import mutants
from tests.support.paths import ROOT


def test_every_mutant_changes_one_place_and_names_its_tests() -> None:
    wrong = [
        mutant.what
        for mutant in mutants([])
        if (ROOT / mutant.file).read_text().count(mutant.old) != 1
        or not all((ROOT / test.split("::")[0]).exists() for test in mutant.tests)
    ]
    assert wrong == []
