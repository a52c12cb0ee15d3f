"""Keys of earlier versions are read under their current names."""

from pathlib import Path

import pytest

from fanal.errors import UserError
from pretrain.config.load import load_run
from pretrain.config.renamed import RENAMED, with_current_names

TINY = Path(__file__).parents[3] / "configs" / "tiny.yaml"


def nested(key: str, value: object) -> dict[str, object]:
    first, _, rest = key.partition(".")
    return {first: nested(rest, value) if rest else value}


@pytest.mark.parametrize("old", RENAMED)
def test_a_key_of_an_earlier_version_is_read_under_its_current_name(old: str) -> None:
    assert with_current_names(nested(old, 7), where="run.yaml") == nested(RENAMED[old], 7)


def test_a_file_and_an_override_may_use_the_earlier_names(tmp_path: Path) -> None:
    text = TINY.read_text().replace("validation_interval", "eval_interval").replace("  validation:", "  held_out:")
    assert "eval_interval" in text and "held_out:" in text
    (tmp_path / "old.yaml").write_text(text)
    old, new = load_run(tmp_path / "old.yaml", ["train.eval_samples=3"]), load_run(TINY, ["train.validation_samples=3"])
    assert old == new and old.train.validation_samples == 3


def test_a_key_under_both_names_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"run.yaml: train.eval_samples is the earlier name of train.validation_samples, and both"
    ):
        with_current_names({"train": {"eval_samples": 1, "validation_samples": 2}}, where="run.yaml")


def test_other_keys_and_values_are_left_as_they_are() -> None:
    tree = {"run_dir": "runs/held_out", "data": None, "train": {"validation_samples": 2, "seed": 1}}
    assert with_current_names(tree, where="run.yaml") == tree
