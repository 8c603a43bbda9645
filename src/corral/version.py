"""The version of the package; it stands in every record."""

__version__ = "0.1.0"
