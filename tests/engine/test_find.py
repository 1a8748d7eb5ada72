"""Finding jobs by a filter: the right ones, and by reading a bounded number."""

from __future__ import annotations

import itertools

import psycopg
import psycopg_pool
import pytest

from oban_sync import ConfigError
from oban_sync.control import jobs
from oban_sync.core.filters import Filter, FilterError, parse
from oban_sync.core.job import JobState
from oban_sync.engine import inspect, pages
from oban_sync.engine.pages import Further, Through
from oban_sync.engine.session import Db, Tx
from oban_sync.engine.statements import statement

#: 12,000 jobs, the newest completed; those of other states are older, and few.
SEED = """
INSERT INTO oban_jobs (state, queue, worker, completed_at, cancelled_at, discarded_at, tags, args)
SELECT
    state::oban_job_state, 'queue' || n % 5, CASE WHEN n = 7 THEN 'Rare' ELSE 'W' END,
    timezone('UTC', now()), timezone('UTC', now()), timezone('UTC', now()), ARRAY['t'],
    jsonb_build_object('n', n)
FROM generate_series(1, 12000) AS n
CROSS JOIN LATERAL (
    SELECT CASE WHEN n > 2000 THEN 'completed'
        ELSE (ARRAY['available', 'scheduled', 'retryable', 'executing', 'cancelled', 'discarded',
            'suspended', 'completed'])[1 + n % 8] END AS state
) AS made
"""


@pytest.fixture
def desk(dsn, prefix):
    """The pool of an application, without settings of ours."""
    with psycopg_pool.ConnectionPool(
        dsn, min_size=0, max_size=2, kwargs={"autocommit": True}, open=True
    ) as pool:
        yield Db(pool, prefix)


def ids(found):
    return [job.id for job in found]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "abcdef"),
        ("states:available", "a"),
        ("states:available,completed", "ab"),
        ("states:suspended", "e"),
        ("states:suspended,executing", "ce"),
        ('queues:"q 1"', "ac"),
        ('queues:"q 1",q2', "abc"),
        ("workers:app.A", "ab"),
        ("tags:z", "ab"),
        ("tags:z,X", "abf"),
        ("nodes:web-1", "c"),
        ("nodes:web", ""),
        ("priorities:3", "d"),
        ("priorities:0,3", "abcdef"),
        ("args.user.id:7", "ad"),
        ("args.user.id:8", ""),
        ("args.user.id:7,9", "adf"),
        ("args.user.flag:true", "a"),
        ("args.user.none:null", "d"),
        ('args.user."first name":"Ann Lee"', "f"),
        ("args.list:2", "f"),
        ("args.items.id:5", "f"),
        ("args.user:7", ""),
        ("meta.batch:7", "b"),
        ("meta.batch:7 args.user.id:7", ""),
        ("states:completed queues:q2 workers:app.A tags:z", "b"),
        ("""args.user.id:"'); DROP TABLE oban_jobs; --" """, ""),
        ("""args."x\\"y":1""", ""),
    ],
)
def test_a_filter_finds_what_passes_all_of_its_terms(desk, factory, text, found):
    user = {"id": 7, "flag": True}
    made = {
        "a": factory.job(queue="q 1", worker="app.A", tags=["x", "z"], args={"user": user}),
        "b": factory.job(
            state="completed", queue="q2", worker="app.A", tags=["z"], meta={"batch": 7.0}
        ),
        "c": factory.executing("x", queue="q 1", tags=None, meta=None, attempted_by=["web-1", "x"]),
        "d": factory.job(state="retryable", args={"user": {"id": "7", "none": None}}, priority=3),
        "e": factory.job(state="suspended"),
        "f": factory.job(
            state="discarded",
            tags=["x"],
            args={"user": {"id": 9, "first name": "Ann Lee"}, "list": [1, 2], "items": [{"id": 5}]},
        ),
    }
    wanted = sorted((made[name] for name in found), reverse=True)

    assert ids(jobs.search_jobs(desk, text)) == wanted
    assert jobs.search_ids(desk, parse(text)) == wanted


