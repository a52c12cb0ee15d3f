"""An image that the ranks of a job run in: what is put before their command, for each kind of runtime.

The job's own script runs on the node, since images have no Slurm: only its steps run in the image. Not yet run in one.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from fanal.errors import UserError
from launch.sites.reach import check_paths
from launch.sites.schema import ContainerConfig, SiteConfig

IMAGE = "FANAL_IMAGE"
"""Environment variable of a job: the image of its steps; unset where they run on the node itself."""
IMAGE_PYTHON = "FANAL_IMAGE_PYTHON"
"""Environment variable of a job: Python of that image."""


def image_of(site: SiteConfig, site_name: str, image: str | None) -> str:
    """Return the image that a job asks for, empty for none.

    Raises: UserError if the site has no runtime, the name is not one word, or compute nodes cannot reach the file.
    """
    if not image:
        return ""
    if site.container is None:
        raise UserError(
            f"--container ({image}) must be left out on {site_name}, whose file names no runtime of containers; a site with "
            "`container: {runtime: apptainer, options: [--nv]}` works"
        )
    if not re.fullmatch(r"[A-Za-z0-9_./:@+=#-]+", image):
        raise UserError(f"--container ({image!r}) must be one word; --container /scratch/images/fanal.sif works")
    if image.startswith("/"):
        check_paths([("--container", Path(image))], site, site_name)
    return image


def step_words(container: ContainerConfig | None, image: str, *, places: Sequence[Path]) -> list[str]:
    """Return the words of ``srun`` that follow its own options: options of its plugins, or a command that enters the image.

    Args: places, folders that a step needs, the working folder first. The image of an environment definition (``edf``) has mounts
    of its own, and a step in it begins in the working folder that it names.
    Sources: the manuals of Apptainer (``exec``), of pyxis, and of CSCS's container engine.
    """
    if container is None or not image:
        return []
    mounts = list(dict.fromkeys([*map(str, places), *container.mounts]))
    if container.runtime == "edf":
        return [f"--environment={image}", *container.options]
    if container.runtime == "pyxis":
        mounted = ",".join(f"{folder}:{folder}" for folder in mounts)
        where = [f"--container-image={image}", f"--container-mounts={mounted}", f"--container-workdir={places[0]}"]
        return [*where, *container.options]
    binds = [word for folder in mounts for word in ("--bind", folder)]
    return [container.runtime, "exec", *container.options, *binds, "--pwd", str(places[0]), image]
