"""A plugin of pytest: each test is a finding as soon as it is over, so that a selection that is cut off says how far it came."""

import pytest

from bench.gpu.found import findings_here

TABLE = "tests"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Called by pytest at the end. A selection that was skipped to the last has not passed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    stats = reporter.stats if reporter is not None else {}
    if stats.get("skipped") and not any(stats.get(outcome) for outcome in ("passed", "failed", "error")):
        findings_here().left_out("every test was skipped")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Called by pytest for each phase of a test. A test that passes has one row, a test that does not has one for why."""
    if report.when != "call" and report.outcome == "passed":
        return
    findings = findings_here()
    name = report.nodeid.rsplit("/", 1)[-1].replace("|", "/")
    findings.row(TABLE, {"test": name, "outcome": report.outcome, "s": f"{report.duration:.1f}"})
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        findings.note(f"skipped: {name}: {report.longrepr[2].removeprefix('Skipped: ')}")
    if report.outcome == "failed":
        findings.fault(f"{name}: {report.longreprtext.strip().splitlines()[-1]}")
