"""The option of the factor with which energy becomes CO2; only the user knows it."""

import click

from fanal.errors import UserError

co2_option = click.option(
    "--co2-g-per-kwh", type=float, metavar="N", help="Grams of CO2 a kilowatt hour, of the place and time of the run."
)


def check_co2_factor(co2_g_per_kwh: float | None) -> None:
    """Raises: UserError for a factor that is none."""
    if co2_g_per_kwh is not None and not 0 <= co2_g_per_kwh < float("inf"):
        raise UserError(f"--co2-g-per-kwh ({co2_g_per_kwh:g}) must be a finite number from 0; --co2-g-per-kwh 50 works")
