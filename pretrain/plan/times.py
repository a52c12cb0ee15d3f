"""Time of a step on a machine, from the work of its ranks: a roofline with stated fractions. Pure arithmetic."""

from dataclasses import dataclass

from pretrain.config.schema import RunConfig
from pretrain.config.steps import last_batch_size
from pretrain.plan.machine import FigureConfig, MachineConfig
from pretrain.plan.shapes import Shapes
from pretrain.plan.work import StepWork, Work, micro_batch_work, step_work

FORWARD = 1 / 3
"""Part of a step's time that a sample takes in a validation: a backward is two forwards."""


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds of one step, by what they go into; they add up to the step."""

    products: float
    attention: float
    memory: float
    """Elementwise kernels."""
    communication: float
    """Messages that nothing hides: of tensor, context and pipeline parallelism, and of gradients and weights."""
    bubble: float
    """Waiting of the busiest stage while the pipeline fills and drains."""
    update: float
    """Of the optimizer, with all that is done once a step on a rank."""
    host: float
    """Waiting for the host to start kernels."""
    rest: float
    """What real steps take beyond these parts, by the machine's step_factor: kernels that are slower in a long run than alone, or
    not fused, waits, data."""

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return sum(vars(self).values())


@dataclass(frozen=True, kw_only=True)
class _MicroBatch:
    """Seconds of one micro batch on a stage."""

    products: float
    attention: float
    memory: float
    communication: float
    host: float
    backward: float
    """Of all of it, the backward's."""

    @property
    def whole(self) -> float:
        return self.products + self.attention + self.memory + self.communication + self.host


def step_times(run: RunConfig, machine: MachineConfig, shapes: Shapes) -> Times:
    """Return the parts of a step's time.

    The busiest stage computes all micro batches; the others' times of one, divided by the virtual stages, are its waiting
    (Narayanan et al., 2021, arXiv:2104.04473, section 2.2).
    """
    links = Links(machine, shapes)
    alike = [_alike(run, shapes, stage) for stage in range(shapes.pipeline)]
    ones = {stage: _micro_batch(run, machine, links, micro_batch_work(run, shapes, stage)) for stage in set(alike)}
    stages = [ones[stage] for stage in alike]
    slowest = max(range(shapes.pipeline), key=lambda stage: stages[stage].whole)
    busy, count = stages[slowest], shapes.micro_batches
    waits = sum(one.whole for stage, one in enumerate(stages) if stage != slowest) / shapes.virtual
    works = {stage: step_work(run, shapes, stage) for stage in ones}
    steps = [works[stage] for stage in alike]
    exposed = max(_exposed(run, links, one, stages, stage, shapes) for stage, one in enumerate(steps))
    update = max(one.update_bytes for one in steps) / _memory_rate(machine, "fp32")  # nearly all of it is fp32
    parts = {
        "products": busy.products * count,
        "attention": busy.attention * count,
        "memory": busy.memory * count,
        "communication": busy.communication * count + exposed,
        "bubble": waits,
        "update": update,
        "host": busy.host * count,
    }
    factor = 1.0 if machine.step_factor is None else machine.step_factor.value
    return Times(**parts, rest=(factor - 1) * sum(parts.values()))


def _alike(run: RunConfig, shapes: Shapes, stage: int) -> int:
    """Return the first stage that has the same work as a stage: those between the ends do where their layers are as many."""
    if stage in (0, shapes.pipeline - 1) or run.model.sliding_window is not None:
        return stage
    return next(one for one in range(1, stage + 1) if _sizes(shapes, one) == _sizes(shapes, stage))


def _sizes(shapes: Shapes, stage: int) -> list[int]:
    return [shapes.chunks[chunk] for chunk in shapes.chunks_of(stage)]


