"""Log lines of both programs: logfmt on standard error, times in UTC."""

import logging
import sys
import time
from collections.abc import Callable, Collection, Mapping

from logfmter import Logfmter

# So many have a line each; more lines tell nobody more.
_LINES = 20


def to_stderr(level: int = logging.INFO) -> None:
    """Send every logger's lines to standard error, one fact with its fields a line."""
    formatter = Logfmter(
        keys=["at", "level"],
        mapping={"at": "asctime", "level": "levelname"},
        datefmt="%Y-%m-%dT%H:%M:%SZ",
    )
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # What these libraries report of their ordinary work, we report ourselves where it matters.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def tell(  # noqa: PLR0913
    log: logging.Logger,
    fact: str,
    them: Collection[str],
    fields: Callable[[str], Mapping[str, object]],
    *,
    level: int = logging.INFO,
    each: str = "zone",
    **shared: object,
) -> None:
    """A line for each, with its own fields and the shared ones; of many, one as an example."""
    if len(them) > _LINES:
        name = next(iter(them))
        extra = {"number": len(them), "such_as": name, **fields(name), **shared}
        log.log(level, fact, extra=extra)
        return
    for name in them:
        log.log(level, fact, extra={each: name, **fields(name), **shared})
