"""The loop that makes the indexes of lanes."""

from __future__ import annotations

from functools import partial

import pytest

from oban_sync import telemetry
from oban_sync.core.limits import check_limits
from oban_sync.engine import lanes, reindex
from oban_sync.engine.connections import connect
from oban_sync.engine.session import Tx
from oban_sync.plugins.lanes import LaneIndexer


def lanes_of(queue):
    return lanes.Lanes(queue, check_limits("queue", {"fair": {"args": "k"}}).lane_by)


@pytest.fixture
def loop(db, dsn):
    def make(*queues, connecting=None):
        plainly = connecting or partial(connect, dsn, application_name="lanes")

        return LaneIndexer(db, plainly, [lanes_of(queue) for queue in queues])

    return make


@pytest.fixture
def heard():
    found = []
    telemetry.attach(
        "test-lanes", ["oban.lanes.index.stop"], lambda _, fields: found.append(fields)
    )

    yield found

    telemetry.detach("test-lanes")


def missing(db, *queues):
    with db.session() as tx:
        return [item.queue for item in lanes.missing(tx, [lanes_of(queue) for queue in queues])]


def test_it_makes_what_is_missing_and_tells_of_it(loop, db, heard):
    indexer = loop("alpha", "beta")

    assert indexer.tick() is None
    assert missing(db, "alpha", "beta", "gamma") == ["gamma"]
    assert heard[0]["indexes"] == [lanes_of("alpha").index, lanes_of("beta").index]
    assert heard[0]["queues"] == ["alpha", "beta"]


def test_with_nothing_to_make_it_does_not_connect(loop, heard):
    loop("alpha").tick()

    def connecting():
        raise AssertionError

    assert loop("alpha", connecting=connecting).tick() is None
    assert len(heard) == 1


def test_it_comes_again_soon_while_somebody_else_works_on_indexes(loop, db, dsn):
    indexer = loop("alpha")

    with connect(dsn, application_name="other") as other:
        assert reindex.claim(Tx(other, db.schema), 10.0, 10.0)
        assert indexer.tick() == LaneIndexer.BUSY_PAUSE

    assert missing(db, "alpha") == ["alpha"]


def test_what_cannot_be_made_is_told_once(loop, caplog, monkeypatch):
    monkeypatch.setattr(lanes, "is_pooled", lambda _: True)
    indexer = loop("alpha")
    indexer.tick()
    indexer.tick()

    assert len([record for record in caplog.records if "by hand" in record.getMessage()]) == 1
