"""MLflow: one run for a chain of starts, in an SQLite file of the run folder unless MLFLOW_TRACKING_URI says otherwise.

A figure that is there cannot be replaced. So a step that is trained again keeps its figures of the first time; metrics.jsonl has
both.
"""

import contextlib
import logging
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fanal.run_folder import MLFLOW_DIR
from pretrain.log.beside import Beside, beside_training
from pretrain.log.elsewhere import environment, flat_config, identity, keep_identity
from pretrain.log.history import Past, history
from pretrain.log.record import EndRecord, StartRecord
from pretrain.log.scalars import curves_of
from pretrain.log.sink import Opening

EXPERIMENT = "fanal"
LAST_STEP = "fanal.last_step."
"""Tags that say up to which step each kind of record is there."""
MOST_METRICS, MOST_PARAMS, MOST_TAGS = 1000, 100, 100
"""Limits of one request."""
MOST_CHARACTERS = 5000
NOT_ALLOWED = re.compile(r"[^\w\-. /:]")


def open_mlflow(opening: Opening) -> contextlib.AbstractContextManager[Beside]:
    """Open the sink; MLflow itself is imported in its thread."""
    return beside_training("mlflow", lambda: _open_run(opening))


class MlflowRun:
    """A run of MLflow that is being written."""

    def __init__(self, client: Any, run_id: str, opening: Opening, *, place: str) -> None:
        self._client, self._run_id, self._opening, self._place = client, run_id, opening, place
        self.status = "FAILED"
        data = client.get_run(run_id).data
        self._params: dict[str, str] = dict(data.params)
        self._last = {
            name.removeprefix(LAST_STEP): int(value) for name, value in data.tags.items() if name.startswith(LAST_STEP)
        }

    def take(self, past: Past) -> None:
        """Log the figures of a record, unless its step is there."""
        from mlflow.entities import Metric, RunTag  # pyright: ignore[reportMissingImports]

        record, kind = past.record, type(past.record).__name__
        if isinstance(record, StartRecord):
            self._tag({f"environment.{name}": text for name, text in environment(record, self._opening.stamp).items()})
        if isinstance(record, EndRecord):
            self.status = "FINISHED" if record.outcome == "finished" else "KILLED"
        time_ms = round(1000 * past.time_unix_s)
        figures = [
            Metric(NOT_ALLOWED.sub("_", name), float(value), time_ms, record.step) for name, value in curves_of(record)
        ]
        if not figures or record.step <= self._last.get(kind, -1):
            return
        for first in range(0, len(figures), MOST_METRICS):
            self._client.log_batch(self._run_id, metrics=figures[first : first + MOST_METRICS])
        self._last[kind] = record.step
        self._client.log_batch(self._run_id, tags=[RunTag(f"{LAST_STEP}{kind}", str(record.step))])

    def describe(self) -> None:
        """Attach the configuration. A parameter cannot be changed: of one that has changed, a tag has the value of now."""
        from mlflow.entities import Param  # pyright: ignore[reportMissingImports]

        config = {
            NOT_ALLOWED.sub("_", key): str(value)[:MOST_CHARACTERS]
            for key, value in flat_config(self._opening.run).items()
        }
        new = [Param(key, value) for key, value in config.items() if key not in self._params]
        for first in range(0, len(new), MOST_PARAMS):
            self._client.log_batch(self._run_id, params=new[first : first + MOST_PARAMS])
        self._tag({f"changed.{key}": value for key, value in config.items() if self._params.get(key, value) != value})

    def farewell(self) -> str:
        """Return the command that shows it."""
        return f"`mlflow ui --backend-store-uri {shlex.quote(self._place)}` shows it (pip install mlflow)"

    def _tag(self, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag  # pyright: ignore[reportMissingImports]

        texts = [RunTag(name, text[:MOST_CHARACTERS]) for name, text in tags.items()]
        for first in range(0, len(texts), MOST_TAGS):
            self._client.log_batch(self._run_id, tags=texts[first : first + MOST_TAGS])


@contextlib.contextmanager
def _open_run(opening: Opening) -> Iterator[MlflowRun]:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow  # pyright: ignore[reportMissingImports]

    for library in ("mlflow", "alembic"):  # they tell of every table
        logging.getLogger(library).setLevel(logging.WARNING)
    folder = opening.run_dir / MLFLOW_DIR
    folder.mkdir(exist_ok=True)
    elsewhere = os.environ.get("MLFLOW_TRACKING_URI")
    place = elsewhere or f"sqlite:///{(folder / 'mlflow.db').absolute()}"
    run_id, is_known = identity(folder)
    if not is_known and not elsewhere:  # a full disk left a part of its tables, which MLflow cannot complete
        (folder / "mlflow.db").unlink(missing_ok=True)
    client = mlflow.MlflowClient(tracking_uri=place)
    if not is_known:
        experiment = _experiment(client, None if elsewhere else folder / "artifacts")
        run_id = client.create_run(experiment, run_name=opening.run_dir.name).info.run_id
        keep_identity(folder, run_id)
    client.update_run(run_id, status="RUNNING")
    writer = MlflowRun(client, run_id, opening, place="URI" if elsewhere else place)
    try:
        writer.describe()
        for past in history(opening.run_dir, opening.stamp):
            writer.take(past)
        yield writer
    finally:
        client.set_terminated(run_id, status=writer.status)


def _experiment(client: Any, artifacts: Path | None) -> str:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    return client.create_experiment(
        name, artifact_location=None if artifacts is None else artifacts.absolute().as_uri()
    )
