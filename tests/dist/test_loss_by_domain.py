"""The training loss of each domain: right in every layout, and free of collectives of its own."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.data.read import TrainData
from pretrain.data.sources import open_sources
from pretrain.parallel.local import run_local_ranks
from tests.dist.harness import Trace, assert_same_training, make_run, run_and_trace
from tests.dist.test_independent_llama import global_batch, shape_of, write_weights_and_gradients
from tests.reference.llama import ReferenceLlama
from tests.runs.cases import DP2, PP2, TP2

STEPS = 3


@pytest.fixture(scope="session")
def one_rank(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return run_and_trace(make_run(small_run, tmp_path_factory.mktemp("domains"), f"train.train_steps={STEPS}"))


def domains_of_step(data: TrainData, step: int, *, batch: int = 8) -> list[str]:
    """The domain of each sample of a step, from 1 on, by the blend alone."""
    sources, _ = data.places(np.arange((step - 1) * batch, step * batch))
    return [data.sources.train[source].domain for source in sources]


def test_the_mean_of_the_domains_weighed_by_their_tokens_is_the_loss(
    small_run: Path, tmp_path: Path, one_rank: Trace
) -> None:
    run = make_run(small_run, tmp_path)
    data = TrainData(open_sources(run), run.data)
    for step in range(1, STEPS + 1):
        names = domains_of_step(data, step)
        assert one_rank.loss_by_domain[step].keys() == set(names) == {"code", "prose"}
        weighed = sum(one_rank.loss_by_domain[step][name] for name in names) / len(names)  # all samples are as long
        assert weighed == pytest.approx(one_rank.losses[step], rel=1e-12)
    unweighed = {step: sum(losses.values()) / 2 for step, losses in one_rank.loss_by_domain.items()}
    assert unweighed != pytest.approx(one_rank.losses, rel=1e-6), "the weights must matter"


def test_each_domains_first_loss_equals_an_independent_llama_on_its_rows(
    small_run: Path, tmp_path: Path, one_rank: Trace
) -> None:
    run = make_run(small_run, tmp_path)
    code, failure = run_local_ranks(
        write_weights_and_gradients, run, num_ranks=1, device_type="cpu", log_dir=tmp_path / "logs"
    )
    assert code == 0, failure
    data = TrainData(open_sources(run), run.data)
    reference = ReferenceLlama(shape_of(run), torch.load(tmp_path / "weights.pt"))
    names = domains_of_step(data, 1)
    for domain, found in one_rank.loss_by_domain[1].items():
        rows = [row for row, name in enumerate(names) if name == domain]
        total, count = reference.loss(*(part[rows] for part in global_batch(run, data, 0)))
        assert found == pytest.approx((total / count).item(), rel=2e-6)


@pytest.mark.parametrize("layout", [(), DP2, TP2 + PP2, PP2 + DP2], ids=["one-rank", "dp2", "tp2-pp2", "pp2-dp2"])
def test_a_row_counted_for_another_domain_is_found_in_every_layout(
    layout: tuple[str, ...], small_run: Path, tmp_path: Path, one_rank: Trace
) -> None:
    run = make_run(small_run, tmp_path, f"train.train_steps={STEPS}", *layout)
    broken = run_and_trace(run, "rows_of_one_replica_named_after_another_domain")
    with pytest.raises(AssertionError, match=r"loss of (code|prose) in step \d: .* more than|domains of step \d"):
        assert_same_training(broken, one_rank)
    assert broken.losses == pytest.approx(one_rank.losses, rel=2e-6), "the loss of the whole is not touched"


def test_sources_of_one_domain_share_its_figure_and_a_domain_without_a_token_is_left_out(
    small_run: Path, data_folder: Path, tmp_path: Path, one_rank: Trace
) -> None:
    code, prose, rare = (data_folder / "shards" / name for name in ("train-code", "train-prose", "validation-code"))
    same = f"data.train=[{{prefix: {code}, weight: 2, domain: text}}, {{prefix: {prose}, weight: 1, domain: text}}]"
    together = run_and_trace(make_run(small_run, tmp_path / "same", same, f"train.train_steps={STEPS}"))
    assert {step: {"text": loss} for step, loss in together.losses.items()} == together.loss_by_domain
    assert together.losses == pytest.approx(one_rank.losses, rel=1e-12)
    seldom = (
        f"data.train=[{{prefix: {code}, weight: 2}}, {{prefix: {rare}, weight: 1e-6, domain: rare}}, "
        f"{{prefix: {prose}, weight: 1}}]"
    )
    without = run_and_trace(
        make_run(small_run, tmp_path / "rare", seldom, "data.validation=[]", f"train.train_steps={STEPS}")
    )
    assert all(losses.keys() == {"code", "prose"} for losses in without.loss_by_domain.values())


def test_three_domains_take_as_many_collectives_as_one(small_run: Path, data_folder: Path, tmp_path: Path) -> None:
    counted, losses = {}, {}
    for names in (("a", "a", "a"), ("a", "b", "c")):
        shards = ("train-code", "train-prose", "validation-prose")
        sources = [
            f"{{prefix: {data_folder / 'shards' / shard}, domain: {name}}}"
            for shard, name in zip(shards, names, strict=True)
        ]
        folder = tmp_path / "-".join(names)
        run = make_run(
            small_run, folder, f"data.train=[{', '.join(sources)}]", f"data.validation=[{{prefix: {data_folder}/shards/validation-code}}]",
            f"train.train_steps={STEPS}", *DP2, *PP2,
        )  # fmt: skip
        trace = run_and_trace(run, "collectives_counted")
        assert trace.exit_code == 0, trace.failure
        assert {domain for step in trace.loss_by_domain.values() for domain in step} == set(names)
        files = sorted(folder.glob("collectives-*.jsonl"))
        counted[names] = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
        losses[names] = trace.losses
    one, three = counted.values()
    assert one == three and len(one) == 4, "each act of each rank"
    assert losses["a", "a", "a"] == pytest.approx(losses["a", "b", "c"], rel=1e-12)
    records = [counts for act, counts in one[3] if act == "step_record"]
    assert records == [{"all_reduce": 1}] * STEPS, "the largest memory of all ranks; the losses came with the step"
    assert all(sum(counts.values()) > 4 for act, counts in one[3] if act == "train_step"), (
        "what is counted must be called"
    )
