"""The public summary of training content that Art. 53(1)(d) of the AI Act asks every provider of a general-purpose AI model for."""

from pretrain.drafts import data_figures, model_figures
from pretrain.drafts.draft import Document, Entry, Section, markdown
from pretrain.drafts.eu_public_summary_domains import FILE_NAME as DOMAINS_FILE
from pretrain.drafts.facts import Facts
from pretrain.drafts.figures import Figure, blank, entry
from pretrain.drafts.ledger_notes import made_from, not_known

FOLLOWS = (
    "the Commission's Explanatory Notice and Template for the Public Summary of Training Content for general-purpose AI models, "
    "C(2025) 5235 final of 24 July 2025, adopted as C(2025) 8311 final of 5 December 2025. Sections and ranges are those of July "
    "2025; its questions are given here in short."
)
BINDS = (
    "Art. 53(1)(d) of Regulation (EU) 2024/1689 binds every provider of a general-purpose AI model, of free and open-source ones "
    "too (Art. 53(2) lifts only points (a) and (b))."
)
YES_OR_NO = "yes or no; if yes, which of the sources in the table above"


def render(facts: Facts) -> str:
    """Return the draft as Markdown."""
    return markdown(document_of(facts))


def document_of(facts: Facts) -> Document:
    """Fill the template."""
    return Document(
        title="Public summary of training content",
        follows=FOLLOWS,
        notes=(BINDS, made_from(facts)),
        sections=(
            _general(facts),
            _characteristics(facts),
            _sources(facts),
            _public(),
            _private(),
            _crawled(facts),
            _users_and_machines(),
            _processing(facts),
            *not_known(facts),
        ),
    )


def _general(facts: Facts) -> Section:
    return Section(
        title="1.1–1.2 Provider and model",
        entries=(
            blank("Version of the summary", "version, with links to earlier ones; date of the last update (DD/MM/YY)"),
            blank("Provider", "name and contact details"),
            blank("Authorised representative", "name and contact details, if the provider is established outside the Union"),
            blank("Versioned model names", "unique identifiers of the model and its versions that this summary covers"),
            entry(
                "Model dependencies",
                model_figures.began_with(facts),
                missing="the model that this one was made from",
                lacks=_with_link(model_figures.began_lacks(facts)),
            ),
            blank("Date of placement on the Union market", "date of each version"),
        ),
    )  # fmt: skip


def _characteristics(facts: Facts) -> Section:
    uncounted = data_figures.uncounted(facts)
    return Section(
        title="1.3 Modalities, size and characteristics",
        entries=(
            entry(
                "Text: training data size",
                data_figures.size_range(facts),
                missing="the range",
                lacks=uncounted and f"the range together with {uncounted}",
            ),
            entry(
                "Text: types of content",
                data_figures.domains_of_sources(facts),
                missing="a general description",
                lacks="a general description, such as fiction, scientific text, source code",
            ),
            blank("Image, audio, video, other", "whether the tokens stand for anything but text, and how much of it"),
            entry(
                "Latest date of data acquisition",
                data_figures.latest_date(facts),
                missing="month and year (MM/YYYY) of the latest acquisition: no document states a date",
                lacks="month and year (MM/YYYY) of the latest acquisition: a document may state when it was written",
            ),
            blank("Ongoing collection", "whether the model is trained on new data after that date"),
            entry(
                "Linguistic characteristics",
                data_figures.by_label(facts, "language"),
                missing="the languages: neither sources nor documents state any",
                lacks="a description, such as of languages of the Union that are covered",
            ),
            blank("Other relevant characteristics", "such as national, regional or demographic ones; may be left out"),
        ),
    )  # fmt: skip


def _sources(facts: Facts) -> Section:
    return Section(
        title="2 List of data sources",
        entries=(
            entry(
                "All sources that training read",
                data_figures.sources(facts),
                missing="the sources",
                lacks="to which of 2.1 to 2.6 each source belongs; the run does not know how it came to be",
            ),
        ),
        note="The template does not ask for this table, nor for the mixture. It is here to be sorted into what follows.",
    )


def _public() -> Section:
    return Section(
        title="2.1 Publicly available datasets",
        entries=(
            blank("Used for training", YES_OR_NO),
            blank("Modalities", "of these datasets"),
            blank(
                "Large datasets",
                "of each that is large as the template defines it: name and link, or where there is none a description with the "
                "dates of collection",
            ),
            blank("Other datasets", "a general description"),
        ),
    )


def _private() -> Section:
    return Section(
        title="2.2 Private datasets of third parties",
        entries=(
            blank("2.2.1 Licensed by rightsholders or their representatives", f"{YES_OR_NO}; modalities"),
            blank(
                "2.2.2 From other third parties",
                f"{YES_OR_NO}; modalities; names of those that are publicly known, a general description of the others",
            ),
        ),
    )


def _crawled(facts: Facts) -> Section:
    of_crawled = "which of these domain names were crawled by the provider or for it, and are to be listed"
    lacking = data_figures.without_host(facts)
    return Section(
        title="2.3 Data crawled and scraped from online sources",
        entries=(
            blank("Crawlers used", YES_OR_NO),
            blank("Names of crawlers", "name or identifier, purpose, and behaviour: robots.txt, captchas, paywalls"),
            blank("Period of collection", "MM/YYYY to MM/YYYY"),
            blank("Content and sources", "a description of what was crawled, and its modalities"),
            entry(
                "Most relevant domain names",
                data_figures.domain_names(facts, listed_in=DOMAINS_FILE),
                missing="the top 10 % of domain names by size of the content (small and medium-sized companies: top 5 %, or 1,000 "
                "if fewer): no document states its host",
                lacks="; ".join([of_crawled, *([lacking] if lacking else [])]),
            ),
        ),
        note="Sizes of domain names are measured in different tokens that training read, which is the text of a site after "
        "extraction and filters, not the bytes that were downloaded.",
    )  # fmt: skip


def _users_and_machines() -> Section:
    return Section(
        title="2.4–2.6 User data, synthetic data, other sources",
        entries=(
            blank("2.4 Data from users of the model", YES_OR_NO),
            blank("2.4 Data from users of other services", f"{YES_OR_NO}; which services, which modalities"),
            blank("2.5 Synthetic data", f"{YES_OR_NO}; modalities, and the models that made it"),
            blank("2.6 Other sources", f"{YES_OR_NO}; a description"),
        ),
    )


def _processing(facts: Facts) -> Section:
    return Section(
        title="3 Data processing aspects",
        entries=(
            blank(
                "3.1 Rights reserved from text and data mining",
                "whether the provider signed the Code of Practice; measures before and during collection to respect reservations "
                "of rights (Art. 4(3) of Directive (EU) 2019/790), such as the protocols that were honoured",
            ),
            _licences(data_figures.by_label(facts, "licence")),
            blank("3.2 Illegal content", "a general description of measures to avoid or remove it"),
            entry(
                "3.3 Other information: documents removed",
                data_figures.removed(facts),
                missing="what was removed before the text was encoded, if it is to be told; no document was removed from a shard",
                lacks="what was removed before the text was encoded, if it is to be told",
            ),
        ),
    )


def _licences(found: Figure | None) -> Entry:
    return entry(
        "3.1 Licences that sources and documents state",
        found,
        missing="licences, if they are to be told: neither sources nor documents state any",
        lacks="what follows from them; the template does not ask for this table",
    )


def _with_link(lacks: str) -> str:
    return lacks and f"{lacks}, with a link to its summary"
