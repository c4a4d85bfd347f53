"""Words for what went wrong on the network: one of a few short reasons, and all that is known.

Owns the reasons that a connection can end for; a metric has them as a label, so there are few.
Those of an answer that is not as it should be belong to whoever reads the answer.
"""

import errno
import http.client
import ssl
from collections.abc import Iterator

import urllib3.exceptions

# It is here that something is short, not there: no word about whoever was asked.
OUT_OF_RESOURCES = "out of resources"

# Of what the other side says, so much is told.
_SHOWN = 300


def shown(text: str) -> str:
    """What the other side said, as it can stand in a log or on a terminal: printable, and short."""
    printable = "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text[:_SHOWN]
    )
    return printable if len(text) <= _SHOWN else f"{printable}…"


def network_reason(error: OSError) -> str:
    """The short reason of an error that the network (or the system) gave."""
    if isinstance(error, TimeoutError):
        return "timeout"
    return _NETWORK.get(error.errno or 0, "network error")


def explain(error: BaseException) -> tuple[str, str]:
    """Reason and detail, by the first cause that says something; libraries wrap what they got."""
    for cause in _causes(error):
        reason = _reason(cause)
        if reason:
            return reason, str(cause) or type(cause).__name__
    return "not http", str(error)


_NETWORK = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.ECONNABORTED: "connection reset",
    errno.EPIPE: "connection reset",
    errno.EHOSTUNREACH: "no route",
    errno.EHOSTDOWN: "no route",
    errno.ENETUNREACH: "no route",
    errno.ENETDOWN: "no route",
    errno.EADDRNOTAVAIL: "no route",  # an IPv6 address, and no IPv6 here
    errno.EAFNOSUPPORT: "no route",
    errno.EMFILE: OUT_OF_RESOURCES,
    errno.ENFILE: OUT_OF_RESOURCES,
    errno.ENOMEM: OUT_OF_RESOURCES,
    errno.ENOBUFS: OUT_OF_RESOURCES,
}

# OpenSSL's X509_V_ERR_*; Python names none of them.
_CERTIFICATE = {
    9: "certificate not yet valid",
    10: "certificate expired",
    18: "certificate not trusted",  # self-signed
    19: "certificate not trusted",  # a self-signed authority
    20: "certificate not trusted",  # an unknown authority, or its certificate is not sent along
    21: "certificate not trusted",
    62: "certificate for another name",
    64: "certificate for another name",  # an address
}

_KINDS: dict[type[BaseException], str] = {
    urllib3.exceptions.LocationValueError: "unusable url",
    http.client.InvalidURL: "unusable url",  # a redirect led there
    UnicodeError: "unusable url",  # its host is no name
    ssl.SSLError: "tls",
    http.client.RemoteDisconnected: "connection closed",
    http.client.IncompleteRead: "broken off",
    TimeoutError: "timeout",
}


def _reason(cause: BaseException) -> str | None:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _CERTIFICATE.get(cause.verify_code, "certificate")
    for kind, reason in _KINDS.items():
        if isinstance(cause, kind):
            return reason
    if isinstance(cause, OSError) and cause.errno:
        return network_reason(cause)
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that it wraps, outermost first."""
    seen: list[object] = []
    left: list[object] = [error]
    while left:
        cause = left.pop(0)
        if isinstance(cause, BaseException) and cause not in seen:
            seen.append(cause)
            yield cause
            left += [*cause.args, getattr(cause, "reason", None), cause.__cause__]
            left.append(cause.__context__)
