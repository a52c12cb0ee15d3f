"""The choice of an attention backend: the order of "auto", what keeps a backend from running, and what is said of it.

No GPU is there: obstacles are arithmetic on a situation, and packages are stand-ins with the arguments of the real ones.
"""

import dataclasses
import logging
import re
from typing import get_args, get_type_hints

import pytest
import torch

from fanal.errors import UserError
from fanal.kernels import choice as choice_of_kernels
from fanal.kernels import flash_packages, varlen_attention
from fanal.kernels.attention_backend import Situation
from fanal.kernels.attention_choice import BACKENDS, Choice, select_attention_backend
from fanal.kernels.flash_packages import FlashFunctions, import_functions
from pretrain.config.schema import ModelConfig
from tests.unit.kernels.flash_stand_ins import put_in_place

HOPPER = Situation(
    device_type="cuda", dtype=torch.bfloat16, head_size=128, num_heads=32, num_groups=8, capability=(9, 0)
)
ALL = ("flash4", "flash3", "flash2")


def on(situation: Situation, **changes: object) -> Situation:
    return dataclasses.replace(situation, **changes)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the flash-attn packages is installed, until a test puts some in place."""
    for name in ALL:
        put_in_place(monkeypatch, name, functions=FlashFunctions(None, None, f"No module named {name!r}"))


@pytest.mark.parametrize(
    ("installed", "changes", "chosen"),
    [
        (ALL, {}, "flash4"),
        (ALL, {"documents": True, "window": 512, "soft_cap": 50.0, "deterministic": True}, "flash4"),
        (("flash3", "flash2"), {}, "flash3"),
        (ALL, {"capability": (8, 0)}, "flash2"),
        (("flash4", "flash3"), {"capability": (8, 0)}, "sdpa"),
        (ALL, {"capability": (10, 0), "head_size": 192}, "flash2"),
        (ALL, {"capability": (12, 0), "deterministic": True}, "flash2"),
        ((), {}, "sdpa"),
        ((), {"documents": True}, "varlen"),
        ((), {"window": 512}, "varlen"),
        ((), {"documents": True, "soft_cap": 50.0}, "sdpa"),
        ((), {"documents": True, "capability": (7, 0), "dtype": torch.float32}, "sdpa"),
        ((), {"documents": True, "head_size": 100}, "sdpa"),
        (ALL, {"device_type": "cpu", "capability": None}, "sdpa"),
    ],
)
def test_auto_takes_the_first_that_can(
    installed: tuple[str, ...], changes: dict[str, object], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in_place(monkeypatch, *installed)
    assert select_attention_backend("auto", on(HOPPER, **changes)).name == chosen


def test_what_was_passed_over_is_logged_with_its_reasons_and_returned(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="fanal.kernels.attention_choice"):
        choice = select_attention_backend("auto", on(HOPPER, capability=(8, 0)))
    assert choice.name == "sdpa" and list(choice.passed_over) == list(ALL)
    assert choice.passed_over["flash4"] == (
        "the GPU has compute capability 8.0, kernels need 9.0; flash_attn.cute is not importable (No module named 'flash4')"
    )
    assert "attention backend: sdpa (requested: auto; cuda 8.0, torch.bfloat16, head size 128)" in caplog.text
    assert "attention backend flash2 was passed over: flash_attn is not importable" in caplog.text


def test_fewer_queries_are_said_and_keep_no_backend_from_running(monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = on(HOPPER, fewer_queries=True, documents=True)
    assert str(fewer) == "cuda 9.0, torch.bfloat16, head size 128, documents, fewer queries than keys"
    monkeypatch.setattr(choice_of_kernels, "triton_importable", lambda: True)
    put_in_place(monkeypatch, *ALL)
    assert all(backend.obstacles(fewer) == backend.obstacles(HOPPER) == [] for backend in BACKENDS.values())


def test_a_cpu_passes_over_nothing_and_imports_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(flash_packages.importlib, "import_module", lambda name: pytest.fail(f"imported {name}"))
    situation = on(HOPPER, device_type="cpu", capability=None)
    assert select_attention_backend("auto", situation) == Choice("sdpa", {})
    with pytest.raises(UserError, match="flash4: the device is 'cpu'"):
        select_attention_backend("flash4", situation)


@pytest.mark.parametrize(
    ("changes", "chosen"),
    [
        ({}, "sdpa"),
        ({"documents": True}, "varlen"),
        ({"soft_cap": 50.0}, "triton"),
        ({"documents": True, "head_size": 100}, "triton"),
        ({"window": 64, "dtype": torch.float32}, "triton"),
        ({"soft_cap": 50.0, "head_size": 320}, "sdpa"),
    ],
)
def test_where_triton_is_our_kernel_takes_what_torchs_fused_ones_do_not(
    changes: dict[str, object], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    situation = on(HOPPER, **changes)
    without = select_attention_backend("auto", situation)
    assert without.name != "triton" and without.passed_over.get("triton", "triton is not installed").startswith(
        "triton is"
    )
    monkeypatch.setattr(choice_of_kernels, "triton_importable", lambda: True)
    assert select_attention_backend("auto", situation).name == chosen
    with pytest.raises(UserError, match="triton: the device is 'cpu'"):
        select_attention_backend("triton", on(situation, device_type="cpu"))


def test_a_pin_that_cannot_run_is_refused_with_every_reason() -> None:
    situation = on(HOPPER, device_type="cpu", capability=None, dtype=torch.float32, head_size=320)
    with pytest.raises(
        UserError, match=r"device is 'cpu'; the dtype is torch.float32; the head size is 320.*'auto' takes"
    ):
        select_attention_backend("flash2", situation)
    with pytest.raises(UserError, match=r"flash4: .*\. flash3: .*\. flash2: flash_attn is not importable"):
        select_attention_backend("flash", HOPPER)
    with pytest.raises(UserError, match=r"varlen.*takes no cap on the scores \(50.0\)"):
        select_attention_backend("varlen", on(HOPPER, soft_cap=50.0))


def test_flash_takes_the_newest_package_and_never_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_place(monkeypatch, "flash2")
    assert select_attention_backend("flash", HOPPER).name == "flash2"
    put_in_place(monkeypatch, "flash4")
    assert select_attention_backend("flash", HOPPER).name == "flash4"


def test_an_unknown_backend_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        UserError, match="unknown attention backend 'xformers'; known: auto, flash, flash4, flash3, flash2, "
    ):
        select_attention_backend("xformers", HOPPER)


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"soft_cap": 50.0}, "softcap"),
        ({"deterministic": True}, "deterministic"),
        ({"window": 8, "soft_cap": 1.0}, "window_size, softcap"),
    ],
)
def test_a_package_too_old_for_what_is_asked_is_passed_over(
    changes: dict[str, object], missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def old(q, k, v, softmax_scale=None, causal=False):
        raise AssertionError("not called")

    put_in_place(monkeypatch, "flash2", functions=FlashFunctions(old, old))
    assert select_attention_backend("flash2", HOPPER).name == "flash2"
    choice = select_attention_backend("auto", on(HOPPER, **changes))
    assert choice.passed_over["flash2"] == f"the installed flash_attn takes no {missing}, newer ones do"


def test_a_package_that_cannot_be_imported_says_why() -> None:
    found = import_functions.__wrapped__("no_such_package_of_attention")
    assert found.dense is None and found.error == "No module named 'no_such_package_of_attention'"
    without = import_functions.__wrapped__("json")  # as flash_attn is where flash-attn 4 alone is installed
    assert without.packed is None and "has no attribute 'flash_attn_func'" in without.error


def test_a_torch_without_varlen_is_passed_over_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen_attention, "varlen_attn", None)
    choice = select_attention_backend("auto", on(HOPPER, documents=True))
    assert choice.name == "sdpa" and "has no varlen_attn" in choice.passed_over["varlen"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"documents": True}, r"\[b, 1, s, s\] in memory"),
        ({"window": 64}, "block by block in fp32; attention backend 'varlen'"),
        ({"soft_cap": 50.0}, "no fused kernel with a cap"),
        ({"dtype": torch.float32}, "keys and values are repeated"),
        ({"head_size": 320}, "keys and values are repeated"),
        ({}, None),
        ({"dtype": torch.float32, "num_groups": 32}, None),
    ],
)
def test_what_torchs_own_attention_costs_on_a_gpu_is_said(
    changes: dict[str, object], said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    select_attention_backend("sdpa", on(HOPPER, **changes))
    texts = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(texts) == (said is not None)
    if said is not None:
        assert re.search(said, texts[0])


def test_the_definition_says_that_it_is_for_tests_only(caplog: pytest.LogCaptureFixture) -> None:
    assert select_attention_backend("reference", on(HOPPER, device_type="cpu", capability=None)).name == "reference"
    assert "for tests only" in caplog.text


def test_every_name_of_the_config_is_a_backend_and_the_other_way_round() -> None:
    names = get_args(get_type_hints(ModelConfig)["attention_backend"])
    assert set(names) == {"auto", "flash", *BACKENDS}
