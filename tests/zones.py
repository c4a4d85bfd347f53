"""The servers and the head of a zone file that the tests of zones begin with."""

from exporter.config import Server

SERVERS = {
    "main": Server(addresses=("192.0.2.1", "2001:db8::1")),
    "backup": Server(addresses=("198.51.100.7",)),
}
HEAD = """\
$TTL 300
@ SOA ns1 hostmaster @serial number@ 2h 10m 4w 60
@ NS ns1
ns1 A 192.0.2.53
"""  # what a test adds begins in line 5