def validation_s(run: RunConfig, step_s: float) -> float:
    """Return the seconds of one validation, each sample of which takes a forward's part of its time in a step; 0 without one.

    Args: step_s: of the run's last batch.
    """
    num_sources = len(run.data.validation) or (len(run.data.train) if run.data.validation_fraction else 0)
    return num_sources * run.train.validation_samples / last_batch_size(run.train) * step_s * FORWARD


@dataclass(frozen=True, kw_only=True)
class Link:
    """What the ranks of a group reach with one another: of gathers, which copy, and of sums, which add as well."""

    rate: float
    """Bytes a second of a gather, or of one rank's message to another."""
    latency: float
    """Seconds of one of no bytes."""
    sum_rate: float
    sum_latency: float

    def gather_s(self, num_bytes: float, ranks: int) -> float:
        """Return the seconds of a gather of so many bytes in all, in a ring."""
        return _ring(self.rate, self.latency, num_bytes, ranks)

    def sum_s(self, num_bytes: float, ranks: int) -> float:
        """Return the seconds of a reduce-scatter of so many bytes in all, in a ring."""
        return _ring(self.sum_rate, self.sum_latency, num_bytes, ranks)


def _ring(rate: float, latency: float, num_bytes: float, ranks: int) -> float:
    return 0.0 if ranks == 1 or not num_bytes else num_bytes * (ranks - 1) / ranks / rate + latency


