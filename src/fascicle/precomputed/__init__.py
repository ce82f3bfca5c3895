"""Precomputed volumes made of data instances: for the live view over HTTP, and for whatever writes them elsewhere.

Nothing here knows of HTTP. `addresses` finds what a path names, `volumes` describes a volume at a version and gives its
chunks, `image_chunks` and `label_chunks` make those of one scale.
"""
