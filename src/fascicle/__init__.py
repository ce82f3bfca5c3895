"""Fascicle: a versioned data service for connectomics."""

__version__ = "0.1.0"
