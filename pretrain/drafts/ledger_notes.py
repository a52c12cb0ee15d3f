"""What every draft says of the ledger that it was made from: which one, and what that does not know."""

from pretrain.convert.exporting.markdown import as_text
from pretrain.drafts.draft import Entry, Section
from pretrain.drafts.facts import Facts


def made_from(facts: Facts) -> str:
    """Return the paragraph that names the ledger, so that a figure can be looked up in it."""
    ledger, run = facts.ledger, facts.at(facts.last_run)
    return (
        f"Made from the ledger of {as_text(facts.run_name)} up to step {run['trained_to']:,}, by Fanal "
        f"{as_text(ledger['fanal_version'])}; ledger_sha256 {as_text(ledger['ledger_sha256'])}. A source such as "
        "`ledger data.tokens` is a path in the JSON of `fanal ledger RUN_DIR --json`; `[]` stands for each element of a list."
    )


def not_known(facts: Facts) -> tuple[Section, ...]:
    """Return the section of what the run's files do not tell; none where they tell everything."""
    lines = facts.at("ledger not_known")
    if not lines:
        return ()
    said = Entry(
        name="What is not in the figures above",
        value="\n".join(f"- {as_text(line)}" for line in lines),
        where=("ledger not_known",),
        blank="what of this is known elsewhere, and changes a figure",
    )
    return (Section(title="What the files of the run do not tell", entries=(said,)),)
