"""The choice of an implementation of each operation: in the log, with the reason, and refused in words."""

import logging

import pytest
import torch

from fanal.errors import UserError
from fanal.kernels import activations, compiled, rms_norm, rotary
from pretrain.config.schema import KernelsConfig, ModelConfig
from pretrain.model.operations import Operations, choose_operations, plain_operations

CPU = torch.device("cpu")


def model(**fields: object) -> ModelConfig:
    sizes = {"num_layers": 2, "hidden_size": 32, "ffn_hidden_size": 64, "num_attention_heads": 4, "num_query_groups": 2}
    return ModelConfig(**sizes, vocab_size=100, **fields)  # type: ignore[arg-type]


def choose(kernels: KernelsConfig, *, compile: bool = False, **fields: object) -> Operations:
    return choose_operations(model(**fields), kernels, compile=compile, device=CPU, dtype=torch.float32)


def test_on_a_cpu_all_are_torch_s_and_the_log_says_why_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="pretrain.model.operations"):
        chosen = choose(KernelsConfig(), activation="geglu")
    assert chosen == plain_operations(model(activation="geglu")) and chosen.activation is activations.geglu
    assert chosen.rms_norm is rms_norm.rms_norm and chosen.rotary is rotary.rotary_qkv
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(" (")[0] for line in lines] == [
        "kernels.rms_norm: torch", "kernels.activation: torch", "kernels.rotary: torch", "kernels.cross_entropy: torch",
    ]  # fmt: skip
    assert all("the device is 'cpu'" in line for line in lines)


@pytest.mark.parametrize("operation", ["rms_norm", "activation", "rotary", "cross_entropy"])
def test_triton_asked_for_on_a_cpu_is_refused_with_what_works(operation: str) -> None:
    with pytest.raises(UserError, match="the device is 'cpu'") as refusal:
        choose(KernelsConfig(**{operation: "triton"}))
    said = str(refusal.value)
    assert said.startswith(f"kernels.{operation} ('triton') cannot run: ") and "'torch'" in said and "\n" not in said
    choose(KernelsConfig(**{operation: "torch"}))


def test_train_compile_compiles_what_holds_no_collective(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled.shutil, "which", lambda name: f"/usr/bin/{name}")
    with caplog.at_level(logging.INFO, logger="pretrain.model.operations"):
        chosen = choose(KernelsConfig(rotary="torch"), compile=True)
    assert chosen.rms_norm is not rms_norm.rms_norm and chosen.rotary is not rotary.rotary_qkv
    assert chosen.cross_entropy == plain_operations(model()).cross_entropy
    assert "kernels.rotary: compiled (train.compile; as requested)" in caplog.text
    assert "kernels.cross_entropy: torch" in caplog.text


def test_without_a_compiler_train_compile_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    with pytest.raises(
        UserError, match=r"train.compile \(true\) needs a C\+\+ compiler on a CPU, and 'g\+\+' is not there"
    ):
        choose(KernelsConfig(), compile=True)
    choose(KernelsConfig(), compile=False)
