"""The certificate of an export states the validation loss that the run logged, and catches one that is another model's."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pretrain.config.schema import RunConfig
from pretrain.convert.certificate.certify import CertificateError
from pretrain.convert.exporting.export import ExportOptions, export, summary
from tests.dist.harness import Trace, make_run, run_and_trace
from tests.unit.data.objective_runs import END_OF_DOCUMENT, GOLDFISH, MASKED_SPANS, write_documents

DATE = "2026-01-01"
ROWS = ("model.vocab_size=2300", "train.train_steps=2", "train.validation_samples=3")


def trained(small_run: Path, folder: Path, *overrides: str, fault: str | None = None) -> tuple[RunConfig, Trace]:
    run = make_run(small_run, folder, *ROWS, *overrides)
    trace = run_and_trace(run, fault)
    assert trace.exit_code == 0, trace.failure
    return run, trace


def exported(run: RunConfig, to: Path, *overrides: str, **options: Any) -> tuple[dict[str, Any], str]:
    """What the certificate says of the log, and what the command prints."""
    done = export(run.run_dir, to, ExportOptions(date=DATE, **options), overrides)
    certificate = json.loads((to / "certificate.json").read_text())
    return certificate["figures"]["validation_loss"], summary(done)


@pytest.fixture(scope="module")
def one(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Trace]:
    """A run with 300 rows that stand for no token."""
    return trained(small_run, tmp_path_factory.mktemp("logged") / "run")


@pytest.mark.parametrize("options", [{}, {"dtype": "bf16"}, {"memory": "layers"}], ids=["fp32", "bf16", "layers"])
def test_the_certificate_s_loss_is_the_log_s(
    one: tuple[RunConfig, Trace], tmp_path: Path, options: dict[str, Any]
) -> None:
    run, trace = one
    found, printed = exported(run, tmp_path / "export", **options)
    assert {domain["domain"]: domain["logged"] for domain in found["domains"]} == trace.validation[2]
    for domain in found["domains"]:
        assert domain["num_samples"] == 3 and domain["exported"] == pytest.approx(domain["logged"], abs=1e-5)
        assert f"{domain['exported']:.6f}  {domain['domain']} (the run logged {domain['logged']:.6f})" in printed
    assert not found["rows_without_a_token_took_part_in_training"]


def test_documents_that_training_kept_apart_are_kept_apart_here(small_run: Path, tmp_path: Path) -> None:
    run, _ = trained(small_run, tmp_path / "run", "data.document_mask=true")
    found, _ = exported(run, tmp_path / "export")
    for domain in found["domains"]:
        assert domain["exported"] == pytest.approx(domain["logged"], abs=1e-5)


def test_what_objectives_left_out_of_validation_is_left_out_here(
    small_run: Path, data_folder: Path, tmp_path: Path
) -> None:
    documents = write_documents(data_folder, tmp_path / "shards", longest=60, marks=True)
    run, _ = trained(small_run, tmp_path / "run", *documents, MASKED_SPANS, END_OF_DOCUMENT, GOLDFISH)
    found, _ = exported(run, tmp_path / "export")
    for domain in found["domains"]:
        assert domain["exported"] == pytest.approx(domain["logged"], abs=1e-5)
    card = (tmp_path / "export" / "README.md").read_text()
    assert "Tokens from `<0x14>` to `<0x15>` were read and not predicted." in card
    assert "Goldfish loss: one token in 4 was not predicted, chosen by the 7 tokens before it." in card


def test_rows_that_took_part_in_an_old_run_s_softmax_are_told(small_run: Path, tmp_path: Path) -> None:
    run, _ = trained(small_run, tmp_path / "run", fault="rows_without_a_token_counted")
    found, printed = exported(run, tmp_path / "export")
    assert all(domain["logged"] - domain["exported"] > 1e-3 for domain in found["domains"])
    assert found["rows_without_a_token_took_part_in_training"]
    assert "warning: the loss of this export is lower than the log's, because rows without a token took part" in printed


def test_a_log_of_another_model_is_caught_and_the_way_around_it_works(
    one: tuple[RunConfig, Trace], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(one[0].run_dir, tmp_path / "run"))
    lines = (run / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        if record["kind"] == "validation":
            record["validation_loss"]["code"] -= 0.001
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    options = ExportOptions(date=DATE)
    with pytest.raises(
        CertificateError, match=r"its validation loss of code is 7\.\d+ and the run logged 7\.\d+ at this"
    ):
        export(run, tmp_path / "export", options)
    assert not (tmp_path / "export").exists() and not (tmp_path / "export.part").exists()
    done = export(run, tmp_path / "export", options, ["data.validation=[]"])
    assert done.certificate.logged.why_not == "the run has no validation data"


def test_what_was_not_compared_says_why(one: tuple[RunConfig, Trace], tmp_path: Path) -> None:
    run = one[0]
    found, _ = exported(run, tmp_path / "export", with_shards=False, adds_bos=True)
    assert found == {"not_compared": "the run's shards were not read"}
    moved = Path(shutil.copytree(run.run_dir, tmp_path / "moved"))
    (moved / "metrics.jsonl").unlink()
    done = export(moved, tmp_path / "another", ExportOptions(date=DATE))
    assert done.certificate.logged.why_not == "the log beside the checkpoint has no validation after step 2"
