"""Compiled loops on plain arrays (Numba). They know nothing of requests, stores or files.

Importing this package costs nothing; importing one of its modules imports Numba. Callers that must start quickly (the
command line, byte-moving request paths) therefore import kernels inside of functions.
"""
