"""What a call raises, by the code of the C border; each code asks for another action."""


class Error(Exception):
    """A call failed; `code` says how, the text why."""

    code = 0


class Again(Error):
    """Too much is on its way, or it is not done yet."""

    code = 1


class NoCapacity(Error):
    """Nothing is evictable: back off, then retry."""

    code = 2


class Deadline(Error, TimeoutError):
    """Time is up."""

    code = 3


class LeaseLost(Error):
    """The bytes may be reused by now."""

    code = 4


class PeerDown(Error, ConnectionError):
    """Nobody answers there."""

    code = 5


class Corrupt(Error):
    """Checksum or digest mismatch."""

    code = 6


class Denied(Error, PermissionError):
    """Wrong key or tenant: do not retry."""

    code = 7


class Mismatch(Error):
    """Another fingerprint or protocol version: show the text to a person."""

    code = 8


class Unsupported(Error):
    """Not here: on another host, or by this library."""

    code = 9


class Invalid(Error, ValueError):
    """The request itself is wrong: retrying cannot help."""

    code = 10


class Fault(Error):
    """A mistake inside of the library."""

    code = 100


_BY_CODE = {kind.code: kind for kind in Error.__subclasses__()}


def of_code(code: int) -> type[Error]:
    return _BY_CODE.get(code, Error)
