"""Read what a run wrote to W&B and MLflow, with their own libraries; prints one JSON object.

An offline run of W&B is a log of records (the format of LevelDB's logs: blocks of 32 KiB, each record cut at their ends) that its
own protobuf classes read; the package has no reader of it in Python.
"""

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER, START = 32768, 7, 7


def frames(content: bytes) -> Iterator[bytes]:
    """The records of a log; one that a kill tore at its end is left out."""
    place, parts = START, b""
    while place + HEADER <= len(content):
        if (left := BLOCK - place % BLOCK) < HEADER:
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", content[place : place + HEADER])
        piece = content[place + HEADER : place + HEADER + size]
        if kind == 0 or len(piece) < size:
            return
        place += HEADER + size
        parts = piece if kind in (1, 2) else parts + piece  # full, first; middle, last
        if kind in (1, 4):
            yield parts


def wandb_run(path: Path) -> dict[str, Any]:
    """History by step, configuration and exit code of one offline run."""
    from wandb.proto import wandb_internal_pb2

    found: dict[str, Any] = {"file": str(path), "history": {}, "config": {}, "id": None, "exit_code": None}
    for frame in frames(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(frame)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found["id"] = record.run.run_id
            found["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "config":
            found["config"] |= {
                item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.config.update
            }
        elif kind == "exit":
            found["exit_code"] = record.exit.exit_code
        elif kind == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            step = record.history.step.num
            assert step not in found["history"], f"step {step} is there twice"
            found["history"][step] = {name: value for name, value in row.items() if not name.startswith("_")}
    return found


def mlflow_run(run_dir: Path) -> dict[str, Any]:
    """Metrics by name and step, parameters, tags and status of the one run."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{run_dir / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("fanal")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    metrics = {
        name: [[point.step, point.value] for point in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }
    return {
        "status": run.info.status,
        "params": run.data.params,
        "tags": run.data.tags,
        "metrics": metrics,
        "id": run.info.run_id,
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    runs = [wandb_run(path) for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb"))]
    print(json.dumps({"wandb": runs, "mlflow": mlflow_run(folder)}))
