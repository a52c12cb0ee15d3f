"""How v3/plan/ was made, by the code of the commit that added it: ``python -m tests.golden.formats.make_plan FOLDER``, with nothing
there. Later versions must read it as it is, so it is never made again.

gpus.yaml, cores.yaml     machines that nodes were measured to be, over a data sheet and without one, as preflight and ``make gpu`` write
                          them
gpus.calibration.yaml     factors fitted to two runs, beside the machine that they are of
config.yaml, layout.yaml  a config, and the layout that ``--write`` writes for it
ladder/, runs/            the rungs of ``--ladder`` below the config, and of their runs the files that ``--fit`` reads

Rates, times and losses are made up; the files are written by the code that users call, but for the records of the runs.
"""

import datetime
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from launch.planning.calibration import CalibrationRequest
from launch.planning.ladder import make_ladder
from launch.planning.ladder_options import LadderRequest
from launch.planning.place import Place
from launch.planning.plan import make_plan, write
from pretrain.config.load import load_run, to_yaml
from pretrain.config.schema import RunConfig
from pretrain.config.steps import last_step
from pretrain.log.start_file import Code, StartFile, StartSource, write_start_file
from pretrain.plan.calibration import calibrate, write_calibration
from pretrain.plan.ladder import size_of
from pretrain.plan.law import Law
from pretrain.plan.machine import load_machine
from pretrain.plan.measured_machine import Measured, machine_of, write_machine
from pretrain.plan.run_log import LoggedRun

CONFIG = Path("configs/1b.yaml").absolute()
DATE = datetime.date(2026, 11, 30)
CORES = Measured(
    device="cpu", device_name="cpu", precision="fp32", ranks=2, threads=1, memory_gib=8, bf16_tflops=0.2, fp32_tflops=0.1,
    bf16_product_tflops=0.18, fp32_product_tflops=0.08, bf16_attention_tflops=0.04, fp32_attention_tflops=0.03, copy_gb_per_s=20,
    bf16_elementwise_gb_per_s=8, fp32_elementwise_gb_per_s=10, message_gb_per_s=1.5, latency_us=200, sum_gb_per_s=0.75,
    sum_latency_us=300, host_ms_per_layer=4,
)  # fmt: skip
GPUS = Measured(
    device="cuda", device_name="NVIDIA H100 80GB HBM3", precision="bf16", ranks=8, threads=1, memory_gib=79.1, bf16_tflops=700,
    fp32_tflops=50, bf16_product_tflops=600, fp32_product_tflops=45, bf16_attention_tflops=300, fp32_attention_tflops=20,
    copy_gb_per_s=2900, bf16_elementwise_gb_per_s=2500, fp32_elementwise_gb_per_s=2600, message_gb_per_s=300, latency_us=20,
    sum_gb_per_s=280, sum_latency_us=25, host_ms_per_layer=1,
)  # fmt: skip
LAYOUTS = {"runs/data": (), "runs/tensor": ("parallel.tensor_model_parallel_size=4", "train.micro_batch_size=8")}
LAW = Law(form="compute", least_loss=1.8, factors=(300.0,), exponents=(0.13,))


def write_machines() -> None:
    """The machines, and the factors of one."""
    write_machine(Path("cores.yaml"), machine_of(CORES, None, node="n1", date=DATE))
    write_machine(Path("gpus.yaml"), machine_of(GPUS, load_machine("h100"), node="n2", date=DATE, exchange_gb_per_s=40))
    runs = [
        LoggedRun(
            run_dir=name, run=load_run("config.yaml", layout), num_ranks=8, num_nodes=1, device_name=GPUS.device_name,
            step_s=seconds, steps=20,
        )
        for (name, layout), seconds in zip(LAYOUTS.items(), (3.0, 3.75), strict=True)
    ]  # fmt: skip
    found = calibrate(runs, load_machine("gpus.yaml"), date=DATE.isoformat())
    write_calibration(Path("gpus.calibration.yaml"), found)


def finish(rung: RunConfig, loss: float) -> None:
    """Write what ``--fit`` reads of a run that was trained to its end."""
    run_dir, last = Path(rung.run_dir), last_step(rung.optim, rung.train)
    run_dir.mkdir(parents=True)
    source = StartSource(
        prefix="data/shards/train", identity="tokens", num_tokens=9, train_tokens=9, domain="train", idx_sha256=None,
        documents_sha256=None,
    )  # fmt: skip
    write_start_file(run_dir, StartFile(
        number=1, time_unix_s=1.5e9, startup_s=1.0, step=0, consumed_samples=0, decay_start_sample=None, config=asdict(rung),
        code=Code(version="0", commit=None, modified=None), versions={}, hosts=("n1",), num_ranks=1, devices={"cpu": 1},
        device_type="cpu", user="ada", job=None, sources=(source,), validation_sources=(), origin=None, changes=(),
    ))  # fmt: skip
    records = [
        {"kind": "validation", "step": last, "validation_loss": {"validation": loss}},
        {"kind": "end", "step": last, "outcome": "finished"},
    ]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))


def main(folder: Path) -> None:
    """All of v3/plan/, and nothing else."""
    folder.mkdir(parents=True)
    os.chdir(folder)
    Path("config.yaml").write_text(to_yaml(load_run(CONFIG, ["run_dir=runs/large"])))
    write_machines()
    made = make_plan("config.yaml", (), Place(gpus=8, gpu="gpus.yaml"), top=1, rehearsals=0)
    write(Path("layout.yaml"), made)
    asked = LadderRequest(ladder=Path("ladder"), parts="1/256,1/128,1/64,1/32")
    make_ladder("config.yaml", (), Path("ladder"), asked, Place(), calibration=CalibrationRequest(), as_json=True)
    for file in sorted(Path("ladder").glob("*.yaml")):
        rung = load_run(file)
        finish(rung, round(LAW.loss(size_of(rung)), 6))


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
