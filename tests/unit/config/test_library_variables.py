"""What a run asks of CUDA's libraries through the environment."""

from pathlib import Path

import pytest

from pretrain.config.library_variables import library_variables
from pretrain.config.load import load_run

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ([], []),
        (["parallel.tensor_model_parallel_size=2", "parallel.data_parallel_size=4"], ["CUDA_DEVICE_MAX_CONNECTIONS"]),
        (["parallel.context_parallel_size=2", "parallel.data_parallel_size=4"], ["CUDA_DEVICE_MAX_CONNECTIONS"]),
        (["train.deterministic=true"], ["CUBLAS_WORKSPACE_CONFIG", "NCCL_ALGO"]),
    ],
)
def test_a_run_asks_for_what_it_needs_alone(overrides: list[str], names: list[str]) -> None:
    assert list(library_variables(load_run(ROOT / "configs" / "1b.yaml", overrides))) == names


def test_the_reason_names_the_parallelism_that_asks() -> None:
    for sizes, said in (
        (("tensor",), "which tensor parallelism's overlap relies on"),
        (("context",), "which context parallelism's overlap relies on"),
        (("tensor", "context"), "which tensor and context parallelism's overlap relies on"),
    ):
        keys = {"tensor": "parallel.tensor_model_parallel_size=2", "context": "parallel.context_parallel_size=2"}
        run = load_run(ROOT / "configs" / "1b.yaml", ["parallel.data_parallel_size=1", *(keys[name] for name in sizes)])
        assert library_variables(run)["CUDA_DEVICE_MAX_CONNECTIONS"][1].endswith(said)


def test_every_reason_and_value_stands_in_a_line_of_a_script() -> None:
    run = load_run(ROOT / "configs" / "tiny.yaml", ["train.deterministic=true"])
    for value, reason in library_variables(run).values():
        assert value.isprintable() and '"' not in value and reason.isprintable()
