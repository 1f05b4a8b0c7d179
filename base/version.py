"""Which Sluice this is."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("sluice")
except PackageNotFoundError:  # run from a folder, and never installed
    VERSION = "unknown"
