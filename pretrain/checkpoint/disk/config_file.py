"""``config.yaml`` of a checkpoint: the resolved configuration of the run that wrote it, and what is read from it."""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fanal.errors import DamageError, UserError
from fanal.interpolations import first_interpolation
from fanal.reason import reason
from fanal.run_folder import CONFIG
from fanal.shown import shown
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError, read_small_file
from pretrain.config.model_rules import model_problem
from pretrain.config.read_yaml import parse_yaml
from pretrain.config.renamed import with_current_names
from pretrain.config.schema import ModelConfig, ObjectiveConfig, OptimConfig, RunConfig, TrainConfig


def read_config(folder: Path) -> dict[str, Any]:
    """Return the config of a checkpoint, as it is written: keys that were renamed since have their current names, younger ones are
    not there.

    Raises: DamagedCheckpointError if the file is not the config of a run; OSError if it cannot be read for a reason that is not
    damage.
    """
    content = read_small_file(folder / CONFIG)
    try:
        as_written = parse_yaml(content.decode(), name=CONFIG)
        if found := first_interpolation(as_written):
            raise DamageError(
                f"{found[0]}, {shown(found[1])}, is to be filled in, and a run writes every value filled in"
            )
        saved = with_current_names(as_written, where=str(folder / CONFIG)) if isinstance(as_written, dict) else {}
        if not all(isinstance(saved.get(key), dict) for key in ("model", "data", "train")):
            raise DamageError("it must have the sections model, data and train")
        return saved
    except (ValueError, TypeError, OSError, RecursionError, OmegaConfBaseException, YAMLError) as error:
        raise DamagedCheckpointError(f"{folder / CONFIG} is not the config of a run ({reason(error)})") from None


def read_model(folder: Path) -> ModelConfig:
    """Return the model of a checkpoint; fields that are younger than it have their defaults.

    Raises: DamagedCheckpointError if its config does not describe a model; UserError if a newer version wrote it.
    """
    return model_in(read_config(folder), folder)


def model_in(saved: dict[str, Any], folder: Path) -> ModelConfig:
    """Return the model of a checkpoint's config that was read. Raises: as ``read_model``."""
    section = saved["model"]
    refuse_newer(folder, "model", section, ModelConfig)
    try:
        model = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), section))
    except (ValueError, TypeError, OmegaConfBaseException) as error:
        raise DamagedCheckpointError(f"{folder / CONFIG} does not describe a model ({reason(error)})") from None
    assert isinstance(model, ModelConfig), f"omegaconf gave a {type(model).__name__}"
    problem = model_problem(model)
    if problem is not None:
        raise DamagedCheckpointError(f"{folder / CONFIG} does not describe a model ({problem})")
    return model


def value_in(saved: dict[str, Any], key: str) -> Any:
    """Return the value at a key such as optim.name of a checkpoint's config; where it has none, that of a new run."""
    section, name = key.split(".")
    kind = next(field.type for field in dataclasses.fields(RunConfig) if field.name == section)
    default = next(field.default for field in dataclasses.fields(kind) if field.name == name)  # type: ignore[arg-type]
    held = saved.get(section)
    return held.get(name, default) if isinstance(held, dict) else default


def objective_in(saved: dict[str, Any], folder: Path) -> ObjectiveConfig:
    """Return the objectives of a checkpoint's config; none of an earlier version, which knew none.

    Raises: DamagedCheckpointError if its config does not describe objectives; UserError if a newer version wrote it.
    """
    section = saved.get("objective") or {}
    try:
        if isinstance(section, dict):
            refuse_newer(folder, "objective", section, ObjectiveConfig)
        objective = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ObjectiveConfig), section))
    except (ValueError, TypeError, OmegaConfBaseException) as error:
        if isinstance(error, UserError):
            raise
        raise DamagedCheckpointError(f"{folder / CONFIG} does not describe objectives ({reason(error)})") from None
    assert isinstance(objective, ObjectiveConfig), f"omegaconf gave a {type(objective).__name__}"
    return objective


def read_schedule(folder: Path) -> tuple[OptimConfig, TrainConfig] | None:
    """Return what decides the learning rate of the run that wrote a checkpoint; None if its config does not say it, or if a newer
    version wrote these sections.

    Raises: DamagedCheckpointError as ``read_config``.
    """
    saved = read_config(folder)
    found = []
    for name, cls in (("optim", OptimConfig), ("train", TrainConfig)):
        try:
            found.append(OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), saved.get(name))))
        except (ValueError, TypeError, OmegaConfBaseException):
            return None
    optim, train = found
    return (optim, train) if isinstance(optim, OptimConfig) and isinstance(train, TrainConfig) else None


def refuse_newer(folder: Path, name: str, section: dict[str, Any], cls: type) -> None:
    """Refuse a section of a checkpoint's config with fields that this version does not know, as it cannot know what they
    change; at their defaults as well, since it does not know those either.

    Raises: UserError naming each field with its value.
    """
    known: Collection[str] = {field.name for field in dataclasses.fields(cls)}
    unknown = [f"{name}.{field} ({value})" for field, value in section.items() if field not in known]
    if unknown:
        raise UserError(
            f"checkpoint {folder} was written by a newer version of Fanal: this one does not know {', '.join(unknown)}; "
            "use that version or a later one"
        )


def saved_data(checkpoint: Path) -> dict[str, Any]:
    """Return the section ``data`` of a checkpoint's config, unchecked. Raises: DamagedCheckpointError if it is missing."""
    return read_config(checkpoint)["data"]


def saved_seq_length(checkpoint: Path) -> int:
    """Return the number of tokens in the longest sequence that the model was made for.

    Raises: DamagedCheckpointError if that is not an integer above 0.
    """
    length = saved_data(checkpoint).get("seq_length")
    if type(length) is not int or length < 1:
        raise DamagedCheckpointError(
            f"{checkpoint / CONFIG} must have an integer above 0 at data.seq_length; it has {shown(length)} there"
        )
    return length
