"""What Slurm's commands print, as sites are compared with it."""

from dataclasses import replace

import pytest

from launch import slurm
from launch.sites.books import Books, by_name, cores_of, gpus_of, hours_of, qos_of, read_books, settings_of, tres_of
from launch.sites.check import findings_of, site_check
from launch.sites.site import load_site

PARTITION = (
    "PartitionName=gpu_p6 AllowGroups=ALL AllowAccounts=ALL AllowQos=qos_gpu_h100-t3,qos_gpu_h100-dev,qos_gpu_h100-t4 AllocNodes=ALL "
    "Default=NO QoS=N/A DefaultTime=00:10:00 DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=UNLIMITED "
    "MaxTime=4-04:00:00 MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED Nodes=h[1-2] PriorityJobFactor=1 PriorityTier=1 RootOnly=NO "
    "ReqResv=NO OverSubscribe=NO OverTimeLimit=NONE PreemptMode=OFF State=UP TotalCPUs=192 TotalNodes=2 JobDefaults=(null) "
    "DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED TRES=cpu=192,mem=1000000M,node=2,billing=192\n"
)
NODE = (
    "NodeName={name} Arch=x86_64 CoresPerSocket=48  CPUAlloc=0 CPUEfctv=192 CPUTot=192 CPULoad=0.02 AvailableFeatures=h100,gen3 "
    "ActiveFeatures=h100,gen3 Gres=gpu:h100:4(S:0-1) NodeAddr={name} NodeHostName={name}  RealMemory=500000 Sockets=2 Boards=1 "
    "State=IDLE ThreadsPerCore=2 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A Partitions=gpu_p6,prepost  BootTime=None "
    "SlurmdStartTime=None Reason=Not responding [root@now]\n"
)
SETTINGS = """\
Configuration data as of 2026-11-30T03:52:13
AccountingStorageEnforce = associations,limits,qos,safe
GresTypes               = gpu
KillWait                = 30 sec
"""
QOS = """\
normal||||
qos_gpu_h100-t3|20:00:00|gres/gpu=512||DenyOnLimit
qos_gpu_h100-dev|02:00:00|gres/gpu:h100=32||DenyOnLimit,PartitionTimeLimit
qos_gpu_h100-t4|4-04:00:00|cpu=1536,node=16||
qos_cpu-t3|20:00:00|||
"""
RECORDED_QOS = """\
normal||||
acc_ehpc|3-00:00:00|cpu=8000||
acc_debug|02:00:00|cpu=640||DenyOnLimit
acc_xehpc|3-00:00:00|||PartitionTimeLimit
boost_qos_bprod|1-00:00:00||node=128|
boost_qos_lprod|4-00:00:00|node=8||
qos_gpu_h100-t3|20:00:00|gres/gpu=512||
"""
"""What sacctmgr of Slurm 22.05.8 printed, with slurmdbd on MariaDB 10.11, for QoS that were added to it."""
RECORDED_PARTITION = (
    "PartitionName=acc AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=NO QoS=N/A DefaultTime=00:30:00 "
    "DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=UNLIMITED MaxTime=3-00:00:00 MinNodes=0 LLN=NO "
    "MaxCPUsPerNode=UNLIMITED Nodes=as[001-160] PriorityJobFactor=1 PriorityTier=1 RootOnly=NO ReqResv=NO OverSubscribe=NO "
    "OverTimeLimit=NONE PreemptMode=OFF State=UP TotalCPUs=25600 TotalNodes=160 SelectTypeParameters=NONE JobDefaults=(null) "
    "DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED TRES=cpu=25600,mem=78125G,node=160,billing=25600\n"
)
RECORDED_NODE = (
    "NodeName=as001 CoresPerSocket=40  CPUAlloc=0 CPUEfctv=160 CPUTot=160 CPULoad=N/A AvailableFeatures=(null) ActiveFeatures=(null) "
    "Gres=gpu:4 NodeAddr=as001 NodeHostName=as001  RealMemory=500000 AllocMem=0 FreeMem=N/A Sockets=2 Boards=1 "
    "State=IDLE+CLOUD+POWERED_DOWN ThreadsPerCore=2 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A Partitions=cpu,acc  BootTime=None "
    "SlurmdStartTime=None LastBusyTime=Unknown CfgTRES=cpu=160,mem=500000M,billing=160 AllocTRES= CapWatts=n/a CurrentWatts=0\n"
)
BOOKS = Books(
    partitions=by_name(
        PARTITION + PARTITION.replace("gpu_p6", "cpu_p1") + PARTITION.replace("gpu_p6", "prepost"), "PartitionName"
    ),
    nodes=by_name(NODE.format(name="h1") + NODE.format(name="h2"), "NodeName"),
    settings=settings_of(SETTINGS),
    qos=qos_of(QOS),
)
SITE = load_site("jean-zay-h100")


