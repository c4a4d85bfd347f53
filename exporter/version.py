"""Which version of zonerw this is."""

import importlib.metadata


def version() -> str:
    """The version of this program, as it was installed."""
    try:
        return importlib.metadata.version("zonerw")
    except importlib.metadata.PackageNotFoundError:
        return "uninstalled"  # run from a checkout that nobody installed
