"""A person's wish to pin a server, the same over HTTP and on the command line.

Owns what such a wish may say, and the words for a server that is none. What becomes of a pin is
converge's business.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from actions.state import Pin
from exporter.config import Config, Duration

PIN_FOR = "24h"  # a day's work on a server, and no pin is forgotten for longer


_LONGEST = 200


def printable(text: str) -> str:
    """Text as it can be written down and shown, on one line: anything else becomes a "?"."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def _line(text: str) -> str:
    line = " ".join(text.split())
    if printable(line) != line or len(line) > _LONGEST:
        raise ValueError(f"printable text, {_LONGEST} characters at most")
    return line


class PinWish(BaseModel):
    """The body of PUT /pin; `seconds` is spelt `for`, a duration as in the configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    server: str
    seconds: Duration = Field(alias="for", default=PIN_FOR, validate_default=True)
    reason: Annotated[str, AfterValidator(_line)] = ""

    def pin(self, by: str, now: datetime) -> Pin:
        """The pin that is wished for."""
        until = now + timedelta(seconds=self.seconds)
        return Pin(server=self.server, until=until, reason=self.reason, by=by)


def unknown_servers(config: Config, names: Collection[str]) -> str | None:
    """Say which of the names are no servers, and what was expected; None where all are."""
    unknown = set(names) - config.servers.keys()
    if not unknown:
        return None
    return (
        f"unknown server: {', '.join(map(repr, sorted(unknown)))};"
        f" expected one of {', '.join(config.servers)}"
    )
