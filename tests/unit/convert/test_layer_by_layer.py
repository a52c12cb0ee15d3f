"""Layer by layer is the whole model: the states at every point and the logits of each family's class, for texts beyond the windows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pretrain.convert.theirs.model import LayerByLayer, TheirModel, WholeModel
from pretrain.model.families import FAMILIES
from pretrain.model.families.family import Family
from tests.unit.convert.folders import MakeFolder
from tests.unit.convert.test_import_models import MODELS

pytest.importorskip("transformers")

BOUND = 1e-5
"""Of the largest value at a point. Both ways run the same modules on the same values."""
LENGTHS = (1, 7, 64, 100)
"""Tokens of the texts; windows are of 10."""
WITH_A_WINDOW = [name for name, options in MODELS.items() if options.get("sliding_window") is not None]


def family_in(folder: Path) -> Family:
    (architecture,) = json.loads((folder / "config.json").read_text())["architectures"]
    return next(family for family in FAMILIES if family.architecture == architecture)


def texts_for(folder: Path) -> list[np.ndarray]:
    vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
    generator = np.random.default_rng(5)
    return [generator.integers(0, vocab_size, length) for length in LENGTHS]


def states_of(model: TheirModel, texts: list[np.ndarray]) -> dict[str, list[torch.Tensor]]:
    """The states of every text at each point, and its logits: [s, h] and [s, v]."""
    found = dict(model.points(texts))
    return found | {"logits": [model.logits(number, slice(0, len(text))) for number, text in enumerate(texts)]}


def largest_difference(folder: Path, layer_by_layer: LayerByLayer) -> float:
    """The largest difference from the whole model, as a share of the largest value at its point in its text."""
    texts = texts_for(folder)
    expected, found = states_of(WholeModel(folder, family_in(folder)), texts), states_of(layer_by_layer, texts)
    assert list(found) == list(expected)
    differences = [0.0]
    for point, states in expected.items():
        for text, state, other in zip(texts, states, found[point], strict=True):
            assert other.shape == state.shape and state.shape[0] == len(text), point
            differences.append(float((other - state).abs().max() / state.abs().max()))
    return max(differences)


@pytest.mark.parametrize("name", MODELS)
def test_states_and_logits_are_those_of_the_whole_model(name: str, make_folder: MakeFolder) -> None:
    folder = make_folder(**MODELS[name])
    assert largest_difference(folder, LayerByLayer(folder, family_in(folder))) < BOUND


@pytest.mark.parametrize("name", MODELS)
def test_a_second_pass_is_as_good(name: str, make_folder: MakeFolder) -> None:
    """A certificate has two: of its texts, and of those of the logged loss."""
    folder = make_folder(**MODELS[name])
    found = LayerByLayer(folder, family_in(folder))
    assert len(states_of(found, texts_for(folder)[:1])["logits"]) == 1
    assert largest_difference(folder, found) < BOUND


@pytest.mark.parametrize("name", WITH_A_WINDOW)
def test_masks_that_do_not_reach_the_layers_are_found(
    name: str, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted fault: without a mask a layer is causal, and its window is lost."""
    real = LayerByLayer._handed

    def without_masks(self: LayerByLayer, **text: torch.Tensor) -> Any:
        return [(state, others | {"attention_mask": None}) for state, others in real(self, **text)]

    monkeypatch.setattr(LayerByLayer, "_handed", without_masks)
    folder = make_folder(**MODELS[name])
    assert largest_difference(folder, LayerByLayer(folder, family_in(folder))) > 100 * BOUND


@pytest.mark.parametrize("name", MODELS)
def test_the_weights_of_one_layer_are_in_memory_at_a_time(name: str, make_folder: MakeFolder) -> None:
    folder = make_folder(**MODELS[name])
    found = LayerByLayer(folder, family_in(folder))
    whole: Any = found._model
    there: list[set[str]] = []

    def look(*_: object) -> None:
        there.append({key.removeprefix("model.") for key, value in whole.named_parameters() if not value.is_meta})

    for layer in whole.model.layers:
        layer.register_forward_pre_hook(look)
    for _ in found.points(texts_for(folder)):
        pass
    numbers = range(len(whole.model.layers))
    assert len(there) == len(LENGTHS) * len(numbers)
    for number in numbers:
        for names in there[len(LENGTHS) * number : len(LENGTHS) * (number + 1)]:
            assert names and all(key.startswith(f"layers.{number}.") for key in names), names
