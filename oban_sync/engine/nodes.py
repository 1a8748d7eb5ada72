"""Nodes: their beats, who of them lives, who leads, and the jobs of those that died."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any

import psycopg

from oban_sync.core import controls, payload
from oban_sync.core.controls import Control
from oban_sync.core.errors import ConfigError
from oban_sync.core.loops import RefresherConfig
from oban_sync.core.options import check_name
from oban_sync.engine import signals
from oban_sync.engine.ack import MOST_ERRORS
from oban_sync.engine.asks import Ask, Rows, together
from oban_sync.engine.fetch import Shunned
from oban_sync.engine.session import Db, Tx, is_refusal, reason
from oban_sync.engine.wire import Bigints

log = logging.getLogger("oban_sync.engine")

#: A job is taken for the cause when its process died so often while it ran.
MOST_DEATHS = 3

#: Seconds between the starts of jobs that are suspect.
SUSPECT_SPACING = 10.0


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a node is, for as long as its process runs.

    Attributes:
        uuid: Minted at the start: never a host name or a process id, which come again.
        name: Its Oban instance.
        node: What people call it; several may be called the same.
        lock_key: What its LISTEN session holds a lock on; None where sessions cannot be relied on.
        crons: The cron entries its code declares.
    """

    uuid: str
    name: str
    node: str
    lock_key: int | None
    crons: tuple[str, ...] = ()

    @property
    def ident(self) -> str:
        """How signals address it."""
        return f"{self.name}.{self.node}"

    @property
    def channel(self) -> str:
        """A channel that only this node listens to."""
        return f"oban_sync_{self.uuid.replace('-', '')}"


def lock_key(uuid: str) -> int:
    """The key of a node's session lock: 64 bits of its uuid."""
    return int.from_bytes(bytes.fromhex(uuid.replace("-", ""))[:8], "big", signed=True)


@dataclass(frozen=True, slots=True)
class ProducerRow:
    """What a node's row says of one of its queues."""

    uuid: str
    queue: str
    job_limit: int
    paused: bool


@dataclass(frozen=True, slots=True)
class Presence:
    """What a node says of itself, besides its queues.

    Attributes:
        info: JSON that is there for people, and for `engine.explain`; None to say nothing, so that
            what was said before stays.
        workers: The names of all that it can run; None for not known.
    """

    info: str | None = None
    workers: tuple[str, ...] | None = None


#: As it was said before.
UNCHANGED = Presence()


@dataclass(frozen=True, slots=True)
class Beat:
    """What a beat brought back.

    Attributes:
        fresh: The node's row had to be made: at the first beat, or because the node had been taken
            for dead.
        cancels: Jobs of this node that run and were asked to stop.
        controls: What was asked of queues.
        along: What the statements that went along brought, in their order.
    """

    fresh: bool
    cancels: list[int]
    controls: list[Control]
    along: list[Rows] = field(default_factory=list)


def beat(
    tx: Tx,
    identity: Identity,
    beats: int,
    producers: Sequence[ProducerRow],
    options: RefresherConfig,
    *,
    founder: bool = False,
    presence: Presence = UNCHANGED,
    along: Sequence[Ask] = (),
) -> Beat:
    """Renew a node's lease on its producers, and ask what was asked of it.

    Args:
        presence: What the node is, as far as that is not known.
        along: What to ask before, in the same transaction.
    """
    rows = [
        {"uuid": row.uuid, "queue": row.queue, "job_limit": row.job_limit, "paused": row.paused}
        for row in producers
    ]
    ask = Ask(
        "node_beat",
        {
            "uuid": identity.uuid,
            "name": identity.name,
            "node": identity.node,
            "beats": beats,
            "lock_key": identity.lock_key,
            "max_age": options.max_age,
            "unlocked_max_age": options.unlocked_max_age,
            "crons": list(identity.crons),
            "founder": founder,
            "info": presence.info,
            "workers": None if presence.workers is None else list(presence.workers),
            "producers": json.dumps(rows),
            "ping": identity.channel,
        },
    )
    # The beat comes last: nothing then waits for what it locks.
    *brought, told = together(tx, [*along, ask]) if along else [tx.tuples(ask.name, **ask.params)]
    [(fresh, cancels, found, _told)] = told

    return Beat(fresh, cancels, _controls(found), brought)


