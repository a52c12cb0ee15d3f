"""Faults of the moving average of weights (optim/ema.py); tests/dist/harness.py finds them by name."""

from typing import Any

from tests.dist.faults import gradient_not_finite_at_step_3, start_is_saved


def step_3_is_skipped() -> None:
    """Not a fault of ours: the gradient of the third step is not finite. What the run starts from is saved as well."""
    gradient_not_finite_at_step_3()
    start_is_saved()


def average_updated_on_a_skipped_step() -> None:
    """The average moves towards the weights after every step, whether there was an update or not."""
    from pretrain.optim import optimizer as ours
    from pretrain.optim.ema import update_averages
    from pretrain.train import loop

    step_3_is_skipped()
    step = loop.train_step
    ours.update_averages = lambda optimizer: None

    def broken(model: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        result = step(model, optimizer, *args, **kwargs)
        update_averages(optimizer)
        return result

    loop.train_step = broken


def average_not_put_in_place() -> None:
    """The validation of the average is one of the weights."""
    import contextlib

    from pretrain.train import validate

    validate.averages_in_place = lambda optimizer, model: contextlib.nullcontext()


def average_forgotten_at_a_resume() -> None:
    """A resume restores weights and moments, and begins the average anew."""
    from pretrain.optim.ema import begin_averages
    from pretrain.train import loop

    load = loop.load_checkpoint

    def broken(run: Any, model: Any, optimizer: Any, reader: Any, world: Any) -> Any:
        start = load(run, model, optimizer, reader, world)
        begin_averages(optimizer)
        return start

    loop.load_checkpoint = broken
