"""The model of a checkpoint, from its ``config.yaml``."""

import dataclasses
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fanal.errors import DamageError
from fanal.run_folder import CONFIG
from pretrain.checkpoint.disk.config_file import read_config
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError
from pretrain.config.schema import ModelConfig


def read_model(folder: Path) -> ModelConfig:
    """The model that a checkpoint is of; fields that are younger than it have their defaults.

    Raises: DamagedCheckpointError if its config describes none.
    """
    section = read_config(folder).model
    known = {field.name for field in dataclasses.fields(ModelConfig)}
    try:
        unknown = sorted(set(section) - known)
        if unknown:
            raise DamageError(f"unknown fields {', '.join(unknown)}; a newer version wrote it")
        model = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), section))
    except (ValueError, TypeError, OmegaConfBaseException) as error:
        problem = str(error).partition("\n")[0]
        raise DamagedCheckpointError(
            f"{folder / CONFIG} describes no model ({type(error).__name__}: {problem})"
        ) from None
    assert isinstance(model, ModelConfig), f"omegaconf gave a {type(model).__name__}"
    return model
