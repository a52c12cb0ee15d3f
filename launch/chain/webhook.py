"""One message to one address by HTTPS POST: bounded in time, no redirect followed, the address told to nobody.

Whoever knows the address of a webhook may write there, so it is a secret: it comes from the environment or from a file that its
owner alone may read, and no message of ours has more of it than the host.
"""

import contextlib
import http.client
import json
import os
import shlex
import ssl
import stat
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fanal.errors import UserError, error_type
from fanal.ownership import ROOT
from fanal.plain_files import read_plain

URL, URL_FILE = "FANAL_WEBHOOK_URL", "FANAL_WEBHOOK_FILE"
"""Variables: the address itself, or the private file that holds it."""
TRY_S = 4.0
"""Seconds for one try: to connect, and between any two parts of an answer."""
ALL_TRIES_S = 10.0
"""Seconds for one message in all, whatever the other side does."""
TRIES, PAUSE_S = 3, 0.5
"""Tries of one message, and seconds between the first two; twice as long between the next."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the message would go to a host that nobody named."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def webhook_url(variables: Mapping[str, str]) -> str | None:
    """Return the address of the webhook; None if there is none.

    Raises: UserError if it is no address, or if others may read the file that holds it.
    """
    if variables.get(URL):
        return _checked(variables[URL].strip(), where=URL)
    if not variables.get(URL_FILE):
        return None
    content, path = _read_private(Path(variables[URL_FILE]))
    return _checked(content.strip(), where=str(path))


def _read_private(path: Path) -> tuple[str, Path]:
    """Return what a file holds that nobody else may read, and its whole path. Raises: UserError."""
    rule = "must be a file that you can read, with the address of a webhook in it"
    try:
        path = path.expanduser()
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            kind = "it is a folder" if stat.S_ISDIR(found.st_mode) else "it is no plain file"
            raise UserError(f"{URL_FILE} ({path}) {rule}: {kind}; the path of a file of yours works")
        mode, name = stat.S_IMODE(found.st_mode), shlex.quote(str(path))
        if found.st_uid not in (ROOT, os.geteuid()) or mode & 0o077:
            raise UserError(
                f"{URL_FILE} ({path}) must be a file that nobody but you may read, and its mode is {mode:o}, its owner user "
                f"{found.st_uid}; `chmod 600 {name}` works on a file of yours"
            )
        return read_plain(path, max_bytes=4096).decode(errors="replace"), path
    except FileNotFoundError as error:
        folder, name = shlex.quote(str(path.parent)), shlex.quote(str(path))
        raise UserError(
            f"{URL_FILE} ({path}) {rule}: {error.strerror}; `(umask 077; mkdir -p {folder} && cat > {name})` makes it from what is "
            "pasted"
        ) from None
    except RuntimeError as error:  # ~ of a user whose home is not known
        raise UserError(f"{URL_FILE} ({path}) {rule}: {error}; its whole path, from / on, works") from None
    except OSError as error:
        why = error.strerror or error
        raise error_type(error)(f"{URL_FILE} ({path}) {rule}: {why}; the path of a file of yours works") from None


def host_of(url: str) -> str:
    """Return the host of an address, which is all that may be shown of it."""
    return urlsplit(url).hostname or ""


def reaches_out(url: str, *, internet: str) -> bool:
    """Whether a compute node of a site can be expected to reach the address. Args: internet: of the site."""
    proxied = urllib.request.getproxies().get(urlsplit(url).scheme) is not None
    return internet == "everywhere" or proxied or host_of(url) in LOOPBACK


def post(url: str, payload: dict[str, Any]) -> str:
    """Send a message; return why it was not taken, naming the host, else "". Takes ALL_TRIES_S at most, and raises nothing."""
    answer = [f"{host_of(url)}: no answer after {ALL_TRIES_S:g} s"]
    thread = threading.Thread(target=_tries, args=(url, payload, answer), name="webhook", daemon=True)
    thread.start()
    thread.join(ALL_TRIES_S)  # a name server, or a host that sends a byte a second, keeps no promise of TRY_S
    return answer[0]


def _checked(url: str, *, where: str) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and host in LOOPBACK)
    if not (is_safe and host and parts.username is None and url.isascii() and url.isprintable() and " " not in url):
        raise UserError(
            f"{where} must hold one address that begins with https:// and names no user, and it does not (it is a secret, and "
            "not shown); https://chat.example.org/hooks/... has the form that works"
        )
    return url


def _tries(url: str, payload: dict[str, Any], answer: list[str]) -> None:
    until = time.monotonic() + ALL_TRIES_S
    for number in range(TRIES):
        left = until - time.monotonic()
        if left <= 0:
            return
        answer[0], again = _try(url, payload, timeout_s=min(TRY_S, left))
        if not again or number == TRIES - 1:
            return
        time.sleep(min(PAUSE_S * 2**number, max(0.0, until - time.monotonic())))


def _try(url: str, payload: dict[str, Any], *, timeout_s: float) -> tuple[str, bool]:
    """Return why it was not taken, and whether another try may help."""
    body = json.dumps(payload).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "fanal"}
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(request, timeout=timeout_s):
            return "", False
    except urllib.error.HTTPError as error:
        with contextlib.suppress(OSError):
            error.close()
        if 300 <= error.code < 400:
            return f"{host_of(url)} redirects (HTTP {error.code}), which is not followed", False
        return f"{host_of(url)} answers HTTP {error.code}", error.code >= 500 or error.code == 429
    except ssl.SSLError as error:
        return f"{host_of(url)}: {error.reason or 'TLS fails'}", False
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        is_certificate = isinstance(reason, ssl.SSLCertVerificationError)
        return f"{host_of(url)}: {type(reason).__name__}: {_words(reason)}", not is_certificate
    except ValueError:  # of an address that urllib cannot take
        return f"{host_of(url)}: the address is refused", False


def _words(reason: object) -> str:
    return str(getattr(reason, "verify_message", None) or getattr(reason, "strerror", None) or "no answer")
