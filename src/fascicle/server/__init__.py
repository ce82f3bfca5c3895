"""The HTTP server: an ASGI application that turns requests into calls on datatypes."""