def is_alone(tx: Tx, identity: Identity) -> bool:
    """Whether no other node of the instance lives."""
    return bool(tx.tuples("node_alone", uuid=identity.uuid, name=identity.name)[0][0])


def founded_at(tx: Tx, name: str, *, within: float) -> datetime | None:
    """When the cluster of an instance started, if that was within so many seconds."""
    found: datetime | None = tx.tuples("node_founded", name=name, within=within)[0][0]

    return found


def hold_lock(tx: Tx, key: int) -> None:
    """Hold a node's lock for as long as this session stands."""
    tx.tuples("node_lock", key=key)


def remove(tx: Tx, uuid: str) -> None:
    """Take a node's row away: it stopped, and owes nothing."""
    tx.run("node_remove", uuid=uuid)


@dataclass(frozen=True, slots=True)
class Seen:
    """Another node, as it was seen at one moment.

    Attributes:
        uuid: Its identity.
        node: What people call it.
        beats: How many beats there were.
        max_age: Seconds without a beat after which it is dead.
        unlocked_max_age: The same, while its session is gone.
        locked: Whether its session stands; None where it has none to judge by.
    """

    uuid: str
    node: str
    beats: int
    max_age: float
    unlocked_max_age: float
    locked: bool | None


def watch(tx: Tx, uuid: str) -> tuple[str, list[Seen]]:
    """The other nodes, and which start of PostgreSQL told of them."""
    ask = watching(uuid)

    return watched(tx.tuples(ask.name, **ask.params))


def watching(uuid: str) -> Ask:
    """To look at the other nodes; see `watched`."""
    return Ask("node_watch", {"uuid": uuid})


def watched(rows: Rows) -> tuple[str, list[Seen]]:
    """As `watch`, of what was brought."""
    return rows[0][-1], [Seen(*row[:-1]) for row in rows if row[0] is not None]


@dataclass(frozen=True, slots=True)
class Rescued:
    """A job that was given back, and to which state."""

    id: int
    queue: str
    state: str


def rescue(
    db: Db, seen: Seen, *, why: str, most: int, shunned: Shunned
) -> tuple[list[Rescued], bool]:
    """Give back the jobs of a node that was found dead, up to `most`.

    One that PostgreSQL refuses to change is added to `shunned`, and the others are given back.

    Returns:
        The jobs, and whether the node's row went with the last of them.
    """

    def run(tx: Tx, ids: Sequence[int] | None) -> tuple[list[Rescued], bool]:
        rows = tx.wired(
            "node_rescue",
            uuid=seen.uuid,
            beats=seen.beats,
            ids=None if ids is None else Bigints(ids),
            at_most=most,
            deaths=MOST_DEATHS,
            spacing=SUSPECT_SPACING,
            reason=why,
            most=MOST_ERRORS,
            channel=tx.channel("insert"),
        )

        return _told(rows), bool(rows[0][3])

    def orphans(tx: Tx) -> list[int]:
        return [row[0] for row in tx.tuples("node_orphan_list", uuid=seen.uuid)]

    jobs, gone = _in_parts_if_need_be(db, run, orphans, shunned)

    return jobs, gone


def rescue_aged(db: Db, *, rescue_after: float, most: int, shunned: Shunned) -> list[Rescued]:
    """Give back jobs whose owner cannot be known, by their age; as `rescue`."""

    def run(tx: Tx, ids: Sequence[int] | None) -> tuple[list[Rescued], bool]:
        rows = tx.wired(
            "job_rescue",
            rescue_after=rescue_after,
            ids=None if ids is None else Bigints(ids),
            at_most=most,
            most=MOST_ERRORS,
            channel=tx.channel("insert"),
        )

        return _told(rows), False

    def aged(tx: Tx) -> list[int]:
        return [row[0] for row in tx.tuples("job_aged_list", rescue_after=rescue_after)]

    return _in_parts_if_need_be(db, run, aged, shunned)[0]


