"""Point annotations: elements in space, by tag, and by the body that they lie in."""
