"""python -m exporter: flags, wiring, signals."""

import argparse
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from prometheus_client import generate_latest

from exporter import collector
from exporter import log as logs
from exporter.config import DEFAULT_PATH, Config, read_or_exit
from exporter.web import LONGEST, Listener

log = logging.getLogger(__name__)


def main() -> None:
    """Read the configuration that the command line names, and run."""
    parser = argparse.ArgumentParser(
        prog="python -m exporter",
        description="Look at servers and nameservers when Prometheus asks, and tell what was seen.",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help=f"the configuration; without it ZONERW_CONFIG, else {DEFAULT_PATH}",
    )
    parser.add_argument("--once", action="store_true", help="print one scrape, and end")
    options = parser.parse_args()
    config = read_or_exit(options.config)
    sys.exit(once(config) if options.once else run(config))


def once(config: Config) -> int:
    """Print what a scrape of everything would show.

    Returns exit status 0, whoever is down; 1 where it can't be printed, 130 when interrupted.
    """
    logs.to_stderr()
    try:
        seen = collector.collect(config, collector.LastSeen(), collector.GROUPS, LONGEST)
        sys.stdout.write(generate_latest(seen).decode())
        sys.stdout.flush()
    except OSError as error:
        # Or Python would try again to write what is left, and end with a status of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        log.error("can't print", extra={"reason": error.strerror})  # noqa: TRY400
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def run(config: Config) -> int:
    """Serve until a signal ends the process here: with status 0 on SIGTERM, 130 on SIGINT.

    Returns exit status 1 when it can't listen.
    """
    logs.to_stderr()
    # Blocked in every thread that starts from here on, and taken by the one that waits for them.
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    listen = config.exporter.listen
    try:
        listener = Listener(config)
    except OSError as error:
        reason = error.strerror  # says all that a traceback could
        log.error("can't listen", extra={"address": listen, "reason": reason})  # noqa: TRY400
        return 1
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    log.info("listening", extra={"url": f"http://{listen}/"})
    received = signal.sigwait(signals)
    log.info("stopping", extra={"signal": signal.Signals(received).name})
    logging.shutdown()
    # A scrape may be under way for seconds yet, in threads that Python would wait for. There is
    # nothing to save, and whoever scrapes tries again.
    os._exit(0 if received == signal.SIGTERM else 130)


if __name__ == "__main__":
    main()
