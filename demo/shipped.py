"""Where the shipped files are: prometheus/, alertmanager/, grafana/ and examples/.

In a checkout they lie beside the packages, in an installed wheel below `share/zonerw`.
"""

import sysconfig
from pathlib import Path


class MissingError(Exception):
    """Something the demo needs is not on this machine: one sentence says what, and what helps."""


def folder() -> Path:
    """The folder that holds them all; MissingError where there is none."""
    checkout = Path(__file__).resolve().parents[1]
    installed = Path(sysconfig.get_path("data"), "share", "zonerw")
    for candidate in (checkout, installed):
        if (candidate / "examples" / "zonerw.toml").is_file():
            return candidate
    raise MissingError(
        f"zonerw's configuration files are neither in {checkout} nor in {installed}:"
        " install zonerw anew, or run this from its checkout"
    )
