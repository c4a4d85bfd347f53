"""What a server is judged by, on the whole stack: required checks of several kinds."""

import re

from observed import SOON, at_serials, down_alerts, everywhere, places, raised, serials

from demo.stack import Stack, http, wait_for


def with_checks(text: str) -> str:
    """Main's name server is required too; its mail is shown, and nobody has it."""
    port = re.findall(r"(?m)^port = (\d+)$", text)[0]
    checks = f"""\
[servers.main.checks.dns]
dns = "example.org"
port = {port}
[servers.main.checks.mail]
tcp = 1
banner = "220 "
required = false

[servers.backup]
"""
    return text.replace("[servers.backup]\n", checks)


def test_a_required_check_moves_the_zones_and_one_that_is_only_shown_does_not() -> None:
    """Main's pages go on; its name server dies, and that is what the owner can't do without."""
    with Stack(edit=with_checks) as stack:
        stack.settle()
        before = serials(stack)
        page = http("GET", stack.layout.url("exporter") + "/metrics?collect[]=servers").text
        failing = re.findall(r"(?m)^zonerw_check_failing\{(.*)\} 1\.0$", page)
        assert failing == [
            f'address="{stack.main}",check="mail",reason="connection refused",server="main"'
        ]
        assert (down_alerts(stack), places(stack)) == (set(), {stack.main})

        stack.parts["ns2"].kill()
        everywhere(stack, stack.backup, "ns1", "ns3")
        wait_for(lambda: down_alerts(stack) == {"MainDown"}, SOON, "MainDown to be known")
        why = stack.zonerw("status").stdout
        assert "main is down: MainDown is firing, down in 3 looks (dns: connection refused)" in why

        stack.parts["ns2"].start()
        everywhere(stack, stack.main)
        at_serials(stack, raised(before, 2))