def test_ids_are_terms_as_well(desk, factory):
    made = [factory.job(queue=f"q{n}") for n in range(5)]
    text = f"ids:{made[0]},{made[3]},999999"

    assert ids(jobs.search_jobs(desk, text)) == [made[3], made[0]]
    assert ids(jobs.search_jobs(desk, f"{text} queues:q0")) == [made[0]]
    assert ids(jobs.search_jobs(desk, text, before_id=made[3])) == [made[0]]
    assert ids(jobs.search_jobs(desk, text, limit=1)) == [made[3]]


@pytest.mark.parametrize("text", ["", "states:completed", "states:executing,suspended", "tags:t"])
def test_pages_go_on_where_the_one_before_ended(desk, conn, text):
    conn.execute(SEED)
    states = [str(state) for state in parse(text).states] or [str(state) for state in JobState]
    rows = conn.execute(
        "SELECT id FROM oban_jobs WHERE state::text = ANY (%s) ORDER BY id DESC LIMIT 900", [states]
    ).fetchall()
    found, before = [], None

    for _ in range(3):
        page = jobs.search_jobs(desk, text, limit=300, before_id=before)
        found += ids(page)
        before = found[-1]

    assert found[:900] == [job_id for (job_id,) in rows]


def test_a_found_job_is_whole(desk, factory):
    job_id = factory.job(args={"n": 1}, meta={"m": 2}, tags=["t"], state="completed", attempt=1)
    [found] = jobs.search_jobs(desk)
    read = jobs.get_job(desk, job_id)

    for name in ("id", "state", "args", "meta", "tags", "errors", "inserted_at", "scheduled_at"):
        assert getattr(found, name) == getattr(read, name)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"wanted": "nobody:x"}, "filter: "),
        ({"limit": 0}, "limit: 0"),
        ({"limit": 10_001}, "limit: 10001"),
        ({"before_id": "x"}, "before_id: "),
        ({"within": 0}, "within: 0"),
        ({"within": 10_000_001}, "within: 10000001"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(desk, given, told):
    with pytest.raises(ConfigError, match=told):
        jobs.search_jobs(desk, **given)


def test_rare_jobs_of_a_state_are_found_however_old(desk, conn):
    conn.execute(SEED)

    with desk.looking() as tx:
        old = inspect.find_ids(tx, parse("states:discarded"), most=1_000, within=4_000)
        rare = inspect.find_ids(tx, parse("workers:Rare"), most=10, within=4_000)
        all_rare = inspect.find_ids(tx, parse("workers:Rare"), most=10, within=12_000)

    assert len(old) == 250
    assert rare == []
    assert len(all_rare) == 1


def test_a_state_is_found_along_its_index_however_little_may_be_read(desk, conn):
    conn.execute(SEED)

    assert len(jobs.search_jobs(desk, "states:discarded", limit=10_000, within=500)) == 250


def walked(db, text, *, most):
    """The ids on all pages of a filter, whatever link leads on: Older, or Look further."""
    place, ids = (None, Through.LITTLE), []

    for _ in range(1_000):
        found = pages.find_page(
            db, parse(text), most=most + 1, before_id=place[0], through=place[1]
        )
        shown = [job.id for job in found.jobs[:most]]

        if found.further is None:
            ids += shown

            if len(found.jobs) <= most:
                return ids

            place = (shown[-1], place[1])
        elif found.further.before_id == place[0]:
            # The same page, with more in it.
            place = (place[0], found.further.through)
        else:
            ids += shown
            place = (found.further.before_id, found.further.through)

    raise AssertionError("there is no end")


@pytest.mark.parametrize("depth", [1_000, 60], ids=["of states", "of all"])
@pytest.mark.parametrize(
    "text",
    [
        "states:available",
        "states:available workers:Rare",
        "states:available,scheduled,retryable,discarded workers:Rare",
        "states:completed workers:Rare",
        "workers:Rare",
        "states:suspended,available workers:Rare",
        "workers:Nobody states:available",
        "queues:q1 states:available,executing",
    ],
)
def test_who_follows_every_link_sees_each_job_once(desk, conn, monkeypatch, text, depth):
    """Jobs of a state stand in their index in another order than by id."""
    monkeypatch.setattr(pages, "MOST_READ", 70)
    monkeypatch.setattr(pages, "MOST_READ_OF_STATES", 40)
    monkeypatch.setattr(pages, "MOST_READ_IN_DEPTH", depth)
    monkeypatch.setattr(pages, "FIRST_READ", 20)
    conn.execute(
        "INSERT INTO oban_jobs (state, queue, worker, priority) SELECT (ARRAY['available',"
        " 'available', 'completed', 'scheduled', 'retryable', 'discarded', 'executing', 'suspended'"
        "])[1 + n * 7 % 8]::oban_job_state, 'q' || n % 3, CASE WHEN n % 5 = 0 THEN 'Rare' ELSE 'W'"
        " END, n % 4 FROM generate_series(1, 500) AS n"
    )
    wanted = parse(text)
    rows = conn.execute(
        "SELECT id FROM oban_jobs WHERE (%s::text[] = '{}' OR state::text = ANY (%s))"
        " AND (%s::text[] = '{}' OR worker = ANY (%s)) AND (%s::text[] = '{}' OR queue = ANY (%s))"
        " ORDER BY id DESC",
        [list(given) for given in (wanted.states, wanted.workers, wanted.queues) for _ in range(2)],
    ).fetchall()

    assert walked(desk, text, most=7) == [job_id for (job_id,) in rows]


def test_a_page_that_has_read_enough_says_where_to_look_further(desk, factory, monkeypatch):
    monkeypatch.setattr(pages, "MOST_READ", 3)
    ids = [factory.job(worker="Rare" if n == 0 else "Common") for n in range(7)]
    found = pages.find_page(desk, parse("workers:Rare"), most=2)

    assert (found.jobs, found.read) == ([], 3)
    assert found.further == Further(ids[4], Through.LITTLE)

    # Of jobs by id there is nothing more, nor where the page is full, nor of no filter at all.
    assert pages.find_page(desk, parse("ids:1"), most=5).further is None
    assert pages.find_page(desk, parse("workers:Common"), most=1).further is None
    assert pages.find_page(desk, parse(""), most=9).further is None


def test_a_page_of_a_state_reads_more_where_somebody_waits_for_it(desk, factory, monkeypatch):
    monkeypatch.setattr(pages, "FIRST_READ", 1)
    monkeypatch.setattr(pages, "MOST_READ_OF_STATES", 2)
    monkeypatch.setattr(pages, "MOST_READ_IN_DEPTH", 6)
    [rare, *_] = ids = [factory.job(worker="Rare" if n == 0 else "Common") for n in range(6)]
    wanted = parse("states:available workers:Rare")
    found = pages.find_page(desk, wanted, most=5)

    assert (found.jobs, found.read) == ([], 1)
    assert found.further == Further(None, Through.STATES)

    found = pages.find_page(desk, wanted, most=5, through=Through.STATES)
    assert ([job.id for job in found.jobs], found.read, found.further) == ([rare], 6, None)

    # Where states are all that is asked for, nobody has to ask twice.
    found = pages.find_page(desk, parse("states:available"), most=9)
    assert ([job.id for job in found.jobs], found.further) == (ids[::-1], None)


@pytest.mark.parametrize("state", [state for state in JobState if state != "suspended"])
def test_it_is_known_whether_there_are_more_jobs_of_a_state(desk, factory, state):
    [factory.job(state=state) for _ in range(2)]
    [factory.job(state=other) for other in ("completed", "available") if other != state]

    with desk.looking() as tx:
        for text, leaves in ((f"states:{state}", True), (f"states:{state} queues:other", False)):
            with inspect.searching(tx, parse(text), most=5, seconds=5.0) as search:
                # Of states whose index does not begin with the queue, nobody knows without reading.
                assert search.leaves(1) is (leaves or state not in ("available", "executing"))
                assert not search.leaves(2)


@pytest.mark.parametrize(
    ("states", "each"), [("completed,discarded", 3), ("scheduled,retryable", 6)]
)
def test_indexes_share_what_is_read_for_a_page(desk, factory, monkeypatch, states, each):
    monkeypatch.setattr(pages, "MOST_READ_OF_STATES", 6)
    monkeypatch.setattr(pages, "FIRST_READ", 0)
    [factory.job(state=state) for state in states.split(",") for _ in range(each // 2)]
    wanted = parse(f"states:{states} workers:Nobody")

    assert pages.find_page(desk, wanted, most=5).further is None

    [factory.job(state=states.split(",")[0]) for _ in range(each)]
    assert pages.find_page(desk, wanted, most=5).further == Further(None, Through.STATES)


class Watched(Tx):
    """Says how many rows each statement read of the jobs."""

    def unprepared(self, name, /, **params):
        text = f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {statement(name, self.schema)}"
        [(plans,)] = self.conn.execute(text, params, prepare=False).fetchall()
        READ.append((name, list(scans(plans[0]["Plan"]))))

        return super().unprepared(name, **params)


READ: list = []


def scans(plan):
    nodes = [plan, *itertools.chain.from_iterable(scans_in(one) for one in plan.get("Plans", []))]

    for node in nodes:
        if "Scan" in node["Node Type"] and node.get("Relation Name") == "oban_jobs":
            rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            yield node.get("Index Name", node["Node Type"]), rows * node["Actual Loops"]


def scans_in(plan):
    return [plan, *itertools.chain.from_iterable(scans_in(one) for one in plan.get("Plans", []))]


@pytest.mark.parametrize("moment", ["never analyzed", "analyzed empty", "analyzed"])
@pytest.mark.parametrize(
    ("text", "indexes"),
    [
        ("workers:Nobody", {"oban_jobs_pkey"}),
        ("args.n:-1", {"oban_jobs_pkey"}),
        ("states:suspended workers:Nobody", {"oban_jobs_pkey"}),
        ("states:available workers:Nobody", {"oban_jobs_pkey", "oban_jobs_available_index"}),
        ("states:executing queues:queue1", {"oban_jobs_pkey", "oban_jobs_executing_index"}),
        ("states:retryable", {"oban_jobs_pkey", "oban_jobs_staging_index"}),
        ("states:completed tags:none", {"oban_jobs_pkey", "oban_jobs_completed_at_index"}),
        ("states:cancelled", {"oban_jobs_pkey", "oban_jobs_cancelled_at_index"}),
        ("states:discarded", {"oban_jobs_pkey", "oban_jobs_discarded_at_index"}),
        ("ids:1,2,3 workers:Nobody", {"oban_jobs_pkey"}),
    ],
)
def test_no_search_reads_more_than_it_may(desk, conn, text, indexes, moment):
    conn.execute("ALTER TABLE oban_jobs SET (autovacuum_enabled = off)")

    if moment == "analyzed empty":
        conn.execute("ANALYZE oban_jobs")

    conn.execute(SEED)

    if moment == "analyzed":
        conn.execute("VACUUM ANALYZE oban_jobs")

    READ.clear()

    with desk.looking() as tx:
        inspect.find_ids(Watched(tx.conn, tx.schema), parse(text), most=1_000, within=3_000)

    used = {index for _, found in READ for index, rows in found if rows}

    for _, found in READ:
        for index, rows in found:
            assert rows <= (3 if text.startswith("ids:") else 3_000), index

    assert used <= indexes
    assert not [index for index in used if "Seq" in index]


def test_a_page_that_fills_reads_little(desk, conn):
    conn.execute(SEED)
    conn.execute("VACUUM ANALYZE oban_jobs")
    READ.clear()

    with desk.looking() as tx:
        inspect.find_ids(Watched(tx.conn, tx.schema), parse("states:completed"), most=100)

    assert [(name, sum(rows for _, rows in found) <= 200) for name, found in READ] == [
        ("job_find_newest", True)
    ]


def test_searching_leaves_no_settings_behind(desk):
    jobs.search_jobs(desk, "states:available workers:x")

    with desk.session() as tx:
        for name in ("enable_seqscan", "enable_bitmapscan", "enable_sort"):
            assert tx.conn.execute(f"SHOW {name}").fetchone() == ("on",)

        assert tx.conn.execute("SHOW statement_timeout").fetchone() == ("0",)


MANY = parse(f"args.a:{','.join(map(str, range(50)))}")


@pytest.mark.parametrize("text", ["", "states:completed", "states:suspended,executing"])
def test_a_search_that_takes_too_long_is_ended_and_told_as_such(desk, conn, monkeypatch, text):
    conn.execute(SEED)
    monkeypatch.setattr(inspect, "PATIENCE", 0.001)
    wanted = parse(f"{text} {MANY}")

    for search in (jobs.search_jobs, jobs.search_ids):
        with pytest.raises(FilterError, match="takes longer than 0.001 s; name a state, or fewer"):
            search(desk, wanted)

    with desk.session() as tx:
        assert tx.conn.execute("SHOW statement_timeout").fetchone() == ("0",)


def test_who_looks_through_more_may_take_longer(desk, conn, monkeypatch):
    conn.execute(SEED)
    monkeypatch.setattr(inspect, "PATIENCE", 0.1)
    monkeypatch.setattr(inspect, "MOST_READ", 1)

    assert jobs.search_jobs(desk, MANY, within=100_000) == []


@pytest.mark.parametrize("setting", ["30ms", "90s", "2min", "1d"])
def test_a_time_limit_of_ones_own_stays_where_it_is_shorter(dsn, prefix, conn, setting):
    conn.execute(SEED)
    options = {"autocommit": True, "options": f"-c statement_timeout={setting}"}

    with psycopg_pool.ConnectionPool(dsn, min_size=0, max_size=1, kwargs=options) as pool:
        desk = Db(pool, prefix)

        with desk.looking() as tx:
            if setting == "30ms":
                with pytest.raises(FilterError, match="longer than 0.03 s"):
                    inspect.find_ids(tx, MANY, most=10)
            else:
                inspect.find_ids(tx, MANY, most=10)

                # What is done with the jobs that were found may take its time.
                assert tx.conn.execute("SHOW statement_timeout").fetchone() == (setting,)


def test_a_search_that_somebody_else_ended_is_not_told_as_too_long(desk, monkeypatch):
    class Ended(Tx):
        def unprepared(self, name, /, **params):
            raise psycopg.errors.QueryCanceled

    with desk.looking() as tx, pytest.raises(psycopg.errors.QueryCanceled):
        inspect.find_ids(Ended(tx.conn, tx.schema), MANY, most=10)


def test_jobs_are_held_that_are_in_certain_states(desk, factory):
    ids_of = {state: factory.job(state=state) for state in ("available", "completed", "retryable")}
    wanted = (JobState.RETRYABLE, JobState.AVAILABLE)

    with desk.transaction() as tx:
        held = inspect.hold_in_states(tx, [*ids_of.values(), 999], wanted)

        with desk.session() as other, pytest.raises(psycopg.errors.LockNotAvailable):
            other.conn.execute(
                f'SELECT 1 FROM "{other.schema}".oban_jobs WHERE id = %s FOR UPDATE NOWAIT',
                [held[0]],
            )

    assert held == [ids_of["available"], ids_of["retryable"]]


def test_an_empty_filter_is_false():
    assert not Filter()
    assert Filter(ids=(0,))
