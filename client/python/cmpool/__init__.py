"""cmpool: a pool of memory for KV-cache and model blocks, as an engine sees it.

Keys and buffers go in, hits and misses come out. Each call has a deadline, and each failure of the pool is a miss:
`Report.trouble` and `Lease.trouble` say why. What raises is a wrong request, or a question for people.
"""

from cmpool._cmpool import Call, Chain, Lease, Memory, Pool, Report
from cmpool._cmpool import version as __version__
from cmpool._errors import (
    Again,
    Corrupt,
    Deadline,
    Denied,
    Error,
    Fault,
    Invalid,
    LeaseLost,
    Mismatch,
    NoCapacity,
    PeerDown,
    Unsupported,
)
from cmpool._outcome import Outcome
from cmpool._async import AsyncPool

__all__ = [
    "Again",
    "AsyncPool",
    "Call",
    "Chain",
    "Corrupt",
    "Deadline",
    "Denied",
    "Error",
    "Fault",
    "Invalid",
    "Lease",
    "LeaseLost",
    "Memory",
    "Mismatch",
    "NoCapacity",
    "Outcome",
    "PeerDown",
    "Pool",
    "Report",
    "Unsupported",
]
