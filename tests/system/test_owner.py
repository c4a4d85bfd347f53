"""Who tells the owner: real Prometheus and Alertmanager, and a mail server that only takes mail."""

import email
import email.policy
import re
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from typing import Any

from conftest import free_port
from observed import SOON, everywhere

from demo.stack import Stack, http, wait_for

# In the fast profile too they take a minute and more: here they are to follow MainDown soon. The
# last is the one that is seen to be muted.
FOLLOWING = {"NameserverUnreachable": "5s", "CheckFailing": "12s"}


class Mailbox(socketserver.ThreadingTCPServer):
    """A mail server that takes whatever comes, and keeps it."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, address: str, port: int) -> None:
        super().__init__((address, port), _Dialogue)
        self.mails: list[EmailMessage] = []

    def about(self, status: str) -> dict[str, str]:
        """Alert -> the text of the last mail that says of it that it is "FIRING" or "RESOLVED"."""
        found = {}
        for mail in tuple(self.mails):
            subject = re.match(r"\[(\w+)(?::\d+)?\] (\w+)", mail["Subject"])
            assert subject, mail["Subject"]
            if subject[1] == status:
                body = mail.get_body()
                assert body
                found[subject[2]] = str(body.get_content())
        return found


class _Dialogue(socketserver.StreamRequestHandler):
    """SMTP (RFC 5321) as far as a sender needs it."""

    server: Mailbox

    def handle(self) -> None:
        """Answer line by line, until the sender quits."""
        self._say("220 mailbox")
        while line := self.rfile.readline().strip().upper():
            if line == b"DATA":
                self._say("354 go ahead")
                lines = iter(self.rfile.readline, b".\r\n")
                text = b"".join(one.removeprefix(b".") for one in lines)
                mail = email.message_from_bytes(text, policy=email.policy.default)
                self.server.mails.append(mail)
            self._say("221 bye" if line == b"QUIT" else "250 fine")

    def _say(self, words: str) -> None:
        self.wfile.write(f"{words}\r\n".encode())


@contextmanager
def mailbox(address: str) -> Iterator[Mailbox]:
    """Take mail meanwhile."""
    with Mailbox(address, free_port(address)) as its:
        threading.Thread(target=its.serve_forever, daemon=True).start()
        try:
            yield its
        finally:
            its.shutdown()


def test_the_owner_hears_that_main_died_the_backup_serves_and_all_is_back_and_no_more() -> None:
    """One mail each: main's check and its name server are gone with it, which is no news."""
    with Stack() as stack, mailbox(stack.backup) as box:
        hurry(stack, box)
        stack.settle()
        for part in stack.on("main"):
            part.kill()
        everywhere(stack, stack.backup, "ns1", "ns3")
        only = {("CheckFailing", "main", "")}
        wait_for(lambda: only == muted(stack).keys(), SOON, "what follows to be muted")
        assert "connection refused" in muted(stack)["CheckFailing", "main", ""]
        told = {"MainDown", "BackupServes"}
        wait_for(lambda: told == box.about("FIRING").keys(), SOON, "mails of death and switch")
        main_down, backup_serves = (
            box.about("FIRING")[name] for name in ("MainDown", "BackupServes")
        )
        assert "main is down." in main_down
        assert f"web at {stack.main}: connection refused." in main_down
        assert "RUNBOOK.md#maindown" in main_down
        assert "zonerw has moved the zones to backup (20" in backup_serves
        assert "RUNBOOK.md#backupserves" in backup_serves

        for part in stack.on("main"):
            part.start()
        everywhere(stack, stack.main)
        wait_for(lambda: told == box.about("RESOLVED").keys(), SOON, "mails that it is over")
        subjects = [(mail["Subject"], mail["From"], mail["To"]) for mail in box.mails]
        assert {subject.split()[1] for subject, _, _ in subjects} == told
        assert {address for _, *them in subjects for address in them} == {"you@example.org"}


def hurry(stack: Stack, box: Mailbox) -> None:
    """Let mail go to the box, soon, and let what follows from MainDown come right after it."""
    folder, (address, port) = stack.layout.folder, box.server_address[:2]
    alertmanager = folder / "alertmanager.yml"
    text = alertmanager.read_text()
    text = re.sub(r'smtp_smarthost: ".*"', f'smtp_smarthost: "{address}:{port}"', text)
    text = re.sub(r"group_wait: [1-9]\w+", "group_wait: 3s", text)
    alertmanager.write_text(re.sub(r"group_interval: \w+", "group_interval: 5s", text))

    rules = folder / "rules.yml"
    text = rules.read_text()
    for alert, hold in FOLLOWING.items():
        rule = rf"(alert: {alert}\n(?: .*\n)*?        for:) \w+"
        text, number = re.subn(rule, rf"\1 {hold}", text)
        assert number == 1
    rules.write_text(text.replace("interval: 10s", "interval: 1s"))
    prometheus = folder / "prometheus.yml"
    text = prometheus.read_text()
    text = text.replace("scrape_timeout: 5s", "scrape_timeout: 1s")
    prometheus.write_text(text.replace("scrape_interval: 10s", "scrape_interval: 1s"))
    # In this order: Prometheus tells a restarted Alertmanager nothing for up to a minute.
    for name in ("alertmanager", "prometheus"):
        stack.parts[name].restart()


def muted(stack: Stack) -> dict[tuple[str, str, str], str]:
    """What Alertmanager holds and tells nobody: alert, server, nameserver; and the text of it."""
    url = stack.layout.url("alertmanager") + "/api/v2/alerts?active=false"
    alerts: list[dict[str, Any]] = http("GET", url).json()
    found = {}
    for alert in alerts:
        if alert["status"]["state"] == "suppressed":
            its = alert["labels"]
            where = its.get("server", ""), its.get("nameserver", "")
            found[its["alertname"], *where] = alert["annotations"]["description"]
    return found
