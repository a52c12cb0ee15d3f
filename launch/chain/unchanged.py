"""Lines of a script that compare what it is about to run with what was submitted.

Slurm keeps its own copy of a script, which nobody else can change: the hashes stand there. What they are of lies in a folder that
its owner alone may write to, so that nothing changes between the look and the use. The shell does it, before any Python of ours.
"""

from collections.abc import Mapping

CLOSED = "! -perm /022"
"""Test of find: neither group nor others may write. An owner's folder is found by one call with all that is asked of it."""


def refuses(command: str, *, absent: str) -> list[str]:
    """Return the lines that say, in the shell, why a job must not run, and end it with code 2.

    Args: command: that writes all anew; absent: command for a launch folder that is not there now, as on a node without its disk.
    """
    return [
        "umask go-w  # others may not change what is made here",
        "refuse() {",
        f'    echo "error: $1; look at who changed it: {command} writes all anew" >&2',
        "    exit 2",
        "}",
        f'[ -d "$launch_dir" ] || {absent}',
    ]


def is_unchanged(sha256: Mapping[str, str], *, absent: str) -> list[str]:
    """Return the lines that refuse to go on unless the launch folder is its owner's alone and its files are the same.

    Args: sha256: of each file in the launch folder, by its name; absent: command for one that cannot be read now.
    """
    return [
        f'[ -n "$(find "$launch_dir" -maxdepth 0 -type d -user "$EUID" {CLOSED})" ] ||',
        '    refuse "$launch_dir must be a folder of user $EUID, not a link, that nobody else may write to"',
        "while read -r sha256 name; do",
        f'    found=$(sha256sum <"$launch_dir/$name") || {absent}',
        '    [ "$found" = "$sha256  -" ] || refuse "$launch_dir/$name is not the file that was submitted"',
        "done <<'FILES'",
        *(f"{digest}  {name}" for name, digest in sha256.items()),
        "FILES",
    ]


def keeps_its_names() -> list[str]:
    """Return the lines that see to it that nobody exchanges the launch folder of a run: the sticky bit on the run folder."""
    return [
        "run_dir=${launch_dir%/*}/.  # it may be open to others, for STOP: they may not rename what is not theirs",
        '[ -z "$(find "$run_dir" -maxdepth 0 -user "$EUID" -perm /022 ! -perm -1000)" ] || chmod +t "$run_dir"',
        f'[ -n "$(find "$run_dir" -maxdepth 0 "(" -user "$EUID" -o -user 0 ")" "(" {CLOSED} -o -perm -1000 ")")" ] ||',
        '    refuse "$run_dir must be a folder of user $EUID, in which nobody else may rename what lies there"',
    ]
