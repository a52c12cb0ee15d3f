"""``fanal`` and ``python -m fanal``. Imports nothing before a stop signal to ``fanal train`` would be noted."""

import sys


def main() -> None:
    """Run the command line of this process, and end it with the exit code."""
    if sys.argv[1:2] == ["train"]:
        from pretrain.parallel.start import begin_train

        begin_train()
    from fanal.command import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
