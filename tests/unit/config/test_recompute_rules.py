"""What is computed again, and how many logits lie in memory: what a config says, what follows, what is refused with what works."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from fanal.errors import UserError
from pretrain.config.derive import (
    loss_chunk_tokens,
    offloaded_layers,
    recomputed_layers,
    recomputed_modules,
    tokens_per_pass,
)
from pretrain.config.load import load_run
from pretrain.config.schema import TrainConfig
from pretrain.inspect.show import consequences

TINY = Path(__file__).parents[3] / "configs" / "tiny.yaml"
REFUSED = {
    "layers without whole layers": ("train.recompute_num_layers=2",),
    "layers beside parts": ("train.recompute=selective", "train.recompute_num_layers=2"),
    "inputs on the host without whole layers": ("train.offload_activations=true",),
    "inputs on the host beside parts": ("train.recompute=selective", "train.offload_activations=true"),
    "no layer": ("train.recompute=full", "train.recompute_num_layers=0"),
    "parts that are not there": ("train.recompute=selective", "train.recompute_modules=[norms]"),
    "no parts": ("train.recompute=selective", "train.recompute_modules=[]"),
    "a part twice": ("train.recompute=selective", "train.recompute_modules=[mlp,mlp]"),
    "a part of a part": ("train.recompute=selective", "train.recompute_modules=[mlp,activation,layernorm]"),
    "parts beside whole layers": ("train.recompute=full", "train.recompute_modules=[layernorm]"),
    "parts of nothing": ("train.recompute_modules=[layernorm]",),
    "a word instead of a list": ("train.recompute=selective", "train.recompute_modules=layernorm"),
    "null instead of a list": ("train.recompute_modules=null",),
    "tokens below none": ("train.loss_chunk_tokens=-1",),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_nothing_or_is_not_there_is_refused_with_what_works(case: str) -> None:
    with pytest.raises(UserError) as refused:
        load_run(TINY, REFUSED[case])
    said = str(refused.value)
    assert "\n" not in said
    found = re.search(r"(?:train\.(\w+)=)?(\[[\w, ]+\]|\w+) works", said)
    assert found, said
    named = re.search(r"train\.(\w+)", said)
    assert named, said
    key, works = found[1] or named[1], found[2]
    others = [one for one in REFUSED[case] if not one.startswith(f"train.{key}=")]
    load_run(TINY, [*others, f"train.{key}={works}"])
    if other := re.search(r"or ((?:recompute|offload)_\w+=\S+)$", said):
        load_run(TINY, [*REFUSED[case], f"train.{other[1]}"])


def test_parts_and_layers_follow_from_the_config() -> None:
    train = TrainConfig(recompute="full")
    assert [recomputed_layers(replace(train, recompute_num_layers=n), num_layers=4) for n in (None, 1, 4, 9)] == [
        4,
        1,
        4,
        4,
    ]
    assert (
        recomputed_layers(TrainConfig(), num_layers=4)
        == 0
        == recomputed_layers(TrainConfig(recompute="selective"), num_layers=4)
    )
    assert recomputed_modules(train) == set() == recomputed_modules(TrainConfig())
    assert recomputed_modules(TrainConfig(recompute="selective")) == {"core_attn"}


def test_inputs_on_the_host_are_all_but_those_that_stay_in_any_case() -> None:
    train = TrainConfig(recompute="full", offload_activations=True)

    def of(sizes: list[int], number: int | None = None) -> list[range]:
        stated = replace(train, recompute_num_layers=number)
        return [offloaded_layers(stated, chunk=chunk, sizes=sizes) for chunk in range(len(sizes))]

    assert of([4]) == [range(3)], "the last layer's backward comes at once"
    assert of([4], number=2) == [range(2)]
    assert of([4, 4, 4]) == [range(4), range(1, 4), range(1, 3)], "the schedule holds what came from another rank"
    assert of([4, 2, 4], number=3) == [range(3), range(1, 2), range(1, 3)]
    assert [len(layers) for layers in of([1, 1, 1])] == [1, 0, 0]
    assert not offloaded_layers(TrainConfig(recompute="full"), chunk=0, sizes=[4])


@pytest.mark.parametrize(
    ("stated", "tokens", "chunk"),
    [(None, 16_384, None), (None, 16_385, 4096), (0, 131_072, None), (50, 128, 50), (200, 128, 200)],
)
def test_a_chunk_of_the_loss_follows_from_the_tokens_of_a_micro_batch(
    stated: int | None, tokens: int, chunk: int | None
) -> None:
    assert loss_chunk_tokens(TrainConfig(loss_chunk_tokens=stated), tokens=tokens) == chunk


def test_show_says_what_is_computed_again_and_which_logits_lie_in_memory() -> None:
    rows = consequences(load_run(TINY))
    tokens = tokens_per_pass(load_run(TINY))
    assert rows["computed again"] == "nothing"
    assert rows["logits in memory"] == f"{tokens:,} of {tokens:,} tokens of a micro batch"
    long = ["data.seq_length=32768", "train.micro_batch_size=1"]
    assert consequences(load_run(TINY, long))["logits in memory"] == "4,096 of 32,768 tokens of a micro batch"
    assert consequences(load_run(TINY, [*long, "train.loss_chunk_tokens=0"]))["logits in memory"] == (
        "32,768 of 32,768 tokens of a micro batch"
    )
    full = load_run(TINY, ["train.recompute=full", "train.recompute_num_layers=1"])
    assert consequences(full)["computed again"] == "1 of 2 layers of a model chunk"
    assert "in the host's memory" not in consequences(full)
    host = load_run(TINY, ["train.recompute=full", "train.offload_activations=true"])
    assert consequences(host)["in the host's memory"] == (
        "inputs of 2 of 4 layers, up to 2 on a rank, each of 0.4 MiB for each micro batch under way"
    )
    parts = load_run(TINY, ["train.recompute=selective", "train.recompute_modules=[layernorm,mlp]"])
    assert consequences(parts)["computed again"] == "layernorm, mlp of every layer"
