"""Regions of interest: sets of blocks, stored as runs along x."""
