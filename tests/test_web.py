"""The exporter's HTTP interface, and the program as a process."""

import http.client
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from certificates import make_certificate
from conftest import StartNsd, StartWeb, free_port, write_config
from listening import showing

from demo.stack import wait_for
from exporter import config as configuration
from exporter.config import Config, HttpCheck, Listen, Nameserver, Reference, TcpCheck
from exporter.web import Listener

GOLDEN = Path(__file__).parent / "golden" / "metrics.txt"
# Its marked name has main's address at every nameserver of the tests.
SOURCE = """\
@ 60 SOA ns1 owner @serial number@ 3600 600 864000 60
@ 60 NS ns1
ns1 60 A @IP@
"""
TIMEOUT_HEADER = "X-Prometheus-Scrape-Timeout-Seconds"


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: http.client.HTTPMessage
    body: str


class Exporter:
    """The interface, served on a port of its own."""

    def __init__(self, config: Config, host: str = "127.0.0.1") -> None:
        exporter = config.exporter.model_copy(update={"listen": Listen(host, 0)})
        self.listener = Listener(replace(config, exporter=exporter))
        self.address: tuple[str, int] = self.listener.server_address[:2]

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Make one request."""
        connection = http.client.HTTPConnection(*self.address, timeout=10)
        connection.request(
            method, path, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        with connection.getresponse() as response:
            answer = Answer(response.status, response.headers, response.read().decode())
        connection.close()
        return answer

    def scrape(self, timeout: str, path: str = "/metrics") -> tuple[Answer, float]:
        """As Prometheus does; also gives the seconds until the answer was there."""
        started = time.monotonic()
        answer = self.ask(path, **{TIMEOUT_HEADER: timeout})
        return answer, time.monotonic() - started


@contextmanager
def serving(config: Config, host: str = "127.0.0.1") -> Iterator[Exporter]:
    exporter = Exporter(config, host)
    thread = threading.Thread(target=exporter.listener.serve_forever, args=[0.01])
    thread.start()
    try:
        yield exporter
    finally:
        exporter.listener.shutdown()
        exporter.listener.server_close()
        thread.join()


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Exporter]:
    """An exporter whose servers and nameservers all refuse."""
    nobody = free_port("127.0.0.1")
    nameserver = Nameserver(address="127.0.0.1", port=nobody)
    path = write_config(tmp_path, {"main": nobody}, {"ns1": nameserver}, ["example.org"])
    with serving(configuration.read(path)) as exporter:
        yield exporter


@pytest.fixture
def waiting(tmp_path: Path, start_web: StartWeb) -> Iterator[Exporter]:
    """An exporter whose only server is silent, and whose nameserver is, too."""
    web = start_web()
    web.silence()
    with socket.socket(type=socket.SOCK_DGRAM) as dns:
        dns.bind(("127.0.0.1", 0))
        nameserver = Nameserver(address="127.0.0.1", port=dns.getsockname()[1])
        path = write_config(tmp_path, {"main": web.port}, {"ns1": nameserver}, ["example.org"])
        with serving(configuration.read(path)) as exporter:
            yield exporter


# --- the page -------------------------------------------------------------------------------


@pytest.fixture
def page(
    tmp_path: Path, start_nsd: StartNsd, start_web: StartWeb, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The metrics of a day on which something of everything is broken."""
    up = start_web().port
    servers = {"main": up, "backup": free_port("127.0.0.1")}
    nameservers = {
        "ns1": start_nsd({"example.org": 2026010102, "example.net": 2026010100}),
        "ns2": start_nsd({"example.org": 2026010101}),
    }
    path = write_config(tmp_path, servers, nameservers, ["example.org", "example.net"])
    config = configuration.read(path)
    (config.zones.sources / "example.org.base").write_text(SOURCE)
    certificate, key = make_certificate(tmp_path, "20990101000000Z")
    trust = ssl.create_default_context(cafile=certificate)
    monkeypatch.setattr("exporter.line.trust", lambda: trust)
    port = free_port("127.0.0.1")
    listener = showing("127.0.0.1", port, certificate, key)
    with listener, serving(with_more(config, port)) as exporter:
        answer = exporter.ask("/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return answer.body


def with_more(config: Config, imaps: int) -> Config:
    """With a check by TLS that is not required, and a reference that is closed."""
    main = config.servers["main"]
    check = TcpCheck(tcp=imaps, tls="www.example.invalid", required=False)
    main = main.model_copy(update={"checks": {**main.checks, "imaps": check}})
    closed = Reference("tcp", ip_address("127.0.0.1"), free_port("127.0.0.1"))
    return replace(config, servers={**config.servers, "main": main}, references={"third": closed})


def test_the_page_is_the_golden_one(page: str) -> None:
    """Names, labels, help and order are what dashboards, rules and people rely on."""
    told = re.sub(r"(duration_seconds\{[^}]*\}) \S+", r"\1 SECONDS", page)
    told = re.sub(r'python="[^"]+",version="[^"]+"', 'python="PYTHON",version="VERSION"', told)
    assert told == GOLDEN.read_text()


def test_promtool_finds_nothing_to_say_about_the_page(page: str) -> None:
    """Prometheus' own linter."""
    checked = subprocess.run(
        ["promtool", "check", "metrics"],  # noqa: S607
        input=page,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_openmetrics_is_spoken_to_who_asks_for_it(idle: Exporter) -> None:
    """As Prometheus does."""
    answer = idle.ask("/metrics", Accept="application/openmetrics-text;version=1.0.0,*/*;q=0.1")
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert answer.body.endswith("# EOF\n")


# --- collect[] ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "servers", "zones", "references"),
    [
        ("", True, True, True),
        ("?collect[]=servers", True, False, False),
        ("?collect%5B%5D=zones", False, True, False),
        ("?collect[]=zones&collect[]=servers", True, True, False),
        ("?collect[]=zones&collect[]=references", False, True, True),
    ],
)
def test_collect_chooses(
    idle: Exporter, query: str, servers: bool, zones: bool, references: bool
) -> None:
    """Without a choice it is all."""
    answer = idle.ask(f"/metrics{query}")
    assert answer.status == 200
    assert ("zonerw_server_up{" in answer.body) == servers
    assert ("zonerw_zone_query_up{" in answer.body) == zones
    assert ("# TYPE zonerw_reference_up " in answer.body) == references
    assert "zonerw_build_info{" in answer.body


@pytest.mark.parametrize("group", ["zone", ""])
def test_an_unknown_group_is_refused(idle: Exporter, group: str) -> None:
    """A typo in the scrape's configuration must not look like a scrape of nothing."""
    answer = idle.ask(f"/metrics?collect[]=servers&collect[]={group}")
    assert answer.status == 400
    assert (
        answer.body == f"collect[]={group}: unknown; expected one of servers, zones, references\n"
    )


def test_no_zones_is_not_the_same_as_no_answer(idle: Exporter) -> None:
    """Without the folder of sources a scrape of the zones fails, and says so."""
    folder = idle.listener.config.zones.sources
    shutil.rmtree(folder)
    answer = idle.ask("/metrics?collect[]=zones")
    assert answer.status == 500
    assert answer.body == f"No zones to ask for: {folder}: No such file or directory\n"
    answer = idle.ask("/metrics")
    assert answer.status == 200
    assert "zonerw_server_up{" in answer.body
    assert "zonerw_zone_query_up{" not in answer.body


# --- the scrape's time ----------------------------------------------------------------------


@pytest.mark.parametrize(("timeout", "at_most"), [("4", 4), ("0.25", 3)])
def test_a_silent_server_is_down_within_the_scrape(
    waiting: Exporter, timeout: str, at_most: float
) -> None:
    """The whole answer is there before Prometheus gives up (a busy machine is no fault of ours)."""
    answer, seconds = waiting.scrape(timeout)
    assert 'zonerw_server_up{role="main",server="main"} 0.0' in answer.body
    assert 'reason="timeout"' in answer.body
    assert 'zonerw_zone_query_up{nameserver="ns1",zone="example.org"} 0.0' in answer.body
    assert float(timeout) / 2 < seconds < at_most


def test_overlapping_scrapes_do_not_wait_for_each_other(waiting: Exporter) -> None:
    """Each has a thread, a registry and a look of its own."""
    with ThreadPoolExecutor(6) as pool:
        scrapes = list(pool.map(lambda _: waiting.scrape("1"), range(6)))
    for answer, seconds in scrapes:
        assert 'zonerw_server_up{role="main",server="main"} 0.0' in answer.body
        assert seconds < 3  # one after another would take six


@pytest.mark.parametrize("timeout", ["soon", "0", "0.009", "-1", "nan", "inf", ""])
def test_a_timeout_that_is_none_is_refused(idle: Exporter, timeout: str) -> None:
    """Whoever sends it is mistaken about something."""
    answer, _ = idle.scrape(timeout)
    assert answer.status == 400
    assert answer.body == f"{TIMEOUT_HEADER}: {timeout!r} is no time to wait\n"


# --- other pages ----------------------------------------------------------------------------


def test_it_says_that_it_is_healthy(idle: Exporter) -> None:
    """Whatever becomes of the servers."""
    answer = idle.ask("/-/healthy")
    assert (answer.status, answer.body) == (200, "zonerw exporter is healthy.\n")


def test_the_landing_page_leads_to_the_others(idle: Exporter) -> None:
    """Every link on it works."""
    answer = idle.ask("/")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    links = re.findall(r'href="([^"]+)"', answer.body)
    assert "/metrics" in links
    assert {idle.ask(link).status for link in links} == {200}


def test_the_landing_page_says_in_one_line_how_it_stands(idle: Exporter) -> None:
    """As the last scrape saw it: the page looks at nobody."""
    assert "<p>Nobody has asked for the servers yet.</p>" in idle.ask("/").body
    idle.ask("/metrics?collect[]=zones")
    assert "<p>Nobody has asked for the servers yet.</p>" in idle.ask("/").body
    idle.ask("/metrics")
    (line,) = re.findall("<p>(At .*)</p>", idle.ask("/").body)
    assert re.fullmatch(r"At \d\d:\d\d:\d\d UTC: main is down \(web: connection refused\)\.", line)


# --- one look, step by step -----------------------------------------------------------------


def test_a_probe_shows_what_a_scrape_would_of_one_server(idle: Exporter) -> None:
    """Without debug it is metrics, for Prometheus too."""
    answer = idle.ask("/probe?server=main")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert 'zonerw_server_up{role="main",server="main"} 0.0\n' in answer.body
    assert "zonerw_zone_query_up" not in answer.body


def test_a_probe_knows_its_server_s_role(tmp_path: Path) -> None:
    """Alone on the page, the backup is not main."""
    nobody = free_port("127.0.0.1")
    nameserver = Nameserver(address="127.0.0.1", port=nobody)
    path = write_config(tmp_path, {"main": nobody, "backup": nobody}, {"ns1": nameserver})
    with serving(configuration.read(path)) as exporter:
        body = exporter.ask("/probe?server=backup").body
    assert 'zonerw_server_up{role="backup",server="backup"} 0.0\n' in body
    assert 'server="main"' not in body


def test_a_probe_with_debug_tells_each_step(idle: Exporter) -> None:
    """When, what was tried, what came of it, what it comes to, and the metrics."""
    answer = idle.ask("/probe?server=main&debug=true")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    told = re.sub(r"\d\.\d{3} s", "TIME", answer.body)
    (check,) = idle.listener.config.servers["main"].checks.values()
    assert isinstance(check, HttpCheck)
    port = urlsplit(check.url).port
    assert told.startswith(
        f"  TIME  web at 127.0.0.1: connecting to 127.0.0.1, port {port}\n"
        "  TIME  web at 127.0.0.1: down, connection refused: [Errno 111] Connection refused\n\n"
        "web at 127.0.0.1: down, connection refused\n"
        "main is down\n\n"
        "The metrics of a scrape:\n\n"
        "# HELP zonerw_server_up "
    )


def test_a_probe_with_debug_says_what_counts(tmp_path: Path, start_web: StartWeb) -> None:
    """Not every check that fails makes the server down."""
    nobody = free_port("127.0.0.1")
    nameserver = Nameserver(address="127.0.0.1", port=nobody)
    path = write_config(tmp_path, {"main": start_web().port}, {"ns1": nameserver})
    config = configuration.read(path)
    main = config.servers["main"]
    checks = {**main.checks, "mail": TcpCheck(tcp=nobody, required=False)}
    addresses = (ip_address("127.0.0.1"), ip_address("127.0.0.2"))  # web listens at the first
    main = main.model_copy(update={"checks": checks, "look_at": addresses})
    with serving(replace(config, servers={"main": main})) as exporter:
        body = exporter.ask("/probe?server=main&debug=true").body
    assert (
        "\n\n"
        "web at 127.0.0.1: up\n"
        "mail at 127.0.0.1: down, connection refused (only shown: it is not required)\n"
        "web at 127.0.0.2: down, connection refused"
        " (only shown: the server is judged by its first address)\n"
        "mail at 127.0.0.2: down, connection refused (only shown: it is not required)\n"
        "main is up\n\n"
    ) in body


def test_a_probe_is_no_scrape(idle: Exporter) -> None:
    """What a person tries changes nothing that is told of the last scrape."""
    idle.ask("/probe?server=main&debug=true")
    assert "<p>Nobody has asked for the servers yet.</p>" in idle.ask("/").body


def test_a_probe_s_time_is_the_scrape_s(waiting: Exporter) -> None:
    """A silent server is given up before whoever asks gives up."""
    answer, seconds = waiting.scrape("1", "/probe?server=main")
    assert 'reason="timeout"' in answer.body
    assert 0.5 < seconds < 3


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("", "server=: unknown; expected one of main\n"),
        ("?server=mian", "server=mian: unknown; expected one of main\n"),
        ("?server=main&debug=1", "debug=1: expected true or false\n"),
    ],
)
def test_a_probe_of_nobody_is_refused(idle: Exporter, query: str, told: str) -> None:
    """With what there is."""
    answer = idle.ask(f"/probe{query}")
    assert (answer.status, answer.body) == (400, told)


