"""The webhook, against a real HTTP server: what it is told, and that nothing it does delays, leaks or goes elsewhere."""

import contextlib
import http.server
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fanal.errors import PassingError, UserError
from fanal.run_folder import LAUNCH_DIR
from launch.chain import job, jobs_file, notify, webhook
from launch.chain.decide import Facts, decide
from launch.chain.decision_message import message
from tests.unit.launch.test_jobs import asked, launch_folder

__all__ = ["launch_folder"]

SECRET = "/hooks/T0SECRET"
ROOT = Path(__file__).parents[3]


@dataclass
class Server:
    """What a server was asked, and how it answers: a status, or seconds of silence."""

    port: int = 0
    answers: list[int | float] = field(default_factory=list)
    to: str = ""
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{SECRET}"


@contextlib.contextmanager
def serve(certificate: Path | None = None) -> Iterator[Server]:
    server = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.asked.append((self.path, body))
            answer = server.answers.pop(0) if server.answers else 200
            if isinstance(answer, float):
                time.sleep(answer)
                return
            self.send_response(answer)
            if server.to:
                self.send_header("Location", server.to)
            self.end_headers()

        def do_GET(self) -> None:
            server.asked.append((self.path, {}))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        server.port = listening.server_port
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            listening.socket = context.wrap_socket(listening.socket, server_side=True)
        threading.Thread(target=listening.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        listening.shutdown()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of a tenth, and no proxy: what is held is that they hold."""
    monkeypatch.setattr(webhook, "TRY_S", 0.4)
    monkeypatch.setattr(webhook, "ALL_TRIES_S", 1.0)
    monkeypatch.setattr(webhook, "PAUSE_S", 0.02)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", webhook.URL, webhook.URL_FILE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as server:
        yield server


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "a-run"
    (folder / LAUNCH_DIR).mkdir(parents=True, mode=0o755)
    return folder


def decided(
    run_dir: Path,
    job: str,
    *,
    action: str = "requeue",
    reason: str = "a crash (exit code 70)",
    exclude: tuple[str, ...] = (),
) -> None:
    jobs_file.note(
        run_dir / LAUNCH_DIR, "decided", job=job, restart=0, action=action, reason=reason, exit_code=70, step=40,
        restarts_without_checkpoint=1, exclude=list(exclude), by=f"{job}-0",
    )  # fmt: skip


def test_each_decision_is_told_once_oldest_first(server: Server, run_dir: Path) -> None:
    for number in ("1", "2"):
        decided(run_dir, number)
    assert notify.notify(run_dir, server.url) == (2, "")
    decided(run_dir, "3", action="stop", exclude=("n1",))
    assert notify.notify(run_dir, server.url) == (1, "") and notify.notify(run_dir, server.url) == (0, "")
    assert [(path, body["fanal"]["job"]) for path, body in server.asked] == [
        (SECRET, "1"),
        (SECRET, "2"),
        (SECRET, "3"),
    ]
    assert (
        server.asked[2][1]["text"]
        == "NEEDS A PERSON: a-run: job 3 stopped at step 40: a crash (exit code 70); left out from now on: n1"
    )
    assert server.asked[2][1]["fanal"]["excluded_nodes"] == ["n1"]


def test_a_webhook_that_is_new_to_an_old_run_is_told_what_was_decided_since_the_last_submission(
    server: Server, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in ("1", "2"):
        decided(run_dir, number)
    jobs_file.note(run_dir / LAUNCH_DIR, "submitted", jobs=["3"])
    assert notify.notify(run_dir, server.url) == (0, "") and not server.asked
    decided(run_dir, "3")
    assert notify.notify(run_dir, server.url) == (1, "")
    assert [body["fanal"]["job"] for _, body in server.asked] == ["3"]
    assert "2 older decisions are not sent" in capsys.readouterr().err
    decided(run_dir, "4")
    jobs_file.note(run_dir / LAUNCH_DIR, "submitted", jobs=["5"])
    decided(run_dir, "5")
    assert notify.notify(run_dir, server.url) == (2, ""), "one that is known already is told all that waits"
    assert capsys.readouterr().err == ""


def test_a_file_that_began_anew_is_told_from_its_first_decision_on(server: Server, run_dir: Path) -> None:
    for number in ("1", "2", "3"):
        decided(run_dir, number)
    assert notify.notify(run_dir, server.url) == (3, "")
    jobs = run_dir / LAUNCH_DIR / jobs_file.JOBS_FILE
    jobs.chmod(0o666)  # it is not believed, and set aside with the next line
    for number in ("4", "5", "6", "7"):
        decided(run_dir, number)
    assert len(list(jobs.parent.glob("jobs.jsonl.not-believed-*"))) == 1
    assert notify.notify(run_dir, server.url) == (4, "") and notify.notify(run_dir, server.url) == (0, "")
    assert [body["fanal"]["job"] for _, body in server.asked] == list("1234567")
    lines = jobs.read_text().splitlines(keepends=True)
    jobs.write_text("".join(lines[1:]))
    decided(run_dir, "8")
    assert notify.notify(run_dir, server.url) == (1, ""), "of a file that lost a line, the new one"


def test_decisions_older_than_the_newest_told_are_not_told_again(server: Server, run_dir: Path) -> None:
    decided(run_dir, "1")
    decided(run_dir, "2")
    gone = {"time_utc": "2999-01-01T00:00:00Z", "job": "9", "restart": 0, "inside": None, "action": "stop"}
    told = run_dir / LAUNCH_DIR / notify.NOTIFIED
    told.write_text(json.dumps({"decisions": 3, "newest": gone}))
    assert notify.notify(run_dir, server.url) == (0, "")
    told.write_text(json.dumps({"decisions": 3, "newest": {**gone, "time_utc": "2000-01-01T00:00:00Z"}}))
    assert notify.notify(run_dir, server.url) == (2, "")


@pytest.mark.parametrize(("number", "sent"), [(1, 1), (2, 0), (3, 2)])
def test_a_count_of_an_older_version_is_read(server: Server, run_dir: Path, number: int, sent: int) -> None:
    decided(run_dir, "1")
    decided(run_dir, "2")
    (run_dir / LAUNCH_DIR / notify.NOTIFIED).write_text(json.dumps({"decisions": number}))
    assert notify.notify(run_dir, server.url) == (sent, "")


def test_what_is_decided_while_a_message_is_on_its_way_is_told_by_who_sends(server: Server, run_dir: Path) -> None:
    decided(run_dir, "1")
    post = notify.post

    def slow(url: str, payload: dict[str, Any]) -> str:
        if payload["fanal"]["job"] == "1":
            decided(run_dir, "2")  # by a process that found the lock held
        return post(url, payload)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notify, "post", slow)
        assert notify.notify(run_dir, server.url) == (2, "")
    assert [body["fanal"]["job"] for _, body in server.asked] == ["1", "2"]


@pytest.mark.parametrize("status", [500, 503, 429])
def test_what_may_pass_is_tried_again_a_few_times(
    server: Server, run_dir: Path, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "ALL_TRIES_S", 5.0)
    decided(run_dir, "1")
    server.answers = [status]
    assert notify.notify(run_dir, server.url) == (1, "") and len(server.asked) == 2
    decided(run_dir, "2")
    server.answers = [status] * 9
    assert notify.notify(run_dir, server.url) == (0, f"127.0.0.1 answers HTTP {status}")
    assert len(server.asked) == 2 + webhook.TRIES
    server.answers = []
    assert notify.notify(run_dir, server.url) == (1, "")  # nothing is lost by that


def test_a_refusal_is_not_repeated(server: Server, run_dir: Path) -> None:
    decided(run_dir, "1")
    server.answers = [404]
    assert notify.notify(run_dir, server.url) == (0, "127.0.0.1 answers HTTP 404") and len(server.asked) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(server: Server, run_dir: Path, status: int) -> None:
    with serve() as other:
        server.answers, server.to = [status], other.url
        decided(run_dir, "1")
        sent, why = notify.notify(run_dir, server.url)
    assert (sent, why) == (0, f"127.0.0.1 redirects (HTTP {status}), which is not followed")
    assert len(server.asked) == 1 and not other.asked


def test_the_server_of_that_test_is_reached_where_redirects_are_followed(
    server: Server, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(webhook._NoRedirect, "redirect_request")
    with serve() as other:
        server.answers, server.to = [302], other.url
        decided(run_dir, "1")
        notify.notify(run_dir, server.url)
        assert other.asked == [(SECRET, {})]


def test_a_server_that_never_answers_costs_seconds_and_the_next_command_sends(server: Server, run_dir: Path) -> None:
    decided(run_dir, "1")
    server.answers = [30.0, 30.0, 30.0]
    began = time.monotonic()
    sent, why = notify.notify(run_dir, server.url)
    assert sent == 0 and "127.0.0.1" in why and time.monotonic() - began < 5
    server.answers = []
    assert notify.notify(run_dir, server.url) == (1, "")


def test_a_server_that_sends_a_byte_now_and_then_costs_seconds_too(run_dir: Path) -> None:
    decided(run_dir, "1")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listening.accept()
                for _ in range(100):
                    connection.sendall(b"H")
                    time.sleep(0.1)

        threading.Thread(target=drip, daemon=True).start()
        began = time.monotonic()
        assert notify.notify(run_dir, f"http://127.0.0.1:{listening.getsockname()[1]}/x") == (
            0,
            "127.0.0.1: no answer after 1 s",
        )
        assert time.monotonic() - began < 5


def test_a_job_is_not_delayed_by_a_server_that_hangs(server: Server, run_dir: Path) -> None:
    """In a process of its own, as a job's Python is: what comes after the decision comes at once, and its exit code stays."""
    decided(run_dir, "1")
    server.answers = [60.0] * 9
    code = (
        "import sys, time; from pathlib import Path; from launch.chain import webhook; from launch.chain.notify import announce\n"
        "webhook.TRY_S, webhook.ALL_TRIES_S = 1, 2\n"
        f"began = time.monotonic(); announce(Path({str(run_dir)!r}), internet='nowhere')\n"
        "print(time.monotonic() - began, flush=True); sys.exit(75)"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, webhook.URL: server.url},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 75 and float(done.stdout) < 1, done.stderr
    assert time.monotonic() - began < 60
    assert "webhook: not told: 127.0.0.1: " in done.stderr and done.stderr.count("127.0.0.1") == 1
    assert SECRET not in done.stderr + done.stdout


def test_what_a_job_had_no_time_to_tell_is_said(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = threading.Event()
    thread = threading.Thread(target=told.wait, daemon=True)
    thread.start()
    notify._wait_for(thread, run_dir, time.monotonic())
    assert (
        f"webhook: not everything was sent in 15 s; `fanal launch notify --from {run_dir}`" in capsys.readouterr().err
    )
    told.set()
    notify._wait_for(thread, run_dir, time.monotonic() + 10)
    assert capsys.readouterr().err == ""


def test_a_job_tells_its_decision(server: Server, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decided(run_dir, "1")
    monkeypatch.setenv(webhook.URL, server.url)
    notify.announce(run_dir, internet="login")
    until = time.monotonic() + 10
    while not server.asked and time.monotonic() < until:
        time.sleep(0.01)
    assert [body["fanal"]["event"] for _, body in server.asked] == ["requeued"]


@pytest.mark.parametrize(
    ("internet", "proxy", "reaches"),
    [("login", "", False), ("nowhere", "", False), ("everywhere", "", True), ("login", "http://proxy:1", True)],
)
def test_a_node_without_internet_leaves_it_to_the_command(
    run_dir: Path,
    internet: str,
    proxy: str,
    reaches: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    told: list[str] = []
    monkeypatch.setattr(notify, "_announce", lambda run_dir, url: told.append(url))
    monkeypatch.setenv(webhook.URL, f"https://chat.example.org{SECRET}")
    if proxy:
        monkeypatch.setenv("https_proxy", proxy)
    notify.announce(run_dir, internet=internet)
    until = time.monotonic() + 5
    while reaches and not told and time.monotonic() < until:
        time.sleep(0.01)
    assert bool(told) is reaches
    assert (f"`fanal launch notify --from {run_dir}`" in capsys.readouterr().err) is not reaches


def test_the_command_says_what_it_did(
    server: Server, run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="FANAL_WEBHOOK_URL or FANAL_WEBHOOK_FILE must name a webhook"):
        notify.notify_now(run_dir)
    monkeypatch.setenv(webhook.URL, server.url)
    for number in range(notify.MOST_AT_ONCE + 3):
        decided(run_dir, str(number))
    assert notify.notify_now(run_dir) == 0
    said = capsys.readouterr()
    assert f"3 older decisions are not sent; {run_dir / LAUNCH_DIR / 'jobs.jsonl'} has them" in said.err
    # The script of a job reads what its steps print: a word of this thread among it would be a meeting point, or end the job.
    assert said.out == f"told 127.0.0.1 {notify.MOST_AT_ONCE} decision(s)\n"
    assert server.asked[0][1]["fanal"]["job"] == "3"
    decided(run_dir, "99")
    server.answers = [404]
    with pytest.raises(
        PassingError, match=r"^the next one was not told: 127\.0\.0\.1 answers HTTP 404; the same command"
    ):
        notify.notify_now(run_dir)
    with pytest.raises(UserError, match="must be the run folder of a chain"):
        notify.notify_now(run_dir / LAUNCH_DIR)


def test_the_address_comes_from_a_file_that_nobody_else_may_read(tmp_path: Path) -> None:
    path = tmp_path / "webhook"
    path.write_text(f"https://chat.example.org{SECRET}\n")
    path.chmod(0o640)
    with pytest.raises(UserError, match=rf"its mode is 640.*`chmod 600 {path}` works") as refused:
        webhook.webhook_url({webhook.URL_FILE: str(path)})
    assert SECRET not in str(refused.value)
    path.chmod(0o600)
    assert webhook.webhook_url({webhook.URL_FILE: str(path)}) == f"https://chat.example.org{SECRET}"
    assert webhook.webhook_url({}) is None


def test_the_advice_about_the_file_works_where_its_path_has_a_space(tmp_path: Path) -> None:
    path, url = tmp_path / "w h" / "hook", f"https://chat.example.org{SECRET}"

    def advised() -> str:
        with pytest.raises(UserError) as refused:
            webhook.webhook_url({webhook.URL_FILE: str(path)})
        assert SECRET not in str(refused.value)
        return str(refused.value).split("`")[1]

    subprocess.run(["bash", "-c", advised()], input=url, text=True, check=True)
    assert webhook.webhook_url({webhook.URL_FILE: str(path)}) == url
    path.chmod(0o644)
    subprocess.run(["bash", "-c", advised()], check=True)
    assert webhook.webhook_url({webhook.URL_FILE: str(path)}) == url


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "it is a folder; the path of a file of yours works"),
        ("~no-such-user/x", "; its whole path, from / on, works"),
    ],
)
def test_no_command_is_advised_that_does_not_work(name: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        webhook.webhook_url({webhook.URL_FILE: name or str(tmp_path)})
    assert str(refused.value).endswith(why) and "`" not in str(refused.value)


@pytest.mark.parametrize("name", ["not there", "file/below", "folder", "~nobody knows/x"])
def test_a_file_of_the_address_that_cannot_be_read_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir(mode=0o700)
    path = name if name.startswith("~") else str(tmp_path / name)
    with pytest.raises(
        UserError, match=r"^FANAL_WEBHOOK_FILE \(.*\) must be a file that you can read, with the address"
    ):
        webhook.webhook_url({webhook.URL_FILE: path})


@pytest.mark.parametrize(
    "url",
    [
        f"http://chat.example.org{SECRET}", f"ftp://127.0.0.1{SECRET}", f"file://{SECRET}", f"https://user:pw@chat.example.org{SECRET}",
        f"https://{SECRET}", f"https://chat.example.org{SECRET} x", f"https://chat.example.org:port{SECRET}", f"https://[::1{SECRET}",
    ],
)  # fmt: skip
def test_an_address_that_would_be_read_on_the_way_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(UserError, match="FANAL_WEBHOOK_URL must hold one address that begins with https://") as refused:
        webhook.webhook_url({webhook.URL: url})
    assert SECRET not in str(refused.value) and "pw" not in str(refused.value)


def test_who_asked_for_the_end_of_a_chain_is_not_called() -> None:
    def needs(facts: Facts) -> bool:
        found = decide(facts, max_restarts_without_checkpoint=1)
        line = {
            "action": found.action,
            "reason": found.reason,
            "exclude": [],
            "job": "1",
            "restart": 0,
            "step": 0,
            "time_utc": "",
        }
        return message(line, Path("run"))["fanal"]["needs_a_person"]

    assert not needs(Facts(exit_code=0)) and not needs(Facts(exit_code=75, asked_by="STOP file", step_after=1))
    assert not needs(Facts(exit_code=70, ended_by="cancelled")) and not needs(Facts(exit_code=75, step_after=1))
    assert needs(Facts(exit_code=2)) and needs(Facts(exit_code=76)) and needs(Facts(exit_code=70))


def test_a_text_calls_no_channel_and_holds_no_credential() -> None:
    line = {
        "action": "stop",
        "reason": "<!channel> token=abcdefgh12345678 & more",
        "exclude": [],
        "job": "1",
        "restart": 0,
        "step": 0,
        "time_utc": "",
    }
    told = json.dumps(message(line, Path("run")))
    assert "&lt;!channel&gt; (hidden) &amp; more" in told and "abcdefgh12345678" not in told


def test_the_end_of_a_job_tells_what_it_decided(
    server: Server, launch_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = asked(monkeypatch, {"squeue": "", "scontrol": ""})
    monkeypatch.setenv(webhook.URL, server.url)
    assert job.end(launch_folder, before_training=2, walltime=False) == 2
    assert called, "it acts on its decision as well"
    until = time.monotonic() + 10
    while not server.asked and time.monotonic() < until:
        time.sleep(0.01)
    ((_, body),) = server.asked
    assert body["fanal"]["event"] == "stopped" and body["fanal"]["needs_a_person"] and body["fanal"]["exit_code"] == 2


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of localhost, signed by itself, and its key in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    day = datetime(2026, 1, 1, tzinfo=UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(day).not_valid_after(day + timedelta(days=40_000))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.parametrize("is_trusted", [True, False])
def test_a_server_is_told_over_tls_and_only_if_its_certificate_is_trusted(
    is_trusted: bool, run_dir: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "TRY_S", 5)
    monkeypatch.setattr(webhook, "ALL_TRIES_S", 10)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    decided(run_dir, "1")
    with serve(certificate) as server:
        sent, why = notify.notify(run_dir, f"https://localhost:{server.port}{SECRET}")
    assert (sent, len(server.asked)) == ((1, 1) if is_trusted else (0, 0))
    assert why.startswith("localhost: SSLCertVerificationError: self") if not is_trusted else why == ""
