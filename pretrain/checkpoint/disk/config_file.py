"""``config.yaml``: the resolved configuration of the run that wrote a checkpoint."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fanal.errors import DamageError
from fanal.run_folder import CONFIG
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError, read_small_file


def read_config(folder: Path) -> Any:
    """The config of a checkpoint, as it was written: fields that are younger are not there.

    Raises: DamagedCheckpointError if it is none.
    """
    try:
        saved: Any = OmegaConf.create(read_small_file(folder / CONFIG).decode())
        if not all(isinstance(saved.get(key), DictConfig) for key in ("model", "data", "train")):
            raise DamageError("it has no sections model, data and train")
        return saved
    except (ValueError, TypeError, OmegaConfBaseException, YAMLError) as error:
        problem = str(error).partition("\n")[0]
        raise DamagedCheckpointError(
            f"{folder / CONFIG} is no config of a run ({type(error).__name__}: {problem})"
        ) from None
