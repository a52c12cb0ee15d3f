"""Where the samples of a step came from, against the shards' files read plainly."""

import json
from pathlib import Path

import numpy as np

from pretrain.config.load import load_run
from pretrain.data.forensics import sample_places
from pretrain.data.read import TrainData
from pretrain.data.sources import open_sources


def tokens_of(prefix: str) -> np.ndarray:
    return np.fromfile(f"{prefix}.bin", json.loads(Path(f"{prefix}.json").read_text())["dtype"])


def document_of_each_token(prefix: str) -> np.ndarray:
    """From the lengths in the index, without a search."""
    count = json.loads(Path(f"{prefix}.json").read_text())["num_documents"]
    return np.repeat(np.arange(count), np.fromfile(f"{prefix}.idx", "<i4", count=count, offset=34))


def test_each_sample_is_at_its_place_and_of_these_documents(small_run: Path) -> None:
    run = load_run(small_run)
    data = TrainData(open_sources(run), run.data)
    places = sample_places(data, first_sample=1000, num_samples=60)
    assert [place.sample for place in places] == list(range(1000, 1060))
    assert {(Path(place.source).name, place.domain) for place in places} == {
        ("train-code", "code"), ("train-prose", "prose"),
    }  # fmt: skip
    for place in places:
        held = slice(place.start_token, place.start_token + 65)
        assert np.array_equal(tokens_of(place.source)[held], data.sample(place.sample))
        documents = document_of_each_token(place.source)[held]
        assert (place.first_document, place.last_document) == (documents[0], documents[-1])
    assert any(place.first_document != place.last_document for place in places)
