"""The verdict on a run: what the clients saw, against what the handlers recorded and what was killed when."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.cluster import PROXY, REPLICA
from tests.chaos.faults import Kill
from tests.chaos.load import Outcome

# What Swerve itself says of a replica that died begins so; all else that is UNAVAILABLE comes from grpcio, which has
# lost its proxy.
_REPLICA_DIED = ("The replica that served the call died", "The replica of deployment")
# A replica notes a call as begun right before the handler's first line, and a kill may come between the two. It seldom
# does: more than one for so many killed replicas would mean that calls are noted too early.
_KILLS_FOR_ONE_UNPROVEN = 50
_NOT_BEGUN = "no user code had begun"
# grpcio tells of a proxy's death so much later, and its clock and ours read so much apart.
_NOTICE_S = 2.0


@dataclass(frozen=True, slots=True)
class Record:
    """A handler of `part` ("front", "back") began or ended a call, or a batch took it ("joined")."""

    part: str
    event: str
    call: str
    pid: int


def read_journal(folder: Path) -> list[Record]:
    """All records; the order is that of each process alone."""
    records = []
    for path in sorted((*folder.glob("*.front"), *folder.glob("*.back"))):
        for line in path.read_text().splitlines():
            part, event, call, pid = line.split()
            records.append(Record(part, event, call, int(pid)))
    return records


def violations(outcomes: Sequence[Outcome], records: Sequence[Record], kills: Sequence[Kill]) -> list[str]:
    """What must not have happened, in words; empty when all is well."""
    found = []
    by_call: Mapping[str, list[Record]] = defaultdict(list)
    for record in records:
        by_call[record.call].append(record)
    counts = Counter((record.part, record.event, record.call) for record in records)
    found += [f"{call}: {part} {event} {count} times" for (part, event, call), count in counts.items() if count > 1]
    killed = {kill.pid for kill in kills}
    proxy_deaths = [kill.at for kill in kills if kill.kind == PROXY]
    unproven = []
    for outcome in outcomes:
        reason = _wrong(outcome, by_call[outcome.call], killed, proxy_deaths)
        if reason:
            (unproven if reason.startswith(_NOT_BEGUN) else found).append(f"{outcome.call} ({outcome.kind}): {reason}")
    borne = 1 + sum(kill.kind == REPLICA for kill in kills) // _KILLS_FOR_ONE_UNPROVEN
    return found + unproven if len(unproven) > borne else found


def _wrong(outcome: Outcome, records: Sequence[Record], killed: set[int], proxy_deaths: Sequence[float]) -> str:
    events = {(record.part, record.event): record.pid for record in records}
    if outcome.code == "OK":
        return "" if ("front", "ended") in events else "answered, but no handler ended it"
    if outcome.code != "UNAVAILABLE":
        return f"ended with {outcome.code}: {outcome.details}"
    if not outcome.details.startswith(_REPLICA_DIED):
        nearby = any(outcome.began - _NOTICE_S < at < outcome.ended + _NOTICE_S for at in proxy_deaths)
        return (
            ""
            if nearby or events.get(("front", "began")) in killed
            else f"UNAVAILABLE though no proxy had died: {outcome.details}"
        )
    if ("front", "began") not in events:
        return f"{_NOT_BEGUN} it, and it was not sent to another replica: {outcome.details}"
    if events["front", "began"] in killed:
        return ""
    # Front lives: the call that it made was lost.
    if ("back", "began") not in events:
        return f"{_NOT_BEGUN} the call that it made, and that was not sent again: {outcome.details}"
    return "" if events["back", "began"] in killed else f"UNAVAILABLE though no replica was killed: {outcome.details}"
