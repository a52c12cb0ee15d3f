"""What must not go into a record: names of variables that hold a secret, and credentials inside a value.

No list of secrets is complete, so a record begins with a list of what explains a run. This is the second look at it.
"""

import re

SECRET_NAME = re.compile(
    r"(^|_)(\w*(?<!IB_P)KEYS?|PASS\w*|PWD|\w*SECRETS?|\w*TOKENS?|[OX]?AUTH\w*|COOKIES?|CRED\w*|JWT|PRIVATE|SESSION\w*|BEARER|"
    r"SIGNATURE)(_|$)",
    re.IGNORECASE,
)
"""Words in the name of a variable whose value is a secret. InfiniBand's PKEY is a number that all of a network share."""
CREDENTIALS = (
    re.compile(r"(?<=://)[^/\s]*@"),  # user:password@ of an address
    re.compile(
        r"(hf_|gh[opsur]_|github_pat_|glpat-|sk-|xox[a-z]-|AKIA|ASIA|AIza|npm_|pypi-|dckr_pat_|ya29\.|eyJ)[\w.+/=-]{8,}"
    ),
    re.compile(r"(?i)(\w*(password|passwd|secret|token|api_?key|auth)\w*\s*[=:]\s*)[^\s,;&]+"),
    re.compile(r"-----BEGIN[^-]*-----.*", re.DOTALL),
)
"""Credentials by their form."""
RANDOM = re.compile(r"(?<![\w+=-])(?=[\w+=-]*[0-9])(?=[\w+=-]*[A-Za-z])[\w+=-]{20,}(?![\w+=-])")
"""A word too long for a setting, of letters and digits: a key, perhaps. Names of folders are such words, too."""
HIDDEN = "(hidden)"


def names_a_secret(variable: str) -> bool:
    """Whether the name of a variable says that its value is for nobody else."""
    return SECRET_NAME.search(variable) is not None


def without_credentials(value: str) -> str:
    """A value with what looks like credentials taken out. A value that is no path has no long word of letters and digits left."""
    for pattern in CREDENTIALS:
        value = pattern.sub(HIDDEN, value)
    return value if "/" in value else RANDOM.sub(HIDDEN, value)
