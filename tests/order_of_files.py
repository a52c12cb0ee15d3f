"""In which order the workers of a test session get files: the longest first, so that none of them is left to one worker at the end."""

from collections import Counter
from collections.abc import Sequence
from typing import Protocol, TypeVar

LONGEST = (
    "tests/dist/test_context_parallel.py",
    "tests/dist/test_family_layouts.py",
    "tests/dist/test_layout_parity.py",
    "tests/dist/test_reshard_grid.py",
    "tests/dist/test_optimizers.py",
    "tests/dist/test_no_pickles.py",
    "tests/dist/test_resume.py",
    "tests/dist/test_document_mask.py",
    "tests/dist/test_family_exports.py",
    "tests/dist/test_reshard_shared_groups.py",
    "tests/dist/test_prove.py",
    "tests/dist/test_export.py",
    "tests/dist/test_stability.py",
    "tests/dist/test_two_nodes.py",
    "tests/torture/test_torture.py",
    "tests/dist/test_damaged_checkpoints.py",
    "tests/dist/test_generate.py",
    "tests/dist/test_decay_on_request.py",
    "tests/dist/test_young_fields.py",
    "tests/dist/test_tracing.py",
    "tests/unit/rehearse/test_golden_rehearsals.py",
    "tests/unit/tokenizer/test_engine.py",
    "tests/errors/test_output.py",
    "tests/unit/rehearse/test_rehearsed_muon.py",
    "tests/unit/rehearse/test_stand_ins.py",
    "tests/unit/bench/test_gpu_report.py",
    "tests/fuzz/test_fuzz_inputs.py",
    "tests/unit/launch/test_node_check.py",
    "tests/unit/rehearse/test_rehearsed_offload.py",
    "tests/unit/rehearse/test_rehearsed_context.py",
    "tests/unit/rehearse/test_planted_waits.py",
    "tests/unit/tokenizer/test_encode_memory.py",
)
"""Files that take long for the number of their tests, by which the others are ordered."""


class Item(Protocol):
    """A test, as pytest has it."""

    nodeid: str


AnyItem = TypeVar("AnyItem", bound=Item)


def longest_files_first(items: Sequence[AnyItem]) -> list[AnyItem]:
    """Return the tests by file: those of LONGEST in its order, then files of many tests before those of few. In a file nothing moves."""
    sizes = Counter(map(file_of, items))
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    return sorted(items, key=lambda item: (ranks.get(file_of(item), len(ranks)), -sizes[file_of(item)], file_of(item)))


def file_of(item: Item) -> str:
    """Return the path of a test's file, from the root of the source."""
    return item.nodeid.partition("::")[0]
