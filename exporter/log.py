"""Log lines of both programs: logfmt on standard error, times in UTC."""

import logging
import sys
import time

from logfmter import Logfmter


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
