"""Memory that ran out, in words that help."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from expunge.errors import ExpungeError
from expunge.models import is_out_of_memory


@contextmanager
def reported_out_of_memory(remedy: str) -> Iterator[None]:
    """Turn memory that ran out into a line that names what helps.

    Raises:
        ExpungeError: it ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise ExpungeError("out of memory", remedy=remedy) from None
        raise
