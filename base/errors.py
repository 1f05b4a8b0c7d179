"""Problems and their categories. What HTTP makes of a category is decided in one table, in handlers/errors.py."""

from enum import Enum


class Category(Enum):
    """What kind of thing went wrong, for the one who asked."""

    INVALID = "invalid"
    NOT_PROCESSED = "not-supported"
    UNAUTHENTICATED = "login"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not-found"
    DELETED = "deleted"
    METHOD = "method"
    NOT_ACCEPTABLE = "not-acceptable"
    TOO_LARGE = "too-large"
    UNSUPPORTED = "unsupported-media"
    CONFLICT = "conflict"
    TENANT_BUSY = "tenant-busy"
    SERVER_BUSY = "server-busy"
    EXPIRED = "expired"
    BROKEN = "broken"


class Problem(Exception):
    """Something that a client is told, in words that hold no patient's data.

    `expression` names the parameter or element at fault, where there is one.
    """

    category = Category.BROKEN

    def __init__(self, message: str, *, expression: str | None = None) -> None:
        super().__init__(message)
        self.expression = expression


class Invalid(Problem):
    category = Category.INVALID


class NotSupported(Problem):
    category = Category.NOT_PROCESSED


class Unauthenticated(Problem):
    category = Category.UNAUTHENTICATED


class InvalidToken(Unauthenticated):
    """A bearer token that is not good, or not of somebody who is trusted here."""


class Forbidden(Problem):
    category = Category.FORBIDDEN


class NotFound(Problem):
    category = Category.NOT_FOUND


class Deleted(Problem):
    category = Category.DELETED


class NotAcceptable(Problem):
    category = Category.NOT_ACCEPTABLE


class TooLarge(Problem):
    category = Category.TOO_LARGE


class Unsupported(Problem):
    """The body is of a media type that is not read here."""

    category = Category.UNSUPPORTED


class Conflict(Problem):
    category = Category.CONFLICT


class TenantBusy(Problem):
    """One tenant has more waiting than its share; the others are served."""

    category = Category.TENANT_BUSY


class ServerBusy(Problem):
    """The server, or the database behind it, cannot take this now."""

    category = Category.SERVER_BUSY


class Expired(Problem):
    """The deadline passed before the answer was there."""

    category = Category.EXPIRED


class Mismatch(Problem):
    """A row came back that belongs to no one who asked: nothing of its batch may be served."""

    category = Category.BROKEN
