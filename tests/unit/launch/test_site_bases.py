"""Sites that take over the keys of a base, and what the sites of the package have in common."""

import re
from pathlib import Path

import pytest

from fanal.errors import UserError
from launch.sites.bases import BASES, SITES, joined, known_bases
from launch.sites.schema import QosConfig
from launch.sites.site import known_sites, load_site, site_text
from launch.sites.table import cells, longest_slot
from pretrain.model.flops import peak_tflops

NEW = ("leonardo", "marenostrum5", "lumi-g", "alps-clariden", "jupiter", "isambard-ai")


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    (folder / name).chmod(0o644)
    return str(folder / name)


def test_a_site_is_a_few_keys_over_its_base(tmp_path: Path) -> None:
    text = "base: jean-zay-h100\nqos: [{name: mine, max_hours: 3}]\nnode_check: {clock_s: 9}\n"
    text += "environment: {NCCL_IB_TIMEOUT: {value: '20', reason: mine}, A: {value: b, reason: c}}\n"
    site, base = load_site(write(tmp_path, "mine.yaml", text)), load_site("jean-zay-h100")
    assert (site.base, site.partition, site.account_suffix) == ("", "gpu_p6", "h100")
    assert site.qos == [QosConfig(name="mine", max_hours=3)], "a list is replaced"
    assert (site.node_check.clock_s, site.node_check.gemm_slower) == (9, base.node_check.gemm_slower)
    assert site.environment["NCCL_IB_TIMEOUT"].value == "20" and site.environment["A"].value == "b"
    assert list(base.environment) == [name for name in site.environment if name != "A"], "their order stays"


def test_a_variable_is_replaced_whole_and_other_mappings_key_by_key() -> None:
    below = {
        "environment": {"A": {"value": "1", "reason": "r", "per_rank": True}},
        "encode": {"cores": 4, "partition": "p"},
    }
    above = {"environment": {"A": {"value": "2", "reason": "s"}}, "encode": {"cores": 8}}
    found = joined(below, above)
    assert found == {"environment": {"A": {"value": "2", "reason": "s"}}, "encode": {"cores": 8, "partition": "p"}}


def test_a_base_may_be_a_file_from_the_folder_of_the_site_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shared").mkdir()
    write(tmp_path / "shared", "gpus.yaml", "base: gh200\ncores_per_node: 280\n")
    name = write(tmp_path, "mine.yaml", "base: shared/gpus.yaml\ndescription: mine\n")
    monkeypatch.chdir("/")
    assert (load_site(name).cores_per_node, load_site(name).architecture) == (280, "aarch64")


def test_words_of_slots_and_lists_of_cores_are_looked_at(tmp_path: Path) -> None:
    for text, said in (
        ("cores_of_ranks: [a, '1', '2', '3']", r"cores_of_ranks\[0\] \('a'\) must be a list of cores; 49-55 works"),
        (
            "cores_of_ranks: ['0-3,8', '1', '2']",
            r"cores_of_ranks \(3 of them\) must be as many as gpus_per_node \(4\), or none",
        ),
        (
            "qos: [{name: a, max_hours: 2, partition: a b}]",
            r"partition of qos a \('a b'\) must be one word without quotes",
        ),
    ):
        with pytest.raises(UserError, match=said):
            load_site(write(tmp_path, "mine.yaml", f"base: jupiter\n{text}\n"))
    kept = load_site(write(tmp_path, "mine.yaml", "base: jupiter\ncores_of_ranks: ['0-3,8', '1', '2', 49-55]\n"))
    assert kept.cores_of_ranks == ["0-3,8", "1", "2", "49-55"]


@pytest.mark.parametrize("names", [("a",), ("a", "b"), ("a", "b", "c")])
def test_bases_that_lead_in_a_circle_are_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    for name, base in zip(names, (*names[1:], names[0]), strict=True):
        write(tmp_path, f"{name}.yaml", f"base: {base}.yaml\ndescription: x\ngpus_per_node: 0\ncores_per_node: 1\n")
    way = " -> ".join(f"{name}.yaml" for name in (*names, names[0]))
    with pytest.raises(UserError, match=rf"base \(a.yaml\) must not lead back .*\({way}\); a file without base works"):
        load_site(str(tmp_path / "a.yaml"))
    last = tmp_path / f"{names[-1]}.yaml"
    last.write_text("\n".join(line for line in last.read_text().splitlines() if "base" not in line))
    assert load_site(str(tmp_path / "a.yaml")).cores_per_node == 1, "the advice works"


