"""What every stage is told, through the environment: stages are programs of their own, some of them pytest's."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DEVICE, TINY, FOUND, FOLDER = "FANAL_GPU_DEVICE", "FANAL_GPU_TINY", "FANAL_GPU_FOUND", "FANAL_GPU_FOLDER"
DeviceType = Literal["cuda", "cpu"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where a stage runs, at which sizes, and where it leaves what it finds."""

    device: DeviceType = "cuda"
    tiny: bool = False
    """Sizes for a test: everything runs, nothing is a figure."""
    folder: Path = Path("build")
    """For what is kept beside the report, such as a trace."""
    found: Path | None = None
    """File of JSON lines that the stage adds to; None for its terminal alone."""

    def environment(self) -> dict[str, str]:
        """Return the variables that ``here`` reads."""
        return {
            DEVICE: self.device,
            TINY: "1" if self.tiny else "",
            FOLDER: str(self.folder),
            FOUND: "" if self.found is None else str(self.found),
        }


def here() -> Setting:
    """Return the setting of this process; without variables, a GPU's, and the terminal alone."""
    found = os.environ.get(FOUND, "")
    return Setting(
        device="cpu" if os.environ.get(DEVICE) == "cpu" else "cuda",
        tiny=bool(os.environ.get(TINY)),
        folder=Path(os.environ.get(FOLDER) or "build"),
        found=Path(found) if found else None,
    )
