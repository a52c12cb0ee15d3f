"""The contestants of ``bench.step`` train the same, one that does not is found, and what is printed follows from the rounds."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.compare import Timing
from bench.step.__main__ import contestants, main
from bench.step.kinds import profiled
from bench.step.ours import Fanal, Precision, one_rank
from bench.step.plain import Plain
from bench.step.products import Products
from bench.step.race import Turns, disagreements, take_turns, trained
from bench.step.report import report
from bench.step.task import Figures, Shape, batches
from pretrain.parallel.world import World

TINY = Shape(
    num_layers=2, hidden_size=64, num_heads=4, num_groups=2, ffn_hidden_size=96, vocab_size=256, seq_length=32, batch_size=2
)  # fmt: skip
TRAINING = ("megatron", "plain", "hf")
"""All contestants that train, but for the compiled one, which takes a minute."""


@pytest.fixture
def world() -> Iterator[World]:
    with one_rank() as world:
        yield world


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_contestant_trains_what_fanal_trains(world: World, precision: Precision) -> None:
    found = trained(contestants(TINY, precision, world, TRAINING), batches(TINY, 2))
    assert found.keys() == {"fanal", *TRAINING}
    assert disagreements(found, precision) == []


@pytest.mark.parametrize("fault", ["epsilon", "clip"])
def test_a_contestant_that_trains_something_else_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    racing = dict(contestants(TINY, "fp32", world, ["plain"]))
    plain = racing["plain"]
    assert isinstance(plain, Plain)
    if fault == "epsilon":
        plain.model.blocks[0].shape = replace(TINY, norm_epsilon=2e-5)  # type: ignore[assignment]
    else:
        monkeypatch.setattr("bench.step.plain.CLIP", 1e-2)
    wrong = disagreements(trained(racing, batches(TINY, 3)), "fp32")
    assert wrong and all(line.startswith("plain: ") for line in wrong)


def test_a_loss_that_is_no_number_is_a_disagreement() -> None:
    found = {"fanal": [Figures(7.0, 1.0)], "plain": [Figures(float("nan"), 1.0)]}
    (line,) = disagreements(found, "bf16")
    assert line.startswith("plain: loss differs by nan")


def test_the_products_are_those_of_a_step_without_attention(world: World) -> None:
    (rows,) = batches(TINY, 1)
    plain = Plain(TINY, "fp32", Fanal(TINY, "fp32", world).weights())
    counted = []
    for contestant in (plain, Products(TINY, "fp32")):
        with FlopCounterMode(display=False) as flops:
            contestant.step(rows)
        counted.append(flops.get_flop_counts()["Global"][torch.ops.aten.mm])
    assert counted[0] == counted[1] > 0


def test_each_round_begins_with_another_contestant() -> None:
    order: list[str] = []

    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        def step(self, rows: torch.Tensor) -> None:
            order.append(self.name)

    turns, loads = take_turns({name: Named(name) for name in "abc"}, batches(TINY, 2), rounds=3, steps=1)
    assert order[::2] == order[1::2] == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert len(turns["a"].cpu.rounds_s) == len(loads) == 3


def test_a_ratio_above_1_is_a_slower_contestant_and_is_held_against_its_target() -> None:
    def turn(*cpu_s: float) -> Turns:
        return Turns(wall=Timing(rounds_s=cpu_s), cpu=Timing(rounds_s=cpu_s))

    turns = {
        "fanal": turn(2.0, 4.0, 2.0),
        "megatron": turn(3.0, 4.8, 2.6),
        "plain": turn(1.8, 4.0, 1.9),
        "products": turn(1.0, 2.0, 1.0),
    }
    lines = report(turns, [1.0, 2.0, 3.0], "fp32", TINY).splitlines()
    assert lines[3].endswith("| 1.30 [1.20 to 1.50] | at least 1.25 | yes |")
    assert lines[4].endswith("| 0.95 [0.90 to 1.00] | at least 1.00 | no |")
    assert "2.00 [2.00 to 2.00] times the CPU time of its matrix products (target: at most 1.25)" in lines[-2]


def test_a_profile_sorts_the_work_of_a_step_by_kind(world: World) -> None:
    text = profiled(Fanal(TINY, "fp32", world), batches(TINY, 3))
    for kind in ("products", "attention", "swiglu", "rms norm", "rotary", "cross entropy", "adam"):
        assert f"\n  {kind} " in text, text


@pytest.mark.parametrize(
    ("argument", "said"), [("--rounds=0", "--rounds (0) must be at least 1"), ("--only=jax", "--only (jax)")]
)
def test_a_wrong_option_ends_in_one_line_and_code_2(
    argument: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument]) == 2
    assert capsys.readouterr().err.startswith(said)


def test_without_a_compiler_the_command_says_how_to_do_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert main([]) == 2
    said = capsys.readouterr().err
    assert "needs g++" in said and "--only fanal,megatron,plain,hf,products works" in said
