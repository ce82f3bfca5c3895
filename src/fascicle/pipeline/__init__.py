"""Bounded-memory jobs on volumes, and the generated sample brain."""
