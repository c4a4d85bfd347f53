"""What is seen of a running stack from outside, and how the tests wait for it."""

from typing import Any, get_args

from actions.decide import AlertState, LookState
from demo.stack import Stack, http, wait_for

# At one-second intervals a switch takes some three seconds; a busy machine gets its time.
SOON = 30.0

# Of the timer: twice what our own looks take to move the zones.
ROUNDS = 6

Serials = dict[str, set[int | None]]
Switches = dict[tuple[str, str, str], int]

# What a switch there and back counts as.
THERE, BACK = ("main", "backup", "down"), ("backup", "main", "handback")


def down_alerts(stack: Stack) -> set[str]:
    """Which of the alerts that say that a server is down are active."""
    return {name for name, _ in stack.alerts() if name in ("MainDown", "BackupDown")}


def places(stack: Stack, *nameservers: str) -> set[str | None]:
    """Where these nameservers say that the zones' web servers are; all, if none is named."""
    return {
        stack.address_of(nameserver, zone)
        for nameserver in nameservers or stack.nameservers
        for zone in stack.zones
    }


def serials(stack: Stack, *nameservers: str) -> Serials:
    """Zone -> the serials that these nameservers serve."""
    names = nameservers or stack.nameservers
    return {zone: {stack.serial_of(name, zone) for name in names} for zone in stack.zones}


def raised(before: Serials, by: int) -> Serials:
    """The serials after so many changes."""
    return {zone: {n + by for n in numbers if n is not None} for zone, numbers in before.items()}


def everywhere(stack: Stack, address: str, *nameservers: str, within: float = SOON) -> None:
    """Wait until these nameservers point every zone there."""
    wait_for(lambda: places(stack, *nameservers) == {address}, within, f"all zones at {address}")


def at_serials(stack: Stack, expected: Serials) -> None:
    """Wait for these serials: NSD can give an old answer once more after the first new one."""
    wait_for(lambda: serials(stack) == expected, 5, f"the serials {expected}")


def moved(stack: Stack, address: str, expected: Serials, within: float = SOON) -> None:
    """Wait until every zone is there, with these serials: no change beside the one waited for."""
    everywhere(stack, address, within=within)
    at_serials(stack, expected)


def holds(stack: Stack, address: str, expected: Serials) -> None:
    """See every zone stay there, with these serials, while actions runs again and again.

    A serial is never lowered: who has these at the end has not moved meanwhile, to and fro neither.
    """
    rounds_pass(stack)
    # On a busy machine an answer may be late: who has moved will not have these again.
    wait_for(lambda: (serials(stack), places(stack)) == (expected, {address}), SOON, f"{expected}")


def rounds_pass(stack: Stack) -> None:
    """Wait until actions has had many occasions to do something."""
    timer = 'zonerw_converges_total{trigger="timer"}'
    begun = metrics(stack)[timer]
    wait_for(lambda: metrics(stack)[timer] >= begun + ROUNDS, SOON, f"{ROUNDS} rounds")


# --- what actions says ----------------------------------------------------------------------


def metrics(stack: Stack) -> dict[str, float]:
    """What actions says of itself: each series, as it is written there, and its value."""
    lines = http("GET", stack.layout.url("actions") + "/metrics").text.splitlines()
    series = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in series}


def alone(stack: Stack) -> bool:
    """Whether actions knows of no alert, and goes by its own looks."""
    return metrics(stack)["zonerw_alone"] == 1


def witnesses(stack: Stack, server: str) -> tuple[str, str]:
    """What alert and look say of the server."""
    found = metrics(stack)

    def said(witness: str, states: tuple[str, ...]) -> str:
        (state,) = (
            state
            for state in states
            if found[f'zonerw_witness{{server="{server}",state="{state}",witness="{witness}"}}']
        )
        return state

    return said("alert", get_args(AlertState)), said("look", get_args(LookState))


def seen_up(stack: Stack, server: str) -> bool:
    """Whether actions has ever seen the server meet its checks as they are configured."""
    return metrics(stack)[f'zonerw_server_seen_up{{server="{server}"}}'] == 1


def switches(stack: Stack) -> Switches:
    """How often actions has decided for another server since it was started."""
    shown = metrics(stack)
    return {
        (before, after, cause): int(count)
        for before in ("main", "backup", "third")
        for after in ("main", "backup", "third")
        for cause in ("down", "handback", "pin")
        if (count := shown.get(_switch(before, after, cause)))
    }


def _switch(before: str, after: str, cause: str) -> str:
    return f'zonerw_switches_total{{cause="{cause}",from="{before}",to="{after}"}}'


def heard(stack: Stack, status: str) -> int:
    """How many webhooks said of MainDown, since actions was started, that it is `status`."""
    name = f'zonerw_webhook_alerts_total{{alertname="MainDown",status="{status}"}}'
    return int(metrics(stack)[name])


def log(stack: Stack) -> list[str]:
    """What actions has logged, over all its starts."""
    return (stack.layout.folder / "actions.log").read_text().splitlines()


# --- what Alertmanager does -----------------------------------------------------------------


def webhook(stack: Stack, *alerts: dict[str, Any]) -> int:
    """Post a payload as Alertmanager does; the status of the answer."""
    body = {"version": "4", "status": "firing", "alerts": alerts}
    return stack.post("/webhook", body, stack.layout.webhook_token).status_code
