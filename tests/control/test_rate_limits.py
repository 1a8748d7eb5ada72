"""Rate limits outside of jobs."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from oban_sync import NotRunningError
from oban_sync.control.rate_limits import QueueRateLimit, RateLimit
from oban_sync.core.config import check_queues
from oban_sync.core.errors import ConfigError
from oban_sync.core.limits import ALGORITHMS


@pytest.fixture
def limit(oban):
    def make(name="sms", **options):
        return RateLimit(name, **{"allowed": 3, "period": 3600, "oban": oban, **options})

    return make


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_so_much_can_be_taken_and_no_more(limit, algorithm):
    sms, same = limit(algorithm=algorithm), limit(algorithm=algorithm)

    assert sms.available() == 3
    assert sms.consume() == 1
    assert same.available() == 2
    assert same.consume(3) == 0
    assert same.consume(3, require_full=False) == 2
    assert sms.consume() == 0


def test_limits_of_other_names_and_keys_are_counted_apart(limit):
    sms = limit()

    assert sms.consume(3) == 3
    assert limit("calls").available() == 3
    assert sms.consume(2, key="a") == 2
    assert [sms.available(key) for key in (None, "a", "b", {"x": 1})] == [0, 1, 3, 3]


def test_reset_forgets_what_was_taken(limit):
    sms = limit()
    sms.consume(3)
    sms.consume(3, key=7)
    sms.reset()

    assert (sms.available(), sms.available(7)) == (3, 3)


def test_acquire_waits_until_there_is_room(limit):
    sms = limit(period=0.2)

    assert all(sms.acquire(timeout=10.0) for _ in range(7))


def test_acquire_gives_up(limit):
    sms = limit()
    sms.consume(3)

    assert not sms.acquire(timeout=0.0)
    assert not sms.acquire(timeout=0.05)


def test_a_block_runs_when_there_is_room_and_not_otherwise(limit):
    sms = limit()
    ran = []

    with sms.quota(3):
        ran.append(1)

    with (
        pytest.raises(TimeoutError, match=r"'sms' 3 per 3600 s.* no room for 1 within 0\.01 s"),
        sms.quota(timeout=0.01),
    ):
        ran.append(2)

    assert ran == [1]


def test_what_a_failing_block_took_stays_taken(limit):
    sms = limit()

    with pytest.raises(RuntimeError), sms.quota(2):
        raise RuntimeError

    assert sms.available() == 1


def test_racing_threads_take_no_more_than_there_is(limit, oban):
    sms = limit(allowed=20)
    start = threading.Barrier(8)

    def take(_):
        start.wait(10.0)

        return sum(sms.consume(1 + number % 2) for number in range(5))

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(take, range(8))) == 20


def test_isolation_that_the_application_prefers_makes_no_difference(limit, conn):
    conn.execute(
        f'ALTER DATABASE "{conn.info.dbname}" SET default_transaction_isolation = serializable'
    )

    try:
        sms = limit(allowed=20)

        with ThreadPoolExecutor(4) as threads:
            assert sum(threads.map(lambda _: sms.consume(), range(40))) == 20
    finally:
        conn.execute(f'ALTER DATABASE "{conn.info.dbname}" RESET default_transaction_isolation')


def test_an_oban_is_found_by_name_when_it_is_used(make_oban):
    sms = RateLimit("sms", allowed=1, period=60, oban="Later")

    with pytest.raises(NotRunningError, match="no Oban named 'Later'"):
        sms.available()

    make_oban(name="Later")
    assert sms.available() == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"allowed": 0}, "sms.allowed: 0"),
        ({"period": 0}, "sms.period: 0"),
        ({"algorithm": "tokens"}, "sms.algorithm: 'tokens'"),
        ({"name": ""}, "name: "),
    ],
)
def test_what_is_wrong_names_the_option(limit, options, words):
    with pytest.raises(ConfigError, match=words):
        limit(**options)


def test_more_than_ever_fits_is_refused(limit):
    with pytest.raises(ConfigError, match="n: 4 is not allowed; give a whole number from 1 to 3"):
        limit().consume(4)

    assert limit().consume(4, require_full=False) == 3


QUEUES = {
    "plain": 5,
    "media": {"limit": 5, "rate_limit": {"allowed": 3, "period": 3600}},
    "tenants": {
        "limit": 5,
        "rate_limit": {"allowed": 3, "period": 3600, "partition": {"args": "k"}},
    },
}


def of_queue(oban, queue):
    return QueueRateLimit(oban, check_queues("queues", QUEUES), queue)


def test_the_limit_of_a_queue_is_shared_with_its_jobs(oban):
    assert of_queue(oban, "media").consume(2) == 2
    assert of_queue(oban, "media").available() == 1
    assert of_queue(oban, "tenants").consume(2, key="a") == 2
    assert Counter(a=1, b=3) == Counter(
        {key: of_queue(oban, "tenants").available(key) for key in "ab"}
    )


@pytest.mark.parametrize(
    ("queue", "key", "words"),
    [
        ("plain", None, "'plain' has no rate_limit"),
        ("meda", None, "Did you mean 'media'?"),
        ("media", "a", "has no partition; leave it out"),
    ],
)
def test_what_a_queue_has_not_is_said(oban, queue, key, words):
    with pytest.raises(ConfigError, match=words.replace("?", r"\?")):
        of_queue(oban, queue).available(key)