def differing(books: Books) -> list[str]:
    return [finding.text for finding in findings_of(SITE, books) if finding.kind == "differs"]


def with_qos(**changes: str) -> Books:
    """The books, with other fields of one quality of service."""
    return replace(BOOKS, qos={**BOOKS.qos, "qos_gpu_h100-t3": {**BOOKS.qos["qos_gpu_h100-t3"], **changes}})


def with_partition(**changes: str) -> Books:
    return replace(BOOKS, partitions={**BOOKS.partitions, "gpu_p6": {**BOOKS.partitions["gpu_p6"], **changes}})


def with_node(**changes: str) -> Books:
    return replace(BOOKS, nodes={**BOOKS.nodes, "h2": {**BOOKS.nodes["h2"], **changes}})


def test_a_site_fits_books_that_say_the_same() -> None:
    assert differing(BOOKS) == []
    agreed = {finding.text for finding in findings_of(SITE, BOOKS) if finding.kind == "ok"}
    assert agreed >= {
        "max_hours of qos_gpu_h100-t3 20", "max_gpus of qos_gpu_h100-dev 32", "max_gpus of qos_gpu_h100-t4 64", "max_hours of qos_gpu_h100-t4 100",
        "gpus_per_node of gpu_p6 4, all 2 nodes", "cores_per_node of gpu_p6 96, all 2 nodes", "architecture of gpu_p6 x86_64, all 2 nodes",
    }  # fmt: skip


def test_a_site_is_compared_with_what_a_slurm_with_accounts_printed() -> None:
    books = Books(
        partitions=by_name(RECORDED_PARTITION, "PartitionName"), nodes=by_name(RECORDED_NODE, "NodeName"), settings=settings_of(SETTINGS),
        qos=qos_of(RECORDED_QOS),
    )  # fmt: skip
    assert [(one.kind, one.text) for one in findings_of(load_site("marenostrum5"), books)] == [
        ("ok", "partition acc, 160 nodes"),
        ("not checked", "default_walltime_minutes is null, and DefaultTime of acc is 00:30:00"),
        ("ok", "max_hours of acc_ehpc 72"),
        ("ok", "max_gpus of acc_ehpc 400"),
        ("ok", "max_hours of acc_debug 2"),
        ("ok", "max_gpus of acc_debug 32"),
        ("ok", "max_hours of acc_xehpc 72"),
        ("ok", "gpus_per_node of acc 4, all 1 nodes"),
        ("ok", "cores_per_node of acc 80, all 1 nodes"),
    ]
    leonardo = Books(
        partitions=by_name(RECORDED_PARTITION.replace("=acc ", "=boost_usr_prod ").replace("3-00:", "4-00:"), "PartitionName"),
        nodes={}, settings=books.settings, qos=books.qos,
    )  # fmt: skip
    found = [one.text for one in findings_of(load_site("leonardo"), leonardo) if one.kind == "differs"]
    assert [text for text in found if text.startswith("qos boost_qos_dbg is not there; there are normal, acc_ehpc, ")]
    assert "max_gpus of normal is 256, and Slurm says without limit" in found
    assert not [text for text in found if "prod" in text and "gpus" in text], (
        "fewest and most are as they were recorded"
    )


@pytest.mark.parametrize(
    ("books", "said"),
    [
        (with_qos(MaxWall="10:00:00"), "max_hours of qos_gpu_h100-t3 is 20, and Slurm says 10"),
        (with_qos(MaxWall=""), "max_hours of qos_gpu_h100-t3 is 20, and Slurm says 100"),
        (with_qos(MaxTRES="gres/gpu=256"), "max_gpus of qos_gpu_h100-t3 is 512, and Slurm says 256"),
        (with_qos(MaxTRES="node=64"), "max_gpus of qos_gpu_h100-t3 is 512, and Slurm says 256"),
        (with_qos(MaxTRES="cpu=6144"), "max_gpus of qos_gpu_h100-t3 is 512, and Slurm says 256"),
        (with_qos(MaxTRES=""), "max_gpus of qos_gpu_h100-t3 is 512, and Slurm says without limit"),
        (with_qos(MinTRES="node=4"), "min_gpus of qos_gpu_h100-t3 is 0, and Slurm says 16"),
        (replace(BOOKS, qos=qos_of("normal||||")), "qos qos_gpu_h100-t3 is not there; there are normal"),
        (with_partition(AllowQos="qos_gpu_h100-t4"), "qos qos_gpu_h100-t3 is not allowed in partition gpu_p6: AllowQos=qos_gpu_h100-t4"),
        (with_partition(AllowQos="ALL", DenyQos="qos_gpu_h100-t3"), "qos qos_gpu_h100-t3 is not allowed in partition gpu_p6: AllowQos=ALL, DenyQos=qos_gpu_h100-t3"),
        (with_partition(State="DRAIN"), "partition gpu_p6 is DRAIN, and takes no jobs"),
        (with_partition(DefaultTime="NONE"), "default_walltime_minutes is 10, and DefaultTime of gpu_p6 is NONE"),
        (with_partition(QoS="qos_cpu-t3"), "max_hours of qos_gpu_h100-t4 is 100, and Slurm says 20"),
        (with_node(Gres="gpu:2"), "gpus_per_node of gpu_p6 is 4, and 1 of 2 nodes have 2"),
        (with_node(ThreadsPerCore="1"), "cores_per_node of gpu_p6 is 96, and 1 of 2 nodes have 192"),
        (with_node(Arch="aarch64"), "architecture of gpu_p6 is x86_64, and 1 of 2 nodes have aarch64"),
        (replace(BOOKS, nodes={}), "no node of partition gpu_p6 has constraint 'h100'; there are none"),
        (replace(BOOKS, partitions={}), "partition gpu_p6 is not there; there are none"),
        (replace(BOOKS, settings={"GresTypes": "(null)"}), "gpus_per_node is 4, and GresTypes ((null)) has no gpu to ask for"),
    ],
)  # fmt: skip
def test_each_difference_is_named(books: Books, said: str) -> None:
    assert said in differing(books)


