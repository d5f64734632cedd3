"""Python's cycle collector in processes that serve calls."""

from __future__ import annotations

import gc

# Objects that a process gains before the collector looks for cycles. Calls leave none; the default of 700 would have it
# look after every few dozen of them.
_THRESHOLD = 20_000


def settle() -> None:
    """Everything that stays is loaded: modules, code, a model's objects need not be walked over again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_THRESHOLD)
