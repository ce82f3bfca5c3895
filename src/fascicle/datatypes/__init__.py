"""Datatypes: one package each. `registry` knows them all."""