@pytest.mark.parametrize("path", ["/metrics/", "/favicon.ico", "/../metrics"])
def test_there_is_nothing_else(idle: Exporter, path: str) -> None:
    """A wrong path is told where the metrics are."""
    answer = idle.ask(path)
    assert (answer.status, answer.body) == (404, "Not found. The metrics are at /metrics.\n")


def test_what_is_no_path_is_refused(idle: Exporter) -> None:
    """With an answer, and no traceback."""
    with socket.create_connection(idle.listener.server_address) as connection:
        connection.sendall(b"GET http://[ HTTP/1.0\r\n\r\n")
        answer = connection.makefile().read()
    assert answer.startswith("HTTP/1.0 400 ")
    assert answer.endswith("\nThis is no path.\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_changed(idle: Exporter, method: str) -> None:
    """It only looks."""
    answer = idle.ask("/metrics", method)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/metrics", "/-/healthy", "/", "/nothing"])
def test_head_is_get_without_the_body(idle: Exporter, path: str) -> None:
    """Status and length are the same."""
    get = idle.ask(path)
    with socket.create_connection(idle.address) as client:
        client.sendall(f"HEAD {path} HTTP/1.0\r\n\r\n".encode())
        head = b"".join(iter(lambda: client.recv(65536), b"")).decode()
    assert head.split()[1] == str(get.status)
    assert head.endswith("\r\n\r\n")
    length = re.search(r"Content-Length: (\d+)", head)
    assert length
    assert abs(int(length[1]) - len(get.body)) < 10  # a duration's digits


def test_it_listens_on_ipv6(tmp_path: Path) -> None:
    """Where the configuration gives such an address."""
    nobody = Nameserver(address="127.0.0.1", port=free_port("127.0.0.1"))
    config = configuration.read(write_config(tmp_path, {"main": nobody.port}, {"ns1": nobody}))
    with serving(config, "::1") as exporter:
        assert exporter.ask("/-/healthy").status == 200


def test_it_starts_without_a_resolver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """http.server would look up this machine's own name, and wait for the answer."""

    def no_resolver(_: str) -> str:
        raise AssertionError

    monkeypatch.setattr(socket, "getfqdn", no_resolver)
    nobody = Nameserver(address="127.0.0.1", port=free_port("127.0.0.1"))
    config = configuration.read(write_config(tmp_path, {"main": nobody.port}, {"ns1": nobody}))
    with serving(config) as exporter:
        assert exporter.ask("/-/healthy").status == 200


def test_a_client_that_leaves_is_nothing_to_log(
    waiting: Exporter, caplog: pytest.LogCaptureFixture
) -> None:
    """Prometheus does so whenever a scrape takes too long."""
    threads = threading.active_count()
    with socket.create_connection(waiting.address) as client:
        client.sendall(f"GET /metrics HTTP/1.1\r\n{TIMEOUT_HEADER}: 0.3\r\n\r\n".encode())
        linger = (1).to_bytes(4, sys.byteorder) + (0).to_bytes(4, sys.byteorder)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    wait_for(lambda: "server down" in caplog.text, 10, "the look to end")
    wait_for(lambda: threading.active_count() == threads, 10, "the request to end")
    assert "request failed" not in caplog.text


# --- the process ----------------------------------------------------------------------------


@pytest.fixture
def start(tmp_path: Path, start_web: StartWeb) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start the program with a silent server, and go on once it listens or has ended."""
    web = start_web()
    web.silence()
    nobody = Nameserver(address="127.0.0.1", port=free_port("127.0.0.1"))
    path = write_config(tmp_path, {"main": web.port}, {"ns1": nobody})
    started: list[subprocess.Popen[str]] = []

    def one() -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "exporter", "--config", path]
        started.append(subprocess.Popen(words, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield one
    for process in started:
        process.kill()
        process.communicate()


def listens_at(process: subprocess.Popen[str]) -> tuple[str, int]:
    """Where the process says that it listens, once it does."""
    assert process.stderr
    line = process.stderr.readline()
    told = re.search(r"msg=listening url=http://([^:]+):(\d+)/", line)
    assert told, line
    return told[1], int(told[2])


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_a_signal_ends_it_promptly(
    start: Callable[[], subprocess.Popen[str]], number: signal.Signals, status: int
) -> None:
    """A scrape that waits for a silent server holds up nothing."""
    process = start()
    with socket.create_connection(listens_at(process)) as scrape:
        scrape.sendall(b"GET /metrics?collect[]=servers HTTP/1.1\r\n\r\n")
        wait_for(lambda: threads_of(process) > 4, 10, "the look to begin")
        started = time.monotonic()
        process.send_signal(number)
        assert process.wait(10) == status
        assert time.monotonic() - started < 3
    assert process.stderr
    assert f"msg=stopping signal={number.name}" in process.stderr.read()


def threads_of(process: subprocess.Popen[str]) -> int:
    return len(list(Path(f"/proc/{process.pid}/task").iterdir()))


def test_an_address_in_use_is_one_clear_line(start: Callable[[], subprocess.Popen[str]]) -> None:
    """The second of two says so and ends."""
    host, port = listens_at(start())
    _, told = start().communicate(timeout=60)
    expected = f'msg="can\'t listen" address={host}:{port} reason="Address already in use"\n'
    assert told.endswith(expected)
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    "program",
    [("-m", "exporter"), ("-c", "from actions.cli import main; main()", "exporter")],
    ids=["python -m exporter", "zonerw exporter"],
)
def test_once_prints_one_scrape_and_ends(
    tmp_path: Path, start_web: StartWeb, program: tuple[str, ...]
) -> None:
    """All of it on standard output, what is wrong on standard error; being down is no failure."""
    nobody = Nameserver(address="127.0.0.1", port=free_port("127.0.0.1"))
    servers = {"main": free_port("127.0.0.1"), "backup": start_web().port}
    path = write_config(tmp_path, servers, {"ns1": nobody}, ["example.org"])
    ended = subprocess.run(
        [sys.executable, *program, "--config", path, "--once"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0
    assert 'zonerw_server_up{role="main",server="main"} 0.0\n' in ended.stdout
    assert 'zonerw_server_up{role="backup",server="backup"} 1.0\n' in ended.stdout
    assert 'zonerw_zone_query_up{nameserver="ns1",zone="example.org"} 0.0\n' in ended.stdout
    assert 'msg="server down" server=main' in ended.stderr


def test_once_says_where_it_can_t_print(tmp_path: Path) -> None:
    """One line, and exit status 1."""
    nobody = Nameserver(address="127.0.0.1", port=free_port("127.0.0.1"))
    path = write_config(tmp_path, {"main": free_port("127.0.0.1")}, {"ns1": nobody})
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "exporter", "--config", path, "--once"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert last.endswith('level=ERROR msg="can\'t print" reason="No space left on device"')


def test_a_faulty_configuration_is_told_in_its_own_words(tmp_path: Path) -> None:
    """Every fault, and exit status 2."""
    path = tmp_path / "zonerw.toml"
    path.write_text("[zones]\n")
    ended = subprocess.run(
        [sys.executable, "-m", "exporter", "--config", path],
        capture_output=True,
        text=True,
        check=False,
    )
    with pytest.raises(configuration.ConfigError) as refused:
        configuration.read(path)
    assert (ended.returncode, ended.stderr) == (2, f"{refused.value}\n")
