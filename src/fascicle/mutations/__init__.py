"""Mutation ids and the records of completed mutations."""
