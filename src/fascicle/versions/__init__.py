"""Repos, the version graph, references to versions and keys resolved at a version."""
