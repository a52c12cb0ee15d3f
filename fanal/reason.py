"""An error as the reason that another message gives in brackets."""

from fanal.errors import FanalError
from fanal.records import MisfitError


def reason(error: BaseException) -> str:
    """Return the first line of an error. One of a library begins with its class: KeyError says a name and nothing else."""
    said = str(error).partition("\n")[0]
    return said if isinstance(error, FanalError | MisfitError) else f"{type(error).__name__}: {said}"
