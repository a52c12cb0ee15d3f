"""The Model Documentation Form of the Code of Practice for General-Purpose AI Models, chapter Transparency."""

from pretrain.drafts import cost_figures, data_figures, model_figures
from pretrain.drafts.draft import Document, Section, markdown
from pretrain.drafts.facts import Facts
from pretrain.drafts.figures import blank, entry
from pretrain.drafts.ledger_notes import made_from, not_known

FOLLOWS = (
    "the Model Documentation Form of the Code of Practice for General-Purpose AI Models, chapter Transparency, of 10 July 2025. "
    "Its items are given here in short."
)
BINDS = (
    "The Code is voluntary; its form is one way to keep the documentation of Art. 53(1)(a) and (b) of Regulation (EU) 2024/1689. "
    "These two points do not bind providers of free and open-source models without systemic risk (Art. 53(2)). The form is for "
    "the AI Office (AIO), national authorities (NCAs) and downstream providers (DPs); energy, computation and training time are "
    "not for DPs."
)


def render(facts: Facts) -> str:
    """Return the draft as Markdown."""
    return markdown(document_of(facts))


def document_of(facts: Facts) -> Document:
    """Fill the form."""
    return Document(
        title="Model documentation",
        follows=FOLLOWS,
        notes=(BINDS, made_from(facts)),
        sections=(
            _general(facts),
            _properties(facts),
            _use(),
            _process(facts),
            _data(facts),
            _computation(facts),
            _energy(facts),
            *not_known(facts),
        ),
    )


def _general(facts: Facts) -> Section:
    return Section(
        title="General information",
        entries=(
            blank("Legal name for the model provider", "the name"),
            blank("Model name", "unique identifier, and the names of the versions that are publicly available"),
            entry(
                "Model authenticity",
                model_figures.hashes(facts),
                missing="a secure hash of the files that are published, or the address of the service",
                lacks=model_figures.hashes_lack(facts),
            ),
            blank("Release date", "date of the first release through any channel"),
            blank("Union market release date", "date of placement on the Union market"),
            entry(
                "Model dependencies",
                model_figures.began_with(facts),
                missing="the model that this one was made from",
                lacks=model_figures.began_lacks(facts),
            ),
        ),
    )


def _properties(facts: Facts) -> Section:
    return Section(
        title="Model properties",
        entries=(
            entry("Model architecture", model_figures.architecture(facts), missing="a description of some 20 words"),
            entry(
                "Design specifications of the model",
                model_figures.training(facts),
                missing="a description",
                lacks="a general description of some 100 words, with rationale and assumptions",
            ),
            entry(
                "Input modalities and maximum size",
                model_figures.context_length(facts),
                missing="modalities and size",
                lacks="other modalities, if tokens stand for any",
            ),
            entry(
                "Output modalities and maximum size",
                model_figures.context_length(facts),
                missing="modalities and size",
                lacks="other modalities, if tokens stand for any",
            ),
            entry("Total model size", model_figures.parameters(facts), missing="parameters, at least two digits"),
        ),
    )


def _use() -> Section:
    return Section(
        title="Distribution, licences and use",
        entries=(
            blank(
                "Distribution channels", "how the model is made available in the Union, and at which level of access"
            ),
            blank("Licence", "a link to it, or its text; its category; other assets that are released"),
            blank("Acceptable use policy", "a link, or that there is none"),
            blank("Intended uses", "a description, or of the uses that are restricted or prohibited"),
            blank("Type and nature of AI systems", "in which the model can be integrated"),
            blank("Technical means for model integration", "instructions, infrastructure, tools"),
            blank("Required hardware", "for use, or N/A"),
            blank("Required software", "for use, or N/A"),
        ),
    )


def _process(facts: Facts) -> Section:
    return Section(
        title="Training process",
        entries=(
            entry(
                "Design specifications of the training process",
                model_figures.training(facts),
                missing="a description",
                lacks="the stages and methods that followed this run, and what each is optimised for, in some 400 words",
            ),
            blank("Decision rationale", "how and why the key decisions were made, in some 200 words"),
        ),
    )