def test_a_site_that_needs_no_account_is_told_where_jobs_need_one() -> None:
    found = [one for one in findings_of(replace(SITE, needs_account=False), BOOKS) if "needs_account" in one.text]
    said = "needs_account is false, and AccountingStorageEnforce is associations,limits,qos,safe: who has no default account must name one"
    assert [(one.kind, one.text) for one in found] == [("not checked", said)]


def test_a_qos_that_comes_before_its_partition_has_the_last_word() -> None:
    longer = with_partition(MaxTime="01:00:00")
    assert "max_hours of qos_gpu_h100-t3 is 20, and Slurm says 1" in differing(longer)
    assert not [text for text in differing(longer) if "h100-dev" in text], "its flag says so"


def test_without_accounts_a_least_size_of_a_partition_is_seen() -> None:
    books = replace(with_partition(MinNodes="8"), qos={}, why_no_qos="no accounts")
    assert differing(books) == [f"min_gpus of {one.name} is 0, and Slurm says 32" for one in SITE.qos]


def test_without_accounts_narrower_partitions_are_seen_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = {
        "partition": PARTITION.replace("4-04:00:00", "10:00:00"),
        "node": NODE.format(name="h1"),
        "config": SETTINGS,
    }

    def ask(*command: str) -> str:
        if command[0] == "sacctmgr":
            raise slurm.SlurmError("sacctmgr failed (1): You are not running a supported accounting_storage plugin")
        return answers[command[2]]

    monkeypatch.setattr(slurm, "ask", ask)
    assert "not running" in read_books().why_no_qos
    assert site_check(replace(SITE, encode=None), "jean-zay-h100") == 2
    said = capsys.readouterr().out.splitlines()
    assert (
        "not checked: qos qos_gpu_h100-t3: sacctmgr failed (1): You are not running a supported accounting_storage plugin"
        in said
    )
    assert [line for line in said if line.startswith("differs")] == [
        f"differs: max_hours of {name} is {hours}, and Slurm says 10" for name, hours in (("qos_gpu_h100-t3", 20), ("qos_gpu_h100-t4", 100))
    ]  # fmt: skip
    assert said[-1].startswith(
        "jean-zay-h100: 2 difference(s); a file with what is above and `base: jean-zay-h100` works"
    )


@pytest.mark.parametrize(
    ("time", "hours"),
    [("20:00:00", 20), ("4-04:00:00", 100), ("00:30:00", 0.5), ("30:00", 0.5), ("1-00:00:00", 24), ("UNLIMITED", None), ("", None)],
)  # fmt: skip
def test_hours_of_a_time(time: str, hours: float | None) -> None:
    assert hours_of(time) == hours


def test_resources_and_gpus_of_a_node_are_counted_by_kind() -> None:
    assert tres_of("cpu=8,mem=500G,gres/gpu:h100=4,gres/gpu:a100=2") == {
        "cpu": 8,
        "gres/gpu:h100": 4,
        "gres/gpu:a100": 2,
        "gres/gpu": 6,
    }
    assert tres_of("gres/gpu=8,gres/gpu:h100=8")["gres/gpu"] == 8
    assert [
        gpus_of({"Gres": text}) for text in ("gpu:4", "gpu:a100:4(S:0-1)", "gpu:a:2,gpu:b:1", "(null)", "nvme:1,gpu:8")
    ] == [4, 4, 3, 0, 8]
    assert cores_of({"CPUTot": "128", "CPUEfctv": "112", "ThreadsPerCore": "2"}, one_thread=True) == 56
    assert cores_of({"CPUTot": "128", "ThreadsPerCore": "2"}, one_thread=False) == 128
