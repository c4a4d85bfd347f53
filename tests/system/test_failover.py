"""The main job on the whole stack: real web servers, name servers, Prometheus, Alertmanager."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from observed import SOON, at_serials, down_alerts, everywhere, places, raised, serials, webhook

from demo.stack import Stack, wait_for

FIRING = {"status": "firing", "labels": {"alertname": "MainDown", "server": "main"}}
RESOLVED = {"status": "resolved", "labels": {"alertname": "MainDown", "server": "main"}}


@pytest.fixture(scope="module")
def running() -> Iterator[Stack]:
    """One stack for all tests here: starting it takes longer than most of them."""
    with Stack() as stack:
        stack.settle()
        yield stack


@pytest.fixture
def stack(running: Stack) -> Iterator[Stack]:
    """The stack at peace: all run, no alert, main serves everywhere; and so again afterwards."""
    yield running
    for part in running.parts.values():
        part.resume()
        part.start()
    wait_for(lambda: not down_alerts(running), SOON, "the alerts to end")
    everywhere(running, running.main)


@pytest.mark.parametrize("how", ["killed", "silent"])
def test_main_is_down_and_comes_back(stack: Stack, how: str) -> None:
    """Killed (connections are refused) or silent (packets vanish): all follow, there and back."""
    before = serials(stack)
    web = stack.parts["web-main"]
    end, back = (web.kill, web.start) if how == "killed" else (web.silence, web.resume)
    end()
    everywhere(stack, stack.backup)
    at_serials(stack, raised(before, 1))
    back()
    everywhere(stack, stack.main)
    at_serials(stack, raised(before, 2))


def test_mains_own_name_server_dies_with_it_and_catches_up_later(stack: Stack) -> None:
    """The power cut: the others go on without it; back, it gets the zones without a new change."""
    before = serials(stack)
    for part in stack.on("main"):
        part.kill()
    everywhere(stack, stack.backup, "ns1", "ns3")
    assert places(stack, "ns2") == {None}
    stack.parts["ns2"].start()
    everywhere(stack, stack.backup, "ns2")
    at_serials(stack, raised(before, 1))
    stack.parts["web-main"].start()
    everywhere(stack, stack.main)
    at_serials(stack, raised(before, 2))


def test_a_dead_backup_changes_nothing(stack: Stack) -> None:
    """With nowhere to go the zones stay, also when main dies too."""
    before = serials(stack)
    stack.parts["web-backup"].kill()
    wait_for(lambda: down_alerts(stack) == {"BackupDown"}, SOON, "BackupDown")
    wait_for(lambda: webhook(stack, FIRING) == 200, SOON, "our looks to have said what they see")
    stack.parts["web-main"].kill()
    wait_for(lambda: down_alerts(stack) == {"BackupDown", "MainDown"}, SOON, "both alerts")
    wait_for(lambda: webhook(stack, FIRING) == 200, SOON, "our looks to have said what they see")
    assert (serials(stack), places(stack)) == (before, {stack.main})
    stack.parts["web-backup"].start()
    everywhere(stack, stack.backup)


def test_webhooks_move_a_serial_only_when_content_changes(stack: Stack) -> None:
    """At once, repeated, out of order, forged: a webhook is a wake-up, Alertmanager is asked."""
    before = serials(stack)
    with ThreadPoolExecutor(20) as pool:
        statuses = pool.map(lambda alert: webhook(stack, alert), [FIRING, RESOLVED] * 10)
    assert set(statuses) == {200}
    assert (serials(stack), places(stack)) == (before, {stack.main})

    stack.parts["web-main"].kill()
    everywhere(stack, stack.backup)
    at_serials(stack, raised(before, 1))
    with ThreadPoolExecutor(20) as pool:
        statuses = pool.map(lambda alert: webhook(stack, alert), [RESOLVED, FIRING] * 10)
    assert set(statuses) == {200}
    assert (serials(stack), places(stack)) == (raised(before, 1), {stack.backup})


def test_a_forced_rewrite_moves_every_serial_by_one(stack: Stack) -> None:
    """And the answer says what became of each zone, at each secondary too."""
    before = serials(stack)
    answer = stack.post("/rewrite", {"mode": "forced"}, stack.layout.operator_token)
    assert answer.status_code == 200
    at_serials(stack, raised(before, 1))
    said = answer.json()
    assert said["serving"] == "main"
    for zone, numbers in serials(stack).items():
        serial = numbers.pop()
        assert said["zones"][zone] == {
            "serial": serial, "written": True, "failed": None, "reason": "",
        }  # fmt: skip
        for secondary in ("ns2", "ns3"):
            assert said["secondaries"][secondary][zone] == {
                "serial": serial, "serves": True, "reason": "",
            }  # fmt: skip


def test_a_source_that_does_not_check_out_is_refused(stack: Stack) -> None:
    """422 with file and line; what is served stays served; a switch goes on from what was good."""
    path = stack.layout.sources / "example.org.base"
    good = path.read_bytes()
    before = serials(stack)
    path.write_bytes(good + b"broken IN A @ip@\n")
    try:
        answer = stack.post(
            "/rewrite", {"mode": "forced", "zones": ["example.org"]}, stack.layout.operator_token
        )
        assert answer.status_code == 422
        its = answer.json()["zones"]["example.org"]
        assert its["failed"] == "accept"
        line = good.count(b"\n") + 1
        assert its["reason"].startswith(f"{path}:{line}: @ip@")
        assert serials(stack) == before
        stack.parts["web-main"].kill()
        everywhere(stack, stack.backup)
        at_serials(stack, raised(before, 1))
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize(
    ("path", "token", "body", "status"),
    [
        pytest.param("/webhook", None, {}, 401, id="no token"),
        pytest.param("/webhook", "x" * 32, {}, 401, id="an unknown token"),
        pytest.param("/webhook", "operator", {}, 403, id="the operator's token for a webhook"),
        pytest.param("/rewrite", "webhook", {"mode": "forced"}, 403, id="Alertmanager's by hand"),
        pytest.param("/webhook", "webhook", {"version": "4"}, 422, id="a malformed payload"),
        pytest.param("/webhook", "webhook", {"x": "y" * 2**20}, 413, id="over 1 MiB"),
    ],
)
def test_what_is_refused(
    stack: Stack, path: str, token: str | None, body: object, status: int
) -> None:
    """By the real daemon, with its token files; each refusal says why, and moves nothing."""
    before = serials(stack)
    tokens = {"webhook": stack.layout.webhook_token, "operator": stack.layout.operator_token}
    answer = stack.post(path, body, tokens.get(token, token) if token else None)
    assert answer.status_code == status
    assert answer.json()["error"]
    assert serials(stack) == before


def test_the_command_line_works_beside_the_daemon(stack: Stack) -> None:
    """Same state, same lock: neither undoes what the other did."""
    before = serials(stack)
    done = stack.zonerw("rewrite", "--forced", "example.org")
    assert (done.returncode, done.stderr) == (0, "")
    serial = stack.serial_of("ns1", "example.org")
    assert f"example.org {serial} published\n  ns2 serves it\n  ns3 serves it\n" in done.stdout
    assert stack.zonerw("rewrite").stdout == ""
    after = serials(stack)
    assert after["example.org"] == raised(before, 1)["example.org"]
    assert after["example.net"] == before["example.net"]
    assert webhook(stack, FIRING) == 200
    assert serials(stack) == after
