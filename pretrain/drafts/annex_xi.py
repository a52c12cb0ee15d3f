"""Annex XI, section 1 of the AI Act: the technical documentation of a general-purpose AI model, for authorities that ask for it."""

from pretrain.drafts import cost_figures, data_figures, model_figures
from pretrain.drafts.draft import Document, Section, markdown
from pretrain.drafts.facts import Facts
from pretrain.drafts.figures import blank, entry, scientific
from pretrain.drafts.ledger_notes import made_from, not_known

FOLLOWS = (
    "Annex XI, section 1, of Regulation (EU) 2024/1689 of 13 June 2024, as published in the Official Journal on 12 July 2024; its "
    "points are given here in short. Section 2, of models with systemic risk, is not in it."
)


def render(facts: Facts) -> str:
    """Return the draft as Markdown."""
    return markdown(document_of(facts))


def document_of(facts: Facts) -> Document:
    """Fill the annex."""
    return Document(
        title="Technical documentation by Annex XI",
        follows=FOLLOWS,
        notes=(_binds(facts), made_from(facts)),
        sections=(_general(facts), _design(facts), _data(facts), _resources(facts), *not_known(facts)),
    )


def _binds(facts: Facts) -> str:
    full = facts.at("ledger flops.full")
    which = "above" if full > cost_figures.SYSTEMIC_FLOPS else "not above"
    return (
        "**Whom it binds.** Art. 53(1)(a) asks providers of general-purpose AI models to keep this documentation and to give it to "
        "the AI Office and national authorities on request. By Art. 53(2) it does not bind providers of models under a free and "
        "open-source licence whose weights, architecture and use are public, unless the model has systemic risk. Art. 51(2) "
        "presumes high-impact capabilities above 10^25 floating-point operations of training; those of this ledger, "
        f"{scientific(full)}, are {which} it (source: ledger flops.full), which says nothing of computation elsewhere, or of a "
        "designation by the Commission."
    )


def _general(facts: Facts) -> Section:
    return Section(
        title="1 General description",
        entries=(
            blank("(a) Tasks", "what the model is intended to do, and the AI systems in which it can be integrated"),
            blank("(b) Acceptable use policies", "those that apply"),
            blank("(c) Release and distribution", "date of release, methods of distribution"),
            entry("(d) Architecture", model_figures.architecture(facts), missing="the architecture"),
            entry("(d) Number of parameters", model_figures.parameters(facts), missing="the number"),
            entry(
                "(e) Modality and format of inputs and outputs",
                model_figures.context_length(facts),
                missing="modality and format",
                lacks="other modalities, if tokens stand for any; the format",
            ),
            blank("(f) Licence", "the licence of the model"),
        ),
    )


def _design(facts: Facts) -> Section:
    return Section(
        title="2 (a)–(b) Integration and design",
        entries=(
            blank("(a) Technical means for integration", "instructions of use, infrastructure, tools"),
            entry(
                "(b) Training process",
                model_figures.training(facts),
                missing="methods and techniques",
                lacks="key design choices with rationale and assumptions, what the model is optimised for, and later stages",
            ),
            entry(
                "(b) What training began with",
                model_figures.began_with(facts),
                missing="the model that this one was made from",
                lacks=model_figures.began_lacks(facts),
            ),
        ),
    )


def _data(facts: Facts) -> Section:
    return Section(
        title="2 (c) Data used for training, testing and validation",
        entries=(
            entry(
                "Type and provenance",
                data_figures.sources(facts),
                missing="the sources",
                lacks="how each source was obtained and selected",
            ),
            entry(
                "Number of data points",
                data_figures.size(facts),
                missing="the number",
                lacks=data_figures.uncounted(facts),
            ),
            entry(
                "Validation",
                data_figures.held_out(facts),
                missing="data of testing and validation; the run held nothing out",
                lacks="data of evaluations that the run does not know",
            ),
            entry(
                "Scope and main characteristics: languages",
                data_figures.by_label(facts, "language"),
                missing="languages; neither sources nor documents state any",
            ),
            entry(
                "Scope and main characteristics: licences",
                data_figures.by_label(facts, "licence"),
                missing="licences; neither sources nor documents state any",
            ),
            entry(
                "Curation",
                data_figures.removed(facts),
                missing="cleaning and filtering before the text was encoded; no document was removed from a shard",
                lacks="cleaning and filtering before the text was encoded",
            ),
            entry(
                "Unsuitable sources",
                data_figures.overlap(facts),
                missing="measures to detect them; no check of overlap was made (`fanal tokenizer check-overlap`)",
                lacks="other measures to detect them",
            ),
            blank("Identifiable biases", "methods to detect them"),
        ),
    )


def _resources(facts: Facts) -> Section:
    return Section(
        title="2 (d)–(e) Computational resources and energy",
        entries=(
            entry(
                "(d) Floating-point operations",
                cost_figures.operations(facts),
                missing="the number",
                lacks="those of other stages",
            ),
            entry("(d) How they were counted", cost_figures.operations_method(facts), missing="the method"),
            entry(
                "(d) Training time",
                cost_figures.wall_clock(facts),
                missing="the time; the files of the run do not tell that of every start",
            ),
            entry(
                "(d) Hardware",
                cost_figures.hardware_days(facts),
                missing="devices and their days; the files of the run do not tell those of every start",
            ),
            entry(
                "(e) Energy consumption",
                cost_figures.energy(facts),
                missing="known or estimated, also from the computational resources; the run measured none",
                lacks=cost_figures.energy_lacks(facts),
            ),
            entry("(e) How it was measured", cost_figures.energy_method(facts), missing="the method"),
        ),
    )  # fmt: skip
