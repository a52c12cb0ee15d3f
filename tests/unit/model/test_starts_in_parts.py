"""Where documents begin in rows that are cut off, against what each position says by itself."""

import numpy as np
import pytest
import torch

from fanal.kernels.reference import document_ids
from pretrain.model.context_parallel import starts_until


@pytest.mark.parametrize("end", [1, 3, 8, 11, 12])
@pytest.mark.parametrize("seed", range(12))
def test_documents_in_cut_rows_are_those_of_whole_rows(end: int, seed: int) -> None:
    random, length, rows = np.random.default_rng(seed), 12, 3
    inner = random.choice(length * rows, size=random.integers(0, 20), replace=False)
    starts = torch.tensor([*sorted({*inner.tolist(), 0, length, 2 * length}), length * rows], dtype=torch.int32)
    cut = starts_until(starts, length=length, end=end)
    assert cut.dtype == torch.int32 and cut.shape == starts.shape
    assert torch.equal(cut, cut.sort().values), "ascending"
    assert int(cut[-1]) == rows * end and {row * end for row in range(rows)} <= set(cut.tolist())
    expected = document_ids(starts, rows, length)[:, :end]
    found = document_ids(cut, rows, end)
    same = expected.reshape(-1, 1) == expected.reshape(1, -1)
    assert torch.equal(found.reshape(-1, 1) == found.reshape(1, -1), same), "who shares a document with whom"


def test_rows_that_are_not_cut_keep_their_documents() -> None:
    starts = torch.tensor([0, 5, 12, 13, 24], dtype=torch.int32)
    assert torch.equal(starts_until(starts, length=12, end=12), starts)
