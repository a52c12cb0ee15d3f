"""What a checkpoint's ``config.yaml`` says of its data, as it was written."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fanal.run_folder import CONFIG
from fanal.shown import shown
from pretrain.checkpoint.disk.config_file import read_config
from pretrain.checkpoint.disk.manifest import DamagedCheckpointError


def saved_data(checkpoint: Path) -> dict[str, Any]:
    """Its section ``data``, nothing of it checked. Raises: DamagedCheckpointError if there is none."""
    return OmegaConf.to_container(read_config(checkpoint).data)  # type: ignore[return-value]


def saved_seq_length(checkpoint: Path) -> int:
    """Tokens in the longest sequence the model was made for. Raises: DamagedCheckpointError if that is no integer above 0."""
    length = saved_data(checkpoint).get("seq_length")
    if type(length) is not int or length < 1:
        raise DamagedCheckpointError(
            f"{checkpoint / CONFIG} must have an integer above 0 at data.seq_length; it has {shown(length)} there"
        )
    return length
