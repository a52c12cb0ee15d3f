"""A data statement of the texts that a run was trained on: who wrote them, in which language, why they were chosen.

Source: Data Statements, schema version 3 (McMillan-Major and Bender, University of Washington), which goes back to Bender and
Friedman, Data Statements for Natural Language Processing, TACL 6, 2018. The titles are the schema's, the words ours.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pretrain.convert.exporting.markdown import as_text, table
from pretrain.drafts.data_figures import NOT_STATED
from pretrain.drafts.draft import Document, Entry, Section, markdown
from pretrain.drafts.facts import Facts

FOLLOWS = (
    "Data Statements, schema version 3 (https://techpolicylab.uw.edu/data-statements/), which goes back to Bender and Friedman "
    "2018 (https://aclanthology.org/Q18-1041/). Its template asks for a note on changes: each value here names the place in the "
    "ledger that it comes from."
)
GLOSSARY = (
    "A *token* is a piece of text, the unit in which a model reads. A *shard* is a file of the tokens of many documents. *Passes* "
    "are the tokens that were read, divided by those that were there to be read."
)
MOST_ROWS = 200
"""Rows of a table; of more, the largest."""
Row = dict[str, Any]

IF_ANY = "or that there is none."
HEADER = {
    "Dataset curators": "name, affiliation and role of each.",
    "Dataset citation and DOI": IF_ANY,
    "Data statement authors": "name, affiliation and role of each.",
    "Data statement version": "with its date.",
    "Data statement citation": IF_ANY,
    "Links to versions of this data statement in other languages": IF_ANY,
}
PEOPLE: tuple[str, ...] = (
    "Age", "Gender", "Race or ethnicity", "Socioeconomic status", "First languages", "Proficiency in the languages of the data",
)  # fmt: skip
"""What is asked of who wrote the texts, and of who annotated them."""
USERS: dict[str, str] = dict.fromkeys(
    (*PEOPLE, "Number of different language users", "Presence of disordered speech or sign"),
    "of those who wrote the texts, or that it is not known.",
)
ANNOTATORS: dict[str, str] = dict.fromkeys(
    (*PEOPLE, "Number of different annotators", "Relevant training"),
    "of those who annotated the texts and wrote the guidelines, or that nobody did.",
)
SITUATION = {
    "Time and place": "when and where the texts were written.",
    "Dates of data collection": IF_ANY,
    "Modality": "written, spoken or signed.",
    "Scripted or spontaneous": "edited, or as it came.",
    "Synchronous or asynchronous": "such as chats, or such as articles and letters.",
    "Intended audience": "of whoever wrote the texts.",
    "Topic": IF_ANY,
    "Non-linguistic context": IF_ANY,
    "Cultural context": IF_ANY,
}
METADATA = {
    "Annotation guidelines": "a link to them, or that nobody annotated.",
    "Annotation process": "a link to its documentation, or that there was none.",
    "Dataset quality": "agreement of annotators, or other scores of quality.",
}
DISCLOSURES = {
    "Funding": "its source, and the number of the grant.",
    "Ethical review": "the institution and a link, or that there was none.",
    "Consent and compensation": "of whoever wrote the texts, and of annotators.",
    "Conflicts of interest": IF_ANY,
}
MAINTENANCE = {
    "Maintainer": "who hosts and maintains the data, and how to reach them.",
    "Errors": "where they are listed, and how to report one.",
    "Updates": "how often, by whom, and how users learn of them.",
    "Retention": "limits on how long the data are kept, and how they are enforced.",
    "Older versions": "whether they stay available.",
    "Contributions": "whether others may extend the data, and how that is checked.",
}


def render(facts: Facts) -> str:
    """Return the draft as Markdown."""
    return markdown(document_of(facts))


def document_of(facts: Facts) -> Document:
    """Fill the schema."""
    sections: tuple[tuple[str, Callable[[Facts], Sequence[Entry]]], ...] = (
        ("Header", _header),
        ("Executive summary", _summary),
        ("Curation rationale", _rationale),
        ("Documentation for source datasets", _sources),
        ("Language varieties", _languages),
        ("Language user demographic", lambda facts: _blanks(USERS)),
        ("Annotator demographic", lambda facts: _blanks(ANNOTATORS)),
        ("Linguistic situation and text characteristics", _situation),
        ("Preprocessing and data formatting", _preprocessing),
        (
            "Capture quality",
            lambda facts: _blanks({"Quality of the capture": "such as errors of recognition in scans."}),
        ),
        ("Limitations", _limitations),
        ("Metadata", lambda facts: _blanks(METADATA)),
        ("Disclosures and ethical review", lambda facts: _blanks(DISCLOSURES)),
        ("Distribution", _distribution),
        ("Maintenance", lambda facts: _blanks(MAINTENANCE)),
        ("Other", lambda facts: _blanks({"Further considerations": "or that there are none."})),
        ("Glossary", lambda facts: _blanks({"Further terms": "that readers may not know."})),
    )
    return Document(
        title=f"Data statement: what {as_text(facts.run_name)} was trained on",
        follows=FOLLOWS,
        notes=(
            "The data set is the token shards that the runs of the ledger name as training data. A token counts each time that it "
            "was predicted, and a document was read if one of its tokens was.",
        ),
        sections=tuple(
            Section(title=f"{number} {title}", entries=tuple(fill(facts)), note=GLOSSARY if title == "Glossary" else "")
            for number, (title, fill) in enumerate(sections, 1)
        ),
    )


def _blanks(asked: dict[str, str]) -> list[Entry]:
    return [Entry(name=name, blank=words) for name, words in asked.items()]


def _header(facts: Facts) -> list[Entry]:
    title = Entry(
        name="Dataset title",
        value=f"Training data of {as_text(facts.run_name)}",
        where=("ledger run_dir",),
        how="the last part of the path",
        blank="the title under which the data are published, if they are.",
    )
    version = Entry(
        name="Dataset version",
        value=f"Ledger {as_text(facts.at('ledger ledger_sha256'))}",
        where=("ledger ledger_sha256",),
        how="its data.sources name every shard by the hash of its tokens",
        blank="version and date.",
    )
    return [title, version, *_blanks(HEADER)]


def _summary(facts: Facts) -> list[Entry]:
    documents, tokens = (sum(facts.follow(f"ledger data.sources[].{name}")) for name in ("num_documents", "num_tokens"))
    languages = [row for row in facts.at("ledger data.in_all.by_language") if row["name"] is not None and row["tokens"]]
    named = ", ".join(as_text(row["name"]) for row in languages[:10]) + (", and more" if len(languages) > 10 else "")
    value = (
        f"{len(facts.at('ledger data.sources')):,} shards with {documents:,} documents of {tokens:,} tokens, of which training "
        f"read {facts.at('ledger data.tokens'):,} tokens, repetitions counted. "
        + (f"Languages, the most read first: {named}." if languages else "No language is stated.")
    )
    where = (
        "ledger data.sources[].num_documents", "ledger data.sources[].num_tokens", "ledger data.tokens",
        "ledger data.in_all.by_language",
    )  # fmt: skip
    return [
        Entry(
            name="Summary",
            value=value,
            where=where,
            how="sums over the sources, and names of languages",
            blank="in one sentence, why these texts were chosen.",
        )
    ]


def _rationale(facts: Facts) -> list[Entry]:
    parts = facts.at("ledger data.parts")
    rows = [
        (
            as_text(Path(part["run_dir"]).name),
            as_text(part["mixture"]),
            f"{part['end_sample'] - part['first_sample']:,}",
            f"{part['tokens']:,}",
        )
        for part in parts[:MOST_ROWS]
    ]
    organisation = Entry(
        name="Internal organization",
        value=table(("run", "mixture", "samples", "tokens"), rows).rstrip() + _more(parts),
        where=("ledger data.parts[]",),
        how="samples are end_sample - first_sample; each mixture's shards are in its by_source",
    )
    lengths = list(dict.fromkeys(facts.follow("ledger runs[].seq_length")))
    instance = Entry(
        name="Data instance",
        value=f"A document in a shard; a sample of training is {' or '.join(f'{length:,}' for length in lengths)} tokens.",
        where=("ledger runs[].seq_length",),
    )
    asked = {
        "Purpose": "what the data are for, and which task or question they address.",
        "Selection": "which texts are included, and with what goals they were chosen.",
    }
    return [*_blanks(asked), organisation, instance]


def _sources(facts: Facts) -> list[Entry]:
    sources = facts.at("ledger data.sources")
    rows = [
        (
            as_text(Path(source["prefix"]).name),
            *(
                NOT_STATED if source[label] is None else as_text(source[label])
                for label in ("origin", "licence", "language")
            ),
            f"{source['num_documents']:,}",
            f"{source['num_tokens']:,}",
            as_text(source["identity"]),
        )
        for source in sources[:MOST_ROWS]
    ]
    head = ("shard", "origin", "licence", "language", "documents", "tokens", "SHA-256 of the tokens")
    entries = [
        Entry(
            name="Sources",
            value=table(head, rows).rstrip() + _more(sources),
            where=("ledger data.sources[]",),
            how="labels are those of a whole shard; documents may say more",
            blank="for each source a data statement, a publication or other documentation, and links to licences and terms of use.",
        )
    ]
    hosts = facts.at("ledger data.in_all.by_host")
    if any(row["name"] is not None for row in hosts):
        entries.append(
            Entry(
                name="Web hosts",
                value=_amounts("host", hosts, facts, most=10),
                where=("ledger data.in_all.by_host[]", "ledger data.tokens"),
                how="shares are of data.tokens",
            )
        )
    return entries


def _languages(facts: Facts) -> list[Entry]:
    return [
        Entry(
            name="Language tags (BCP 47)",
            value=_amounts("tag", facts.at("ledger data.in_all.by_language"), facts),
            where=("ledger data.in_all.by_language[]", "ledger data.tokens"),
            how="as documents or their shards state them, which of earlier versions may be no tag; shares are of data.tokens",
            blank="of each language a description of its variety in words: where, by whom and in which script it is used.",
        )
    ]


def _situation(facts: Facts) -> list[Entry]:
    domains = list(dict.fromkeys(facts.follow("ledger data.sources[].domain")))
    genre = Entry(
        name="Genre",
        value=", ".join(map(as_text, domains[:MOST_ROWS])),
        where=("ledger data.sources[].domain",),
        how="the kinds of text by which the run was measured",
        blank="what these words stand for.",
    )
    return [*_blanks(SITUATION), genre]


def _preprocessing(facts: Facts) -> list[Entry]:
    sources = facts.at("ledger data.sources")
    removed = [
        (as_text(Path(source["prefix"]).name), f"{each['num_documents']:,}", f"{each['num_tokens']:,}", as_text(each["reason"]))
        for source in sources
        for each in source["exclusions"]
    ]  # fmt: skip
    checked = [
        (as_text(Path(source["prefix"]).name), f"{check['ngram']} {as_text(check['by'])}", f"{check['overlapping_documents']:,}")
        for source in sources
        for check in source["overlap"]
    ]  # fmt: skip
    held_out = sum(facts.follow("ledger data.held_out[].tokens"))
    return [
        Entry(
            name="Documents that were removed",
            value=table(("shard", "documents", "tokens", "reason"), removed[:MOST_ROWS]).rstrip() + _more(removed)
            if removed
            else "The manifests of the shards name no removal.",
            where=("ledger data.sources[].exclusions",),
        ),
        Entry(
            name="Overlap with held-out text",
            value=table(("shard", "n-gram", "documents that overlap"), checked[:MOST_ROWS]).rstrip() + _more(checked)
            if checked
            else "No check is recorded.",
            where=("ledger data.sources[].overlap",),
        ),
        Entry(
            name="Text that was held out",
            value=f"{held_out:,} tokens, on which the runs were validated.",
            where=("ledger data.held_out[].tokens",),
            how="their sum",
        ),
        *_blanks(
            {
                "What was done to the raw text": "filters, deduplication, anonymization, with the tools; whether it is included.",
            }
        ),
    ]


def _limitations(facts: Facts) -> list[Entry]:
    tokens = facts.at("ledger data.tokens")
    entries = []
    for name in ("language", "licence", "host"):
        path = f"ledger data.in_all.by_{name}"
        unknown = sum(row["tokens"] for row in facts.at(path) if row["name"] is None)
        entries.append(
            Entry(
                name=f"Text whose {name} is not stated",
                value=f"{unknown:,} of {tokens:,} tokens{_share(unknown, tokens)}.",
                where=(f"{path}[]", "ledger data.tokens"),
            )
        )
    if facts.at("ledger came_from") is not None:
        entries.append(
            Entry(
                name="What came before",
                value="The first run of the ledger began with weights of another one, whose data are not counted here.",
                where=("ledger came_from",),
                blank="what those weights were trained on.",
            )
        )
    return [
        *entries,
        *_blanks({"Further limitations": "challenges that were not addressed, and what follows from them."}),
    ]


def _distribution(facts: Facts) -> list[Entry]:
    licences = Entry(
        name="Licences",
        value=_amounts("licence", facts.at("ledger data.in_all.by_licence"), facts),
        where=("ledger data.in_all.by_licence[]", "ledger data.tokens"),
        how="shares are of data.tokens",
        blank="links to them, and the licence or terms of use of the whole, with fees.",
    )
    asked = {
        "Method": "how the data are distributed, if they are, and from when on.",
        "Access": "who has access, under which conditions, and what is restricted.",
        "DOI": IF_ANY,
    }
    return [licences, *_blanks(asked)]


def _amounts(name: str, rows: Sequence[Row], facts: Facts, *, most: int = MOST_ROWS) -> str:
    """A table of what was read, by a label; a host or a licence of which nothing was read is left out."""
    tokens = facts.at("ledger data.tokens")
    read = [row for row in rows if row["tokens"]]
    cells = [
        (
            NOT_STATED if row["name"] is None else as_text(row["name"]),
            f"{row['documents']:,}",
            f"{row['tokens']:,}",
            _share(row["tokens"], tokens).strip(" ()"),
            "-" if row["passes"] is None else f"{row['passes']:.2f}",
        )
        for row in read[:most]
    ]
    return table((name, "documents", "tokens", "share", "passes"), cells).rstrip() + _more(read, most)


def _more(rows: Sequence[Any], most: int = MOST_ROWS) -> str:
    """Words on the rows that have no room."""
    return f"\n\nAnd {len(rows) - most:,} more, which the ledger has." if len(rows) > most else ""


def _share(part: int, whole: int) -> str:
    return f" ({part / whole:.2%})" if whole else ""
