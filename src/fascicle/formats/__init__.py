"""Bytes to arrays and back. Pure functions: no files, no network, no store, no HTTP."""
