"""The errors of the project: one small hierarchy in which each error knows its HTTP status.

A message names the thing, the value that was given and what would have been right; it becomes the text body of
the answer. Errors that are not of this hierarchy are defects and become a 500.
"""

import msgspec


class FascicleError(Exception):
    """Base of all expected errors."""

    status = 400
    names_path = True
    """Whether the text of an answer ends in the path of the request."""

    @property
    def message(self) -> str:
        return str(self.args[0]) if self.args else self.__class__.__name__


class BadRequest(FascicleError):
    """The request makes no sense, names something unknown or is not allowed in this state."""


class BadCall(BadRequest):
    """A path or method that no datatype answers; the text says where help is."""

    names_path = False


class NotFound(FascicleError):
    """A key, body, index or record is not there (unknown UUIDs and instances are `BadRequest`)."""

    status = 404
    names_path = False


class NoContent(FascicleError):
    """An existence test that answers no without being a failure (HEAD of a sparse volume)."""

    status = 204


class RangeNotSatisfiable(FascicleError):
    """A Range header lies outside of the value; `size` is the value's length in bytes."""

    status = 416

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message)
        self.size = size


class PayloadTooLarge(FascicleError):
    """A body is larger than the server's limit."""

    status = 413


class Blocked(FascicleError):
    """The user or address is on the block list."""

    status = 429


class Unauthorized(FascicleError):
    status = 401


class Forbidden(FascicleError):
    status = 403


class Throttled(FascicleError):
    """The request asked to be throttled and the server runs its maximum of such requests."""

    status = 503


class Unavailable(FascicleError):
    """The server is shutting down."""

    status = 503


class StoreError(FascicleError):
    """The store could not do what was asked: damaged data, no space, a foreign file."""

    status = 500


class CorruptionError(StoreError):
    """Stored bytes do not match their checksum or their format."""


class StoreFull(StoreError):
    """No space is left on the device; nothing of the transaction was kept."""

    status = 507


class ConflictError(BadRequest):
    """A key has several values that do not descend from each other at a merged version."""


NOT_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding a client's JSON raises: wrong syntax or types, bytes that are no UTF-8, lists nested without end."""