@pytest.mark.parametrize(
    "base",
    [
        "5",
        "..",
        "/etc/passwd.yaml",
        "'\\0.yaml'",
        '"\\0.yaml"',
        "a" * 5000 + ".yaml",
        "/dev/null.yaml",
        "GPU",
        "b" * 300,
    ],
)
def test_a_base_that_names_no_file_is_refused_in_a_line(base: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"base \(.*\) must be one of alps-clariden, .*; infiniband works$") as refused:
        load_site(write(tmp_path, "mine.yaml", f"base: {base}\n"))
    assert len(str(refused.value)) < 800 and str(refused.value).isprintable()


def test_a_circle_is_seen_whatever_way_its_files_are_named(tmp_path: Path) -> None:
    name = write(tmp_path, "a.yaml", f"base: ../{tmp_path.name}/a.yaml\n")
    with pytest.raises(UserError, match=r"must not lead back .*\(a.yaml -> a.yaml\)"):
        load_site(name)


def test_a_base_that_others_may_change_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "open.yaml", "base: gh200\n")
    name = write(tmp_path, "mine.yaml", "base: open.yaml\ndescription: mine\n")
    assert load_site(name).gpus_per_node == 4
    (tmp_path / "open.yaml").chmod(0o666)
    with pytest.raises(UserError, match=r"site .*open.yaml must be a file that only you may change"):
        load_site(name)


def test_a_key_that_no_site_has_is_named_with_the_base_that_has_it(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "gpu_per_node: 4\n")
    with pytest.raises(UserError, match=r"base.yaml: gpu_per_node is not a key; did you mean gpus_per_node\?"):
        load_site(write(tmp_path, "mine.yaml", "base: base.yaml\n"))


@pytest.mark.parametrize("name", known_sites())
def test_a_job_reads_of_a_site_what_was_resolved(name: str, tmp_path: Path) -> None:
    assert load_site(write(tmp_path, "site.yaml", site_text(load_site(name)))) == load_site(name)


def test_bases_are_no_sites_and_none_is_left_over() -> None:
    assert not {path.stem for path in BASES.glob("*.yaml")} & set(known_sites())
    named = {found for path in (*SITES.glob("*.yaml"), *BASES.glob("*.yaml")) for found in re.findall(r"^base: (\S+)", path.read_text(), re.M)}  # fmt: skip
    assert named == {path.stem for path in BASES.glob("*.yaml")} <= set(known_bases())


@pytest.mark.parametrize("name", [name for name in known_sites() if load_site(name).gpu_name])
def test_the_peak_of_a_site_s_gpus_is_known_where_they_compute_in_bf16(name: str) -> None:
    site = load_site(name)
    assert (peak_tflops(f"{site.gpu_name} something") is not None) is site.bf16
    expected = {"leonardo": 312.0, "lumi-g": 191.5, "jupiter": 989.4, "marenostrum5": 989.4}
    assert peak_tflops(site.gpu_name) == expected.get(name, peak_tflops(site.gpu_name))


@pytest.mark.parametrize("name", NEW)
def test_a_site_says_where_its_facts_come_from_and_which_nobody_checked(name: str) -> None:
    header = "".join(line for line in (SITES / f"{name}.yaml").read_text().splitlines(True) if line.startswith("#"))
    assert re.search(r"Sources?: ", header) and "Not checked: " in header and f"site-check {name}" in header


@pytest.mark.parametrize("name", [name for name in known_sites() if load_site(name).gpus_per_node])
def test_a_site_without_internet_on_its_nodes_is_offline_and_keeps_caches_on_them(name: str) -> None:
    site = load_site(name)
    assert site.internet != "everywhere"
    assert all(
        site.environment[f"{library}_OFFLINE"].value == "1" for library in ("HF_HUB", "TRANSFORMERS", "HF_DATASETS")
    )
    caches = [variable for key, variable in site.environment.items() if re.search(r"CACHE_DIR|_DB_PATH|JIT_DIR", key)]
    assert len(caches) >= 2
    for variable in caches:  # of each user: /tmp may be shared by those of one node
        assert variable.value.startswith("/tmp/") and variable.value.endswith("$USER")


def test_the_table_says_what_a_site_is() -> None:
    said = cells(load_site("lumi-g"))
    assert said[1:] == ("8 x AMD Instinct MI250X, 64 GiB", "x86_64", "singularity", "72 h (small-g, 32 GPUs)", "login")
    assert cells(load_site("local"))[1:4] == ("none", "", "")
    assert (longest_slot(load_site("generic")), longest_slot(load_site("jupiter"))) == ("", "12 h (booster)")