def _data(facts: Facts) -> Section:
    uncounted = data_figures.uncounted(facts)
    return Section(
        title="Data used for training, testing and validation",
        entries=(
            entry(
                "Data type and modality",
                data_figures.domains_of_sources(facts),
                missing="text, images, audio, video, other",
                lacks="the modality; the words are those by which the sources are called",
            ),
            entry(
                "Data provenance",
                data_figures.sources(facts),
                missing="the sources",
                lacks="of each: web crawling, private datasets of third parties, user data, publicly available datasets, synthetic "
                "data, or other means",
            ),
            blank("How data was obtained and selected", "methods, and of private data how the rights to it were obtained"),
            entry(
                "Number of data points (training)",
                data_figures.size(facts),
                missing="with its unit",
                lacks=uncounted,
            ),
            entry(
                "Number of data points (validation)",
                data_figures.held_out(facts),
                missing="with its unit; the run held nothing out",
                lacks="text of evaluations that the run does not know",
            ),
            entry(
                "Scope and main characteristics: languages",
                data_figures.by_label(facts, "language"),
                missing="languages, domains, periods; neither sources nor documents state a language",
                lacks="a description",
            ),
            entry(
                "Scope and main characteristics: dates",
                data_figures.latest_date(facts),
                missing="periods; no document states a date",
                lacks="what the dates mean",
            ),
            entry(
                "Data curation methodologies",
                data_figures.removed(facts),
                missing="cleaning, filtering, deduplication, before the text was encoded; no document was removed from a shard",
                lacks="cleaning, filtering, deduplication, before the text was encoded",
            ),
            entry(
                "Measures to detect unsuitable data sources: overlap with held-out text",
                data_figures.overlap(facts),
                missing="the measures; no check of overlap was made (`fanal tokenizer check-overlap`)",
                lacks="other measures, such as against illegal content and personal data",
            ),
            blank("Measures to detect identifiable biases", "the measures"),
        ),
    )  # fmt: skip


def _computation(facts: Facts) -> Section:
    return Section(
        title="Computational resources during training",
        entries=(
            entry(
                "Training time: wall clock",
                cost_figures.wall_clock(facts),
                missing="days, at least two digits; the files of the run do not tell the time of every start",
                lacks="time of other stages; NCAs are given the range alone",
            ),
            entry(
                "Training time: hardware-days",
                cost_figures.hardware_days(facts),
                missing="days, at least two digits; the files of the run do not tell the time of every start",
                lacks="hardware of other stages",
            ),
            entry("Training period", cost_figures.period(facts), missing="from and to; the form does not ask for it"),
            entry(
                "Amount of computation used for training",
                cost_figures.operations(facts),
                missing="floating-point operations",
                lacks=_computation_lacks(facts),
            ),
            entry("Measurement methodology", cost_figures.operations_method(facts), missing="the method"),
        ),
    )


def _computation_lacks(facts: Facts) -> str:
    uncounted = data_figures.uncounted(facts)
    others = "computation of other stages, such as fine-tuning or the making of synthetic data"
    return others if not uncounted else f"{others}; that of {uncounted}"


def _energy(facts: Facts) -> Section:
    return Section(
        title="Energy consumption",
        entries=(
            entry(
                "Amount of energy used for training",
                cost_figures.energy(facts),
                missing="MWh, at least two digits, measured or estimated; N/A if a provider of computation or hardware withholds "
                "what is needed. The run measured none",
                lacks=cost_figures.energy_lacks(facts),
            ),
            entry(
                "Measurement methodology (training)",
                cost_figures.energy_method(facts),
                missing="how it was measured or estimated, in some 100 words",
                lacks="the boundary that the figure is to have: the form defines none",
            ),
            entry(
                "CO2 (the form does not ask for it)",
                cost_figures.co2(facts),
                missing="tonnes, if they are to be told (`--co2-g-per-kwh`)",
            ),
            blank("Benchmarked amount of computation used for inference", "floating-point operations of a task"),
            blank("Measurement methodology (inference)", "the task and the hardware"),
        ),
    )  # fmt: skip
