"""What an export starts from: which keys may be other ones, and what a config must say."""

from pathlib import Path

import pytest

from pretrain.convert.export_source import open_source


@pytest.mark.parametrize(
    "override",
    [
        "data.seq_length=4096",
        "data.seed=7",
        "data.document_mask=true",
        "data.trains=[]",
        "data=1",
        "model.num_layers=2",
    ],
)
def test_an_override_that_would_have_the_card_say_what_was_not_trained_is_refused(
    override: str, tmp_path: Path
) -> None:
    key = override.partition("=")[0]
    with pytest.raises(
        ValueError, match=rf"override '{key}=.*; {key} stays as it was trained. data.tokenizer=DIR works"
    ):
        open_source(tmp_path, [override])


@pytest.mark.parametrize(
    "override", ["data.tokenizer=a", "data.train=[]", "data.held_out=[]", "data.phases=[]", "data.train[0].prefix=a"]
)
def test_an_override_that_says_where_the_data_lies_is_taken(override: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a checkpoint's folder or a run's folder with one in it"):
        open_source(tmp_path, [override])
