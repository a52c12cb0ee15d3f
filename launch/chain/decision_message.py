"""What is said of a decision: a sentence for a person, and its facts for a program."""

from pathlib import Path
from typing import Any

from fanal.credentials import without_credentials
from launch.chain.decide import CANCELLED, STOP_FILE

EVENTS = {
    "finish": "finished", "hand over": "handed over", "requeue": "requeued", "restart": "restarted in its allocation",
    "stop": "stopped",
}  # fmt: skip
"""What has happened to a chain, by the action that was decided."""


def message(record: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    """Return the payload for a ``decided`` line of jobs.jsonl: ``text`` for people, as Slack and Mattermost show it, and
    ``fanal`` for programs."""
    action, reason = record["action"], without_credentials(record["reason"])
    event = EVENTS.get(action, action)
    needs_a_person = action == "stop" and not reason.startswith((STOP_FILE, CANCELLED))
    excluded = list(record["exclude"])
    urgent = "NEEDS A PERSON: " if needs_a_person else ""
    nodes = f"; left out from now on: {', '.join(excluded)}" if excluded else ""
    return {
        "text": _escaped(
            f"{urgent}{run_dir.name}: job {record['job']} {event} at step {record['step']}: {reason}{nodes}"
        ),
        "fanal": {
            "event": event,
            "needs_a_person": needs_a_person,
            "run": run_dir.name,
            "run_dir": str(run_dir),
            "job": record["job"],
            "restart": record["restart"],
            "step": record["step"],
            "exit_code": record.get("exit_code"),
            "reason": reason,
            "excluded_nodes": excluded,
            "time_utc": record["time_utc"],
        },
    }


def _escaped(text: str) -> str:
    """A text in which nothing is a link, or calls a channel."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
