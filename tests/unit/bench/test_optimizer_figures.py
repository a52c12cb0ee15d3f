"""The table of updates: nanoseconds a parameter, ratios inside a round, and bytes that an optimizer does keep."""

import pytest

from bench.compare import Timing
from bench.optimizers import NAMES, TORCH, Contender, main, ours, report
from bench.step import ours as step_ours
from bench.step.task import Shape
from pretrain.config.schema import OptimConfig
from pretrain.model.families.sizes import checkpoint_bytes
from pretrain.optim.registry import num_states, optimizer_of


def contender(title: str, size: float) -> Contender:
    return Contender(title=title, update=lambda: None, ready=lambda: None, bytes_a_parameter=size)


def test_times_are_of_a_parameter_and_their_ratios_inside_a_round() -> None:
    found = {TORCH: Timing(rounds_s=(0.001, 0.002, 0.004)), "Slow": Timing(rounds_s=(0.002, 0.002, 0.016))}
    text = report(found, [contender(TORCH, 12.0), contender("Slow", 16.0)], 1_000_000)
    assert f"| {TORCH} | 2.00 [1.00 to 4.00] | 1.00 [1.00 to 1.00] | 12.0 |" in text
    assert "| Slow | 2.00 [2.00 to 16.00] | 2.00 [1.00 to 4.00] | 16.0 |" in text


def test_every_optimizer_of_the_config_is_timed_over_what_it_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Shape(num_layers=1, hidden_size=64, ffn_hidden_size=64, vocab_size=128, seq_length=8)
    monkeypatch.setattr("bench.optimizers.Shape", lambda: small)
    with step_ours.one_rank() as world:
        for name in NAMES:
            optim = OptimConfig(lr=0.1, name=name)  # type: ignore[arg-type]
            made = ours(name, world)
            assert made.title == optimizer_of(optim).title and made.timed()[made.title] > 0
            model = step_ours.run_config(small, "fp32").model
            masters, kept = (checkpoint_bytes(model, num_states=count) for count in (1, num_states(optim)))
            assert made.bytes_a_parameter == pytest.approx(4 * kept / masters, rel=0.01)


def test_an_optimizer_that_is_not_there_is_refused_with_those_that_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "adam"]) == 2
    assert f"--only (adam) must name optimizers; --only {','.join(NAMES)} works" in capsys.readouterr().err
