"""What became of one block of a batch."""

import enum


class Outcome(enum.IntEnum):
    """Equal to the numbers of `Report.outcomes`."""

    MISS = 0
    HIT = 1
    STORED = 2
    PRESENT = 3
    DROPPED = 4
    TOO_SMALL = 5
    OUTSIDE = 6
