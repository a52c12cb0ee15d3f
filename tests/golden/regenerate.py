"""Write the golden resolved configurations, and the scripts of jobs, again: ``python -m tests.golden.regenerate``; then read the difference.

Those of rehearsals take minutes, and have a command of their own: tests/golden/rehearsals.py.
"""

from pathlib import Path

from pretrain.config.load import load_run, to_yaml
from tests.golden import launch_scripts

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if "models" not in path.parts)
"""Shipped configs, but for the recipes of configs/models, whose figures tests/unit/config/test_recipes.py holds."""


def golden_path(config: Path) -> Path:
    """Where the resolved tree of a shipped config is kept."""
    return Path(__file__).parent / ("-".join(config.relative_to(ROOT / "configs").parts))


def main() -> None:
    """One file per shipped config, and none of a config that is gone."""
    for old in set(Path(__file__).parent.glob("*.yaml")) - {golden_path(config) for config in CONFIGS}:
        old.unlink()
    for config in CONFIGS:
        golden_path(config).write_text(to_yaml(load_run(config)))
    launch_scripts.regenerate()


if __name__ == "__main__":
    main()
