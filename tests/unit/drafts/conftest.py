"""The runs that drafts are made of, each once."""

from pathlib import Path

import pytest

from pretrain.drafts.facts import Facts, facts_of
from tests.unit.drafts.drafted_runs import bare_run, chain_of_runs, continued_import, labelled, run_without_a_step


@pytest.fixture(scope="session")
def drafted(small_run: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run folders by what is special about them."""
    folder = tmp_path_factory.mktemp("drafted")
    prefixes = labelled(data_folder, folder)
    return {
        "bare": bare_run(small_run, data_folder, folder / "bare"),
        "chain": chain_of_runs(small_run, folder, prefixes),
        "no step": run_without_a_step(small_run, folder / "no-step", prefixes),
        "import": continued_import(small_run, folder / "of-an-import", prefixes),
    }


@pytest.fixture(scope="session")
def chain_facts(drafted: dict[str, Path]) -> Facts:
    return facts_of(drafted["chain"], co2_g_per_kwh=50.0)


@pytest.fixture(scope="session")
def bare_facts(drafted: dict[str, Path]) -> Facts:
    return facts_of(drafted["bare"])


@pytest.fixture(scope="session")
def import_facts(drafted: dict[str, Path]) -> Facts:
    return facts_of(drafted["import"])


@pytest.fixture(scope="session")
def alone_facts(drafted: dict[str, Path]) -> Facts:
    """The last run of the chain, without the first."""
    return facts_of(drafted["chain"], chain=False)