def _told(rows: list[tuple[Any, ...]]) -> list[Rescued]:
    return [Rescued(*row[:3]) for row in sorted(rows) if row[0] is not None]


def _in_parts_if_need_be(
    db: Db,
    run: Callable[[Tx, Sequence[int] | None], tuple[list[Rescued], bool]],
    ids: Callable[[Tx], list[int]],
    shunned: Shunned,
) -> tuple[list[Rescued], bool]:
    """All at once; or one by one, after PostgreSQL refused to change one of them."""
    try:
        return _all_but(db, run, ids, shunned)
    except psycopg.Error as error:
        if not is_refusal(error):
            raise

    # Tried one by one and undone: what becomes of each depends on the others.
    with db.session() as tx:
        left = set(ids(tx)).difference(shunned.ids())

    for job_id in sorted(left):
        try:
            with db.session() as tx, tx.conn.transaction(force_rollback=True):
                run(tx, [job_id])
        except psycopg.Error as error:
            if not is_refusal(error):
                raise

            shunned.add(job_id)
            log.error(
                "job %d cannot be given back, set aside for a while: %s", job_id, reason(error)
            )

    return _all_but(db, run, ids, shunned)


def _all_but(
    db: Db,
    run: Callable[[Tx, Sequence[int] | None], tuple[list[Rescued], bool]],
    ids: Callable[[Tx], list[int]],
    shunned: Shunned,
) -> tuple[list[Rescued], bool]:
    refused = set(shunned.ids())

    with db.session() as tx:
        return run(tx, [job_id for job_id in ids(tx) if job_id not in refused] if refused else None)


@dataclass(frozen=True, slots=True)
class Election:
    """How an election went.

    Attributes:
        led: This node leads.
        anew: Its term began just now.
        remaining: Seconds for which the lease of whoever leads still lasts.
    """

    led: bool
    anew: bool
    remaining: float


def elect(tx: Tx, identity: Identity, ttl: float) -> Election:
    """Lead, go on leading, or learn for how long somebody else does."""
    ask = electing(identity, ttl)

    return elected(tx.tuples(ask.name, **ask.params))


def electing(identity: Identity, ttl: float) -> Ask:
    """To hold an election; see `elected`."""
    who = {"name": identity.name, "uuid": identity.uuid, "node": identity.node}

    return Ask("leader_elect", {**who, "ttl": ttl})


def elected(rows: Rows) -> Election:
    """As `elect`, of what was brought."""
    [(led, anew, remaining, _kept)] = rows

    return Election(led, anew, remaining)


def resign(tx: Tx, identity: Identity) -> None:
    """Stop leading, and let the others know: they elect at once."""
    # The words of both Obans in one, on a channel of ours: theirs would only elect for nothing.
    words = {"action": "resign", "name": identity.name, "node": identity.node}
    tx.tuples(
        "leader_resign",
        name=identity.name,
        uuid=identity.uuid,
        channel=tx.channel("sync"),
        payload=signals.encode({**words, "down": identity.name}),
    )


def _controls(text: list[str]) -> list[Control]:
    found = []

    for item in text:
        try:
            row = payload.decode(item)
            found.append(
                Control(
                    seq=row["seq"],
                    queue=_queue(row["queue"]),
                    aspect=row["aspect"],
                    value=controls.checked(row["aspect"], row["value"]),
                    by=row["set_by"],
                    at=_moment(row["set_at"]),
                    until=_moment(row["until"]),
                    ended=row["ended"],
                )
            )
        except (ValueError, ConfigError) as error:
            _complain(f"a row of oban_sync_controls is ignored: {error}")

    return found


def _queue(name: str) -> str:
    return name if name == controls.EVERY else check_name("queue", name)


@lru_cache(maxsize=1_000)
def _complain(text: str) -> None:
    """Log what is wrong with a row once, since it comes with every beat."""
    log.error(text)


def _moment(value: Any) -> datetime | None:
    """A moment of a row; what Python cannot express never comes, or is long ago."""
    try:
        return None if value is None else datetime.fromisoformat(value)
    except ValueError:
        return None
