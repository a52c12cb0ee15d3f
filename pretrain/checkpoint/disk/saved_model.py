"""The model of a checkpoint, from its ``config.yaml``."""

import dataclasses
from collections.abc import Collection
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fanal.errors import UserError
from fanal.run_folder import CONFIG
from pretrain.checkpoint.disk.config_file import read_config
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError
from pretrain.config.schema import ModelConfig


def read_model(folder: Path) -> ModelConfig:
    """The model that a checkpoint is of; fields that are younger than it have their defaults.

    Raises: DamagedCheckpointError if its config describes none; UserError if a newer version wrote it.
    """
    section = read_config(folder).model
    refuse_newer(folder, "model", section, ModelConfig)
    try:
        model = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), section))
    except (ValueError, TypeError, OmegaConfBaseException) as error:
        problem = str(error).partition("\n")[0]
        raise DamagedCheckpointError(
            f"{folder / CONFIG} describes no model ({type(error).__name__}: {problem})"
        ) from None
    assert isinstance(model, ModelConfig), f"omegaconf gave a {type(model).__name__}"
    return model


def refuse_newer(folder: Path, name: str, section: DictConfig, cls: type) -> None:
    """Refuse a section of a checkpoint's config with fields that this version does not know, as it cannot know what they
    change; at their defaults as well, since it does not know those either.

    Raises: UserError naming each field with its value.
    """
    known: Collection[str] = {field.name for field in dataclasses.fields(cls)}
    unknown = [f"{name}.{field} ({value})" for field, value in section.items() if field not in known]
    if unknown:
        raise UserError(
            f"checkpoint {folder} was written by a newer version of Fanal: this one does not know {', '.join(unknown)}; "
            "that version, or a later one, reads it"
        )
