"""A site against the Slurm that it describes: what differs, what agrees, and what could not be seen."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from fanal.exit_codes import FINISHED, WRONG_INPUT
from launch.sites.books import Books, cores_of, gpus_of, hours_of, least, read_books, tres_of
from launch.sites.schema import QosConfig, SiteConfig


@dataclass(frozen=True)
class Finding:
    """One line of the answer."""

    kind: Literal["ok", "differs", "not checked"]
    text: str


def site_check(site: SiteConfig, site_name: str) -> int:
    """Print what the Slurm of this machine says of a site. Returns the exit code: WRONG_INPUT if anything differs.

    Raises: SlurmError if there is no Slurm here, or it does not answer.
    """
    findings = list(findings_of(site, read_books()))
    for finding in findings:
        print(f"{finding.kind}: {finding.text}")
    wrong = sum(finding.kind == "differs" for finding in findings)
    advice = f"{wrong} difference(s); a file with what is above and `base: {site_name}` works, by --site"
    print(f"{site_name}: {advice if wrong else 'fits'}")
    return WRONG_INPUT if wrong else FINISHED


def findings_of(site: SiteConfig, books: Books) -> Iterator[Finding]:
    """Yield what is found, from partitions to settings."""
    for partition in _partitions(site, books):
        yield from _partition(partition, books)
    yield from _default_time(site, books)
    for qos in site.qos:
        yield from _slot(qos, site, books)
    yield from _nodes(site, books)
    yield from _settings(site, books)


def _default_partition(books: Books) -> str:
    """Return the partition of jobs that name none; empty if a cluster has none."""
    return next((name for name, fields in books.partitions.items() if fields.get("Default") == "YES"), "")


def _partitions(site: SiteConfig, books: Books) -> list[str]:
    """Return the partitions that jobs of a site name, each once."""
    encode = site.encode
    named = [one.partition or site.partition for one in site.qos] or [site.partition]
    named += [encode.partition, encode.merge_partition] if encode else []
    return list(dict.fromkeys(name for name in named if name)) or [_default_partition(books)]


def _partition(name: str, books: Books) -> Iterator[Finding]:
    fields = books.partitions.get(name)
    if fields is None:
        yield Finding(
            "differs", f"partition {name or '(a default one)'} is not there; there are {_some(books.partitions)}"
        )
    elif fields.get("State", "UP") != "UP":
        yield Finding("differs", f"partition {name} is {fields['State']}, and takes no jobs")
    else:
        yield Finding("ok", f"partition {name}, {fields.get('TotalNodes', '?')} nodes")


def _default_time(site: SiteConfig, books: Books) -> Iterator[Finding]:
    """Compare the walltime of jobs that ask for none."""
    name = _partitions(site, books)[0]
    there = books.partitions.get(name, {}).get("DefaultTime", "")
    hours = hours_of(there)
    said = None if hours is None else hours * 60
    here = site.default_walltime_minutes
    if here is None:
        yield Finding(
            "not checked", f"default_walltime_minutes is null, and DefaultTime of {name} is {there or 'not said'}"
        )
    elif said != here:
        yield Finding(
            "differs", f"default_walltime_minutes is {here:g}, and DefaultTime of {name} is {there or 'not said'}"
        )
    else:
        yield Finding("ok", f"default_walltime_minutes {here:g}")


def _slot(qos: QosConfig, site: SiteConfig, books: Books) -> Iterator[Finding]:
    """Compare hours and GPUs of what a job may ask for."""
    partition = books.partitions.get(qos.partition or site.partition or _default_partition(books))
    if partition is None:
        return  # said before
    own = {} if qos.partition else books.qos.get(qos.name, {})
    if not qos.partition:
        if books.why_no_qos:
            yield Finding("not checked", f"qos {qos.name}: {books.why_no_qos}")
        elif not own:
            yield Finding("differs", f"qos {qos.name} is not there; there are {_some(books.qos)}")
            return
        if not _allows(partition, qos.name):
            lists = ", ".join(f"{key}={partition[key]}" for key in ("AllowQos", "DenyQos") if key in partition)
            yield Finding(
                "differs", f"qos {qos.name} is not allowed in partition {partition['PartitionName']}: {lists}"
            )
    of_partition = books.qos.get(partition.get("QoS", ""), {})
    is_known = bool(qos.partition or own)
    yield from _compare(
        f"max_hours of {qos.name}", qos.max_hours, _hours(partition, own, of_partition), is_known=is_known
    )
    most, fewest = _gpus(partition, own, of_partition, site)
    yield from _compare(f"max_gpus of {qos.name}", qos.max_gpus, most, is_known=is_known)
    yield from _compare(f"min_gpus of {qos.name}", qos.min_gpus, fewest, is_known=is_known, at_least=True)


def _allows(partition: dict[str, str], qos: str) -> bool:
    allowed, denied = partition.get("AllowQos", "ALL"), partition.get("DenyQos", "")
    return (allowed in ("ALL", "N/A", "") or qos in allowed.split(",")) and qos not in denied.split(",")


def _hours(partition: dict[str, str], own: dict[str, str], of_partition: dict[str, str]) -> float | None:
    """Return the longest walltime in hours: the smallest of all limits, unless the QoS comes before the partition's by its flag."""
    by_qos = hours_of(own.get("MaxWall", ""))
    if by_qos is not None and "PartitionTimeLimit" in own.get("Flags", "").split(","):
        return by_qos
    return least(by_qos, hours_of(of_partition.get("MaxWall", "")), hours_of(partition.get("MaxTime", "")))


