"""What grows with the sources of a run."""

from pathlib import Path

from bench.growth.case import Act, Growth
from pretrain.config.load import load_run

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"


def load_config(size: int, folder: Path) -> Act:
    """A config that names that many sources."""
    before, after = TINY.read_text().split("    - {prefix: demo/shards/train-code, weight: 0.5}\n")
    config = folder / "run.yaml"
    config.write_text(
        before + "".join(f"    - {{prefix: shards/source-{n}, weight: 0.5}}\n" for n in range(size)) + after
    )
    return lambda: load_run(config)


CASES = (Growth(name="load a config", grows_with="sources", sizes=(10, 100, 1_000), prepare=load_config),)