class Links:
    """Seconds of collectives in the groups of a layout. Ranks count tensor first, then context, data, and pipeline last.

    Between nodes, the ranks of a group that share a node share its ports: each of NCCL's rings goes through one port into a node,
    through all of the group's GPUs there, and out again, so that only one in so many bytes crosses the network at each port.
    """

    def __init__(self, machine: MachineConfig, shapes: Shapes) -> None:
        self._machine, self._node = machine, int(machine.gpus_per_node.value)
        self.tensor = self._link(shapes.tensor, apart=1)
        self.context = self._link(shapes.tensor * shapes.context, apart=shapes.tensor)
        self.data = self._link(shapes.tensor * shapes.context * shapes.data, apart=shapes.tensor)
        self.pipeline = self._link(shapes.tensor * shapes.context * shapes.data * shapes.pipeline, apart=self._node)

    def _link(self, reach: int, *, apart: int) -> Link:
        """Return the link between ranks that lie within ``reach``, each so far ``apart``."""
        machine = self._machine
        inside = machine.node_gb_per_s.value
        if reach <= self._node:
            rate, latency = inside, machine.node_latency_us
            sum_latency = machine.node_sum_latency_us or latency
        else:
            sharing = max(1, self._node // apart)
            rate, latency = min(inside, machine.network_gb_per_s.value * sharing), machine.network_latency_us
            sum_latency = latency
        return Link(
            rate=rate * 1e9 * machine.collective_fraction.value,
            latency=latency.value * 1e-6,
            sum_rate=rate * 1e9 * (machine.sum_fraction or machine.collective_fraction).value,
            sum_latency=sum_latency.value * 1e-6,
        )


def attention_fraction(run: RunConfig, machine: MachineConfig) -> float:
    """Return the share of the peak that the run's attention reaches; where auto decides, that of torch's own."""
    if run.model.attention_backend in ("flash4", "flash3", "flash"):
        return machine.flash3_fraction.value
    return _own_or(machine.fp32_attention_fraction, machine.attention_fraction, run.train.precision)


def _own_or(fp32: FigureConfig | None, figure: FigureConfig, precision: str) -> float:
    """Return a share in a precision; where that of fp32 is not known apart, the one share there is."""
    return (figure if precision == "bf16" or fp32 is None else fp32).value


def _memory_rate(machine: MachineConfig, precision: str) -> float:
    """Return what elementwise kernels read and write in a precision, bytes a second."""
    share = _own_or(machine.fp32_memory_fraction, machine.memory_fraction, precision)
    return machine.memory_gb_per_s.value * share * 1e9


def peak_flops(run: RunConfig, machine: MachineConfig) -> float:
    """Return the peak of products in the run's precision, operations a second."""
    return (machine.bf16_tflops if run.train.precision == "bf16" else machine.fp32_tflops).value * 1e12


def _micro_batch(run: RunConfig, machine: MachineConfig, links: Links, work: Work) -> _MicroBatch:
    peak = peak_flops(run, machine)
    share = _own_or(machine.fp32_product_fraction, machine.product_fraction, run.train.precision)
    products = work.product_flops / (peak * share)
    attention = work.attention_flops / (peak * attention_fraction(run, machine))
    memory = work.memory_bytes / _memory_rate(machine, run.train.precision)
    communication = _communication(run, links, work, products)
    device = products + attention + memory + communication
    starts = work.layers * machine.host_ms_per_layer.value / 1e3
    host = max(0.0, starts - device) if _works_beside(run) else starts
    return _MicroBatch(
        products=products, attention=attention, memory=memory, communication=communication, host=host,
        backward=(device + host) * work.backward_share,
    )  # fmt: skip


def _works_beside(run: RunConfig) -> bool:
    """Return whether kernels, their starts and messages go on beside each other; on a CPU one core does all of it in turn."""
    return run.parallel.device != "cpu"


def _communication(run: RunConfig, links: Links, work: Work, products: float) -> float:
    """Return the seconds of a micro batch's messages that nothing hides."""
    parallel = run.parallel
    gather = links.tensor.gather_s(work.tensor_bytes, parallel.tensor_model_parallel_size)
    scatter = links.tensor.sum_s(work.tensor_bytes, parallel.tensor_model_parallel_size)
    beside = products / 3  # those of the first projections, backward: what gathers and scatters go beside
    waits = gather * (work.tensor_calls - work.tensor_sums) + scatter * work.tensor_sums
    hidden = (gather + scatter) / 2 * work.tensor_hidden_calls
    waits += max(0.0, hidden - (beside if _works_beside(run) else 0.0))
    pipeline = links.pipeline
    overlapped = parallel.virtual_pipeline_model_parallel_size > 1 and _works_beside(run)
    if not overlapped:
        waits += work.pipeline_messages * (work.pipeline_bytes / pipeline.rate + pipeline.latency)
    return waits + _context(run, links.context, work)


def _context(run: RunConfig, link: Link, work: Work) -> float:
    """Return the seconds that keys and values are waited for: half, where one piece goes beside another's attention."""
    beside, ranks = _works_beside(run), run.parallel.context_parallel_size
    pieces = 1 if beside else work.context_pieces
    piece = work.context_bytes / pieces
    both = link.gather_s(piece, ranks) * work.context_gathers + link.sum_s(piece, ranks) * work.context_sums
    return both / 2 if beside else both * pieces


def _exposed(
    run: RunConfig, links: Links, work: StepWork, stages: list[_MicroBatch], stage: int, shapes: Shapes
) -> float:
    """Return the seconds of summing gradients and gathering weights that a step waits for.

    The first stage sends buckets beside its last backward. The others send all of theirs behind their own, while the stages
    before them still compute (pretrain/model/gpt.py); so it is with gathers and the first forward.
    """
    backward = stages[0].backward / shapes.virtual
    before = sum(one.backward for one in stages[:stage]) / shapes.virtual
    forward = (stages[0].whole - stages[0].backward) / shapes.virtual
    first = sum(one.whole - one.backward for one in stages[:stage]) / shapes.virtual
    reduce = links.data.sum_s(work.reduced_bytes, shapes.shards)
    gather = links.data.gather_s(work.gathered_bytes, shapes.shards)
    if run.parallel.overlap_grad_reduce and _works_beside(run):
        reduce = max(0.0, reduce - (before if stage else backward))
    if run.parallel.overlap_param_gather and _works_beside(run):
        gather = max(0.0, gather - (first if stage else forward))
    return reduce + gather
