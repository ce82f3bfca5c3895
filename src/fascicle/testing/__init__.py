"""What implementations of the seams must pass; subclass these in tests of your own engines."""
