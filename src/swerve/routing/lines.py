"""The calls that wait for a replica, in the order in which they are served.

`Fifo` is the order of arrival. `FairLine` orders by priority class and, within a class, serves tenants in turn; when
the queue is full, who has the most waiting in the least urgent class gives way to who has fewer.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from swerve.routing.calls import RoutedCall

# A longer name of a tenant is kept as its digest: clients choose it.
_MAX_NAME = 64

Call = TypeVar("Call", bound=RoutedCall)


class Line(Protocol[Call]):
    """Waiting calls. All but `make_room` and iteration take constant time."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Call]: ...
    def first(self) -> Call:
        """The call that is next. The line is not empty."""

    def add(self, call: Call) -> None: ...
    def take(self, call: Call) -> None:
        """`call`, which waits, has got a replica."""

    def withdraw(self, call: Call) -> bool:
        """`call` waits no more, for another reason. False when it did not wait."""

    def make_room(self, call: Call) -> Call | None:
        """Take out the call that gives way to `call` in a full queue; None when none does."""


class Fifo(Generic[Call]):
    """Calls in the order of their arrival. None gives way to another."""

    __slots__ = ("_calls",)

    def __init__(self) -> None:
        # To find the first entry of a plain dict, all that were taken before it are passed over.
        self._calls: OrderedDict[Call, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[Call]:
        return iter(self._calls)

    def first(self) -> Call:
        return next(iter(self._calls))

    def add(self, call: Call) -> None:
        self._calls[call] = None

    def take(self, call: Call) -> None:
        del self._calls[call]

    def withdraw(self, call: Call) -> bool:
        return self._calls.pop(call, self) is None

    def make_room(self, call: Call) -> Call | None:
        return None


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """`swerve.config.QueueConfig` as callers take it: the metadata or auth keys, "" when they are not looked at."""

    tenant_key: str = ""
    max_tenants: int = 1
    priority_key: str = ""
    # Class names, the most urgent first, and which of them a call that names none has.
    priorities: tuple[str, ...] = ()
    default_priority: str = ""

    @staticmethod
    def of(config: Mapping[str, Any]) -> QueueOptions:
        priorities = tuple(config.get("priorities") or ())
        return QueueOptions(
            tenant_key=config.get("tenant_key") or "",
            max_tenants=int(config["max_tenants"]),
            priority_key=config.get("priority_key") or "",
            priorities=priorities,
            default_priority=config.get("default_priority") or (priorities[-1] if priorities else ""),
        )

    @property
    def keys(self) -> Sequence[bytes]:
        """The keys that are looked at."""
        return [key.encode() for key in (self.tenant_key, self.priority_key) if key]


class FairLine(Generic[Call]):
    """Calls by priority class, each class serving its tenants in turn, a call at a time (round robin)."""

    def __init__(self, options: QueueOptions) -> None:
        self._options = options
        self._tenant_key, self._priority_key = options.tenant_key.encode(), options.priority_key.encode()
        # For each class the waiting calls of each tenant. The tenant in front is next; once served it goes to the end.
        self._classes: list[OrderedDict[str, OrderedDict[Call, None]]] = [
            OrderedDict() for _ in options.priorities or ("",)
        ]
        self._rank = {name: index for index, name in enumerate(options.priorities)}
        self._default = self._rank.get(options.default_priority, 0)
        # Where each call stands: the index of its class, and its tenant.
        self._places: dict[Call, tuple[int, str]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Call]:
        for tenants in self._classes:
            turns: list[Iterator[Call]] = [iter(calls) for calls in tenants.values()]
            while turns:
                left = []
                for calls in turns:
                    call = next(calls, None)
                    if call is not None:
                        yield call
                        left.append(calls)
                turns = left

    def first(self) -> Call:
        tenants = next(tenants for tenants in self._classes if tenants)
        return next(iter(next(iter(tenants.values()))))

    def add(self, call: Call) -> None:
        rank, tenant = self._place(call)
        self._places[call] = rank, tenant
        self._classes[rank].setdefault(tenant, OrderedDict())[call] = None

    def take(self, call: Call) -> None:
        rank, tenant = self._remove(call)
        tenants = self._classes[rank]
        if tenant in tenants:
            tenants.move_to_end(tenant)

    def withdraw(self, call: Call) -> bool:
        if call not in self._places:
            return False
        self._remove(call)
        return True

    def make_room(self, call: Call) -> Call | None:
        rank, tenant = self._place(call)
        last = max(index for index, tenants in enumerate(self._classes) if tenants) if self._places else rank
        if rank > last:
            return None
        tenants = self._classes[last]
        longest = max(tenants.values(), key=len, default=OrderedDict[Call, None]())
        # Between equals nothing is won by changing places.
        if rank == last and len(longest) <= len(tenants.get(tenant, ())) + 1:
            return None
        newest = next(reversed(longest), None)
        if newest is not None:
            self._remove(newest)
        return newest

    def _place(self, call: Call) -> tuple[int, str]:
        rank = self._default
        if self._priority_key:
            rank = self._rank.get(call.field(self._priority_key), rank)
        tenant = call.field(self._tenant_key) if self._tenant_key else ""
        if len(tenant) > _MAX_NAME:
            tenant = hashlib.blake2b(tenant.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        tenants = self._classes[rank]
        # Whoever comes when too many tenants wait already stands with those that name none.
        if tenant not in tenants and len(tenants) >= self._options.max_tenants:
            tenant = ""
        return rank, tenant

    def _remove(self, call: Call) -> tuple[int, str]:
        rank, tenant = self._places.pop(call)
        tenants = self._classes[rank]
        del tenants[tenant][call]
        if not tenants[tenant]:
            del tenants[tenant]
        return rank, tenant
