"""Every optimizer in a rehearsal: it holds what it states, takes no more at the peak than it says, and makes the host wait no more."""

from dataclasses import replace
from typing import Any, get_args, get_type_hints

import pytest

from pretrain.config.load import load_run
from pretrain.config.schema import OptimConfig
from pretrain.model.families.sizes import checkpoint_bytes
from pretrain.optim.matrices import cost
from pretrain.optim.registry import num_states
from pretrain.train.least_memory import least_bytes
from tests.unit.rehearse.alone import answer

NAMES = get_args(get_type_hints(OptimConfig)["name"])
RUN = [
    "parallel.device=auto", "train.precision=bf16", "train.global_batch_size=8", "parallel.tensor_model_parallel_size=1",
    "parallel.pipeline_model_parallel_size=1", "parallel.sequence_parallel=false", "optim.ademamix_alpha_warmup_steps=5",
    "optim.ademamix_beta3_warmup_steps=5",
]  # fmt: skip


def rehearsed(name: str) -> dict[str, Any]:
    return answer(f"""
import dataclasses, json
from pretrain.config.load import load_run
from pretrain.rehearse.rank import rehearse_rank
run = load_run("configs/tiny.yaml", [*{RUN!r}, "optim.name={name}"])
print(json.dumps(dataclasses.asdict(rehearse_rank(run, rank=0, num_ranks=1))))
""")


@pytest.fixture(scope="module")
def adamw() -> dict[str, Any]:
    return rehearsed("adamw")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "adamw"])
def test_an_optimizer_holds_what_it_states_and_the_host_waits_as_often_as_with_adamw(
    name: str, adamw: dict[str, Any]
) -> None:
    run, found = load_run("configs/tiny.yaml", RUN), rehearsed(name)
    other = replace(run, optim=replace(run.optim, name=name))
    expected = checkpoint_bytes(run.model, num_states=num_states(other.optim))
    own = found["after_step_bytes"] - found["model_bytes"]
    assert abs(own - expected) < 0.01 * expected, "of masters and states; padding and single numbers beside them"
    assert least_bytes(other, num_ranks=1)["optimizer"] == expected
    assert sum(wait["count"] for wait in found["step"]["waits"]) == sum(
        wait["count"] for wait in adamw["step"]["waits"]
    )
    products = cost(other, num_ranks=1).flops if name == "muon" else 0
    assert found["step"]["flops"] == adamw["step"]["flops"] + products