def _gpus(
    partition: dict[str, str], own: dict[str, str], of_partition: dict[str, str], site: SiteConfig
) -> tuple[int | None, int]:
    """Return (most GPUs of a job, fewest), of limits in GPUs, in nodes and in cores."""
    a_node = max(1, site.gpus_per_node)

    def in_gpus(tres: dict[str, int]) -> Iterator[int | None]:
        yield tres.get("gres/gpu")
        yield tres["node"] * a_node if "node" in tres else None
        yield tres["cpu"] * a_node // site.cores_per_node if "cpu" in tres else None

    nodes = partition.get("MaxNodes", "")
    limits = [int(nodes) * a_node if nodes.isdecimal() else None]
    for fields in (own, of_partition):
        limits += in_gpus(tres_of(fields.get("MaxTRES", "")))
    fewest = [number or 0 for fields in (own, of_partition) for number in in_gpus(tres_of(fields.get("MinTRES", "")))]
    least_nodes = partition.get("MinNodes", "0")
    fewest.append(int(least_nodes) * a_node if least_nodes.isdecimal() and int(least_nodes) > 1 else 0)
    return least(*limits), max(fewest)


def _compare(
    what: str, here: float | None, there: float | None, *, is_known: bool, at_least: bool = False
) -> Iterator[Finding]:
    """Compare a bound of the site with the one there.

    Args: is_known, whether all limits there were seen; else only one that is narrower than the site's is a difference. at_least,
    whether it is a least number.
    """
    is_narrower = there is not None and (here is None or (there > here if at_least else there < here))
    if here == there or not (is_known or is_narrower):
        if is_known and here is not None and here != 0:
            yield Finding("ok", f"{what} {here:g}")
        return
    yield Finding("differs", f"{what} is {_number(here)}, and Slurm says {_number(there)}")


def _nodes(site: SiteConfig, books: Books) -> Iterator[Finding]:
    """Compare what nodes have: GPUs, cores, processor, features."""
    for name in list(dict.fromkeys(one.partition or site.partition for one in site.qos)) or [site.partition]:
        name = name or _default_partition(books)
        there = [node for node in books.nodes.values() if name in node.get("Partitions", "").split(",")]
        if name not in books.partitions:
            continue
        fitting = [node for node in there if _has_features(node, site.constraint)]
        if not fitting:
            features = {one for node in there for one in _features(node)}
            yield Finding(
                "differs",
                f"no node of partition {name} has constraint {site.constraint!r}; there are {_some(features)}",
            )
            continue
        yield from _agree(f"gpus_per_node of {name}", site.gpus_per_node, map(gpus_of, fitting))
        cores = [cores_of(node, one_thread=site.hint == "nomultithread") for node in fitting]
        yield from _agree(f"cores_per_node of {name}", site.cores_per_node, cores)
        kinds = [node["Arch"] for node in fitting if node.get("Arch")]
        if kinds and site.architecture:
            yield from _agree(f"architecture of {name}", site.architecture, kinds)


def _features(node: dict[str, str]) -> list[str]:
    return [one for one in node.get("AvailableFeatures", "").split(",") if one and one != "(null)"]


def _has_features(node: dict[str, str], constraint: str) -> bool:
    """Whether a node has every feature of a constraint joined by &; what is more than that is not judged here."""
    if not constraint or set(constraint) & set("|[]*()!"):
        return True
    return set(constraint.split("&")) <= set(_features(node))


def _agree(what: str, here: object, there: Iterable[object]) -> Iterator[Finding]:
    """Compare a value with that of every node."""
    found = list(there)
    others = sorted({value for value in found if value != here}, key=str)
    if others:
        count = sum(value != here for value in found)
        yield Finding("differs", f"{what} is {here}, and {count} of {len(found)} nodes have {_some(others)}")
    else:
        yield Finding("ok", f"{what} {here}, all {len(found)} nodes")


def _settings(site: SiteConfig, books: Books) -> Iterator[Finding]:
    """Compare what holds for the whole cluster."""
    kinds = books.settings.get("GresTypes", "").split(",")
    if site.gpus_per_node and "gpu" not in kinds:
        yield Finding(
            "differs", f"gpus_per_node is {site.gpus_per_node}, and GresTypes ({','.join(kinds)}) has no gpu to ask for"
        )
    enforced = books.settings.get("AccountingStorageEnforce", "none")
    if "associations" in enforced.split(",") and not site.needs_account:
        text = f"needs_account is false, and AccountingStorageEnforce is {enforced}: who has no default account must name one"
        yield Finding("not checked", text)


def _number(value: float | None) -> str:
    return "without limit" if value is None else f"{value:g}"


def _some(values: Iterable[object]) -> str:
    """Return a few values for a message."""
    texts = [str(value) for value in values]
    return ", ".join(texts[:8]) + (f" and {len(texts) - 8} more" if len(texts) > 8 else "") if texts else "none"
