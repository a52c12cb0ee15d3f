"""The recipe of docs/objectives.md, run as it stands there, beside what a run trains on."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pretrain.config.load import load_run
from pretrain.data.read import TrainData
from pretrain.data.sources import open_sources
from tests.unit.data.objective_runs import (
    FILL_IN_THE_MIDDLE,
    GOLDFISH,
    MIDDLE,
    PREFIX,
    SPAN_CORRUPTION,
    SUFFIX,
    take,
    write_documents,
)
from tokenizer.vocabulary.load import load_tokenizer

PAGE = Path(__file__).parents[3] / "docs" / "objectives.md"


@pytest.fixture(scope="module")
def recipe() -> dict[str, Callable[..., Any]]:
    """The functions of the block that is plain Python."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (block,) = (block for block in blocks if "def goldfish" in block)
    assert "import" in block and "pretrain" not in block and "numpy" not in block
    names: dict[str, Any] = {}
    exec(block, names)
    return names


def test_the_recipe_gives_what_a_run_trains_on(
    recipe: dict[str, Any], small_run: Path, data_folder: Path, tmp_path: Path
) -> None:
    documents = write_documents(data_folder, tmp_path, longest=60)
    overrides = [*documents, FILL_IN_THE_MIDDLE, SPAN_CORRUPTION, GOLDFISH, "data.document_mask=true"]
    run = load_run(small_run, overrides)
    middle, spans, fish = run.objective.fill_in_the_middle, run.objective.span_corruption, run.objective.goldfish
    assert middle and spans and fish
    tokenizer = load_tokenizer(run.data.tokenizer)
    ids = {tokenizer.piece(token): token for token in range(tokenizer.vocab_size)}
    marks, sentinels = [ids[PREFIX], ids[SUFFIX], ids[MIDDLE]], [ids[f"<0x0{n}>"] for n in range(9)]
    special = set(tokenizer.control_ids)
    taken, changed = take(TrainData(open_sources(run), run.data), 200), 0
    for number, (read, starts) in enumerate(zip(taken.read.tolist(), taken.starts, strict=True)):
        tokens, not_counted = list(read), set()
        for begin, end, word in recipe["pieces"](read, starts, special, run.data.seed, number):
            share, text = word(0) / 2**64, read[begin:end]
            if share < middle.rate and len(text) > 3:
                tokens[begin:end] = recipe["fill_in_the_middle"](text, word, middle.spm_rate, *marks)
            elif middle.rate <= share < middle.rate + spans.rate and len(text) > 3:
                lengths = spans.noise_density, spans.mean_span_length
                inputs, targets = recipe["span_corruption"](text, word, *lengths, sentinels)
                tokens[begin:end] = inputs + targets
                not_counted |= set(range(begin, begin + len(inputs)))
        changed += tokens != read
        assert taken.tokens[number].tolist() == tokens
        counted = recipe["goldfish"](tokens, fish.k, fish.h, special | {*marks, *sentinels}, starts)
        expected = [kept and p not in not_counted for p, kept in enumerate(counted, start=1)]
        assert taken.counted[number].tolist() == expected
    assert changed > 100


def test_the_examples_of_the_page_are_what_the_recipe_gives(recipe: dict[str, Any]) -> None:
    page, tokens = " ".join(PAGE.read_text().split()), list(range(100, 112))
    counted = recipe["goldfish"](tokens, 2, 3, set())
    *most, last = [p for p in range(1, 12) if not counted[p - 1]]
    assert f"leaves out tokens {', '.join(map(str, most))} and {last}." in page
    ((_, _, word),) = recipe["pieces"](tokens, [], set(), 42, 10)
    assert f"becomes `{recipe['fill_in_the_middle'](tokens, word, 0, 1, 2, 3)}`" in page
