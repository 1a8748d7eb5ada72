"""The checker finds what it is there for: every kind of broken promise, planted."""

from __future__ import annotations

from itertools import count

import pytest

from tests.chaos import checker
from tests.chaos.evidence import CHAOS, Change, Evidence
from tests.chaos.ledger import Event, Ledger, Reader


def begin(at, job=1, *, node="one", fence=10):
    return Event(at, node, "begin", {"job": job, "fence": fence, "attempt": 1})


def end(at, job=1, *, node="one", fence=10, how="ok"):
    return Event(at, node, "end", {"job": job, "fence": fence, "attempt": 1, "how": how})


def gone(at, node="one"):
    return Event(at, CHAOS, "gone", {"of": node})


def event(at, name, node="one", **fields):
    return Event(at, node, name, fields)


def changes(*rows, job=1):
    """Rows of state, attempt, fence, rescued and errors; the first one is the insert."""
    numbers = count(1)

    return [
        Change(
            (seq := next(numbers)),
            float(seq),
            "INSERT" if seq == 1 else "UPDATE",
            job,
            row[0],
            *(list(row[1:3]) + [None] * (3 - len(row[:3]))),
            owner="owner",
            rescued=row[3] if len(row) > 3 else 0,
            errors=row[4] if len(row) > 4 else 0,
        )
        for row in rows
    ]


PLAIN = (("available", 0), ("executing", 1, 10), ("completed", 1, 10))
RUN = [begin(2.1), end(2.9)]


def broken(evidence):
    """The names of the invariants that do not hold."""
    every = [*checker.ALWAYS, *checker.UNDISTURBED]

    return {invariant.__name__ for invariant in every if invariant(evidence)}


def test_a_plain_run_breaks_nothing():
    assert broken(Evidence(RUN, changes(*PLAIN), {1: "completed"}, [1])) == set()


@pytest.mark.parametrize("states", [{}, {1: "executing"}, {1: "available"}])
def test_a_job_that_is_gone_or_left_behind_is_lost(states):
    assert broken(Evidence([], [], states, [1])) == {"nothing_lost"}


def test_a_second_run_during_the_first_has_two_owners():
    events = [begin(1.0), begin(2.0, node="two", fence=20), end(3.0)]

    assert broken(Evidence(events)) == {"one_owner", "nothing_ran_twice"}


def test_a_run_that_never_ends_is_owned_until_its_process_dies():
    events = [begin(1.0), gone(5.0), begin(4.0, node="two", fence=20)]

    assert "one_owner" in broken(Evidence(events))
    assert "one_owner" not in broken(Evidence([*events[:2], begin(6.0, node="two", fence=20)]))


def test_who_was_stopped_for_longer_than_its_lease_owns_nothing_more():
    fault = event(2.0, "fault", CHAOS, of="one", lease=4.0, token=1)
    over = event(9.0, "fault_over", CHAOS, token=1)
    late = begin(7.0, node="two", fence=20)

    assert "one_owner" not in broken(Evidence([begin(1.0), fault, over, late]))
    # Before the lease was over it owned the job, and after a short fault it still does.
    early = begin(5.0, node="two", fence=20)
    assert "one_owner" in broken(Evidence([begin(1.0), fault, over, early]))
    short = event(5.0, "fault_over", CHAOS, token=1)
    assert "one_owner" in broken(Evidence([begin(1.0), fault, short, late]))


def test_who_noticed_that_its_lease_was_over_owns_nothing_more():
    events = [begin(1.0), event(3.0, "lapsed"), begin(4.0, node="two", fence=20)]

    assert "one_owner" not in broken(Evidence(events))


AGAIN = (*PLAIN[:2], ("available", 0, 10), ("executing", 1, 20), ("completed", 1, 20))


def test_a_second_start_without_a_reason_is_found():
    events = [begin(1.0), end(2.0, how="Trouble"), begin(3.0, fence=20), end(4.0, fence=20)]

    assert broken(Evidence(events, changes(*AGAIN))) == {
        "second_starts_explained",
        "nothing_ran_twice",
    }


@pytest.mark.parametrize(
    "way",
    [
        [("available", 0, 10, 1, 1), ("executing", 1, 20, 1, 1)],
        [("retryable", 1, 10, 0, 1), ("available", 1, 10, 0, 1), ("executing", 2, 20, 0, 1)],
        [("scheduled", 0, 10), ("available", 0, 10), ("executing", 1, 20)],
    ],
)
def test_a_death_an_error_and_a_snooze_explain_a_second_start(way):
    evidence = Evidence(RUN, changes(*PLAIN[:2], *way))

    assert checker.second_starts_explained(evidence) == []


def test_a_job_that_was_handed_back_or_never_began_may_start_again():
    handed = event(2.0, "released", jobs=[[1, 10]])

    assert checker.second_starts_explained(Evidence([begin(1.0), handed], changes(*AGAIN))) == []
    assert checker.second_starts_explained(Evidence([], changes(*AGAIN))) == []


def test_who_handed_a_job_back_owns_it_until_then():
    rows = changes(*PLAIN[:2], ("available", 0, 10), ("executing", 1, 20), ("completed", 1, 20))
    handed = event(3.2, "released", jobs=[[1, 10]])
    # Its thread goes on: nobody can stop it.
    first, second = begin(2.1), [begin(4.1, node="two", fence=20), end(4.9, node="two", fence=20)]

    assert checker.one_owner(Evidence([first, handed, *second], rows)) == []
    early = [begin(2.9, node="two", fence=20), *second[1:]]
    assert checker.one_owner(Evidence([first, handed, *early], rows)) != []


def test_a_completed_row_that_changes_again_is_found():
    evidence = Evidence(RUN, changes(*PLAIN, ("available", 1, 10)))

    assert broken(evidence) == {"success_is_final"}


def test_a_run_that_ended_well_and_is_followed_by_another_is_found():
    again = [begin(3.0, node="two", fence=20), end(4.0, node="two", fence=20)]

    assert "success_is_final" in broken(Evidence([*RUN, *again]))
    # It died with its outcome unwritten.
    assert "success_is_final" not in broken(Evidence([*RUN, gone(2.1), *again]))


@pytest.mark.parametrize("run", [[], [begin(1.0)], [begin(1.0), end(2.0, how="Trouble")]])
def test_a_row_completed_by_nobody_is_found(run):
    assert broken(Evidence(run, changes(*PLAIN))) == {"outcomes_are_their_owners"}


@pytest.mark.parametrize("state", ["completed", "retryable", "discarded", "scheduled"])
def test_an_outcome_written_before_the_end_of_the_run_is_somebody_elses(state):
    rows = changes(*PLAIN[:2], (state, 1, 10))

    # The third row is of the third second.
    assert broken(Evidence([begin(2.1), end(3.5)], rows)) == {"outcomes_are_their_owners"}
    assert broken(Evidence([begin(2.1), end(2.5)], rows)) == set()


def test_a_late_outcome_of_a_rescued_job_is_its_owners():
    rows = changes(*PLAIN[:2], ("available", 0, 10, 1, 1), ("completed", 1, 10, 1, 1))

    assert checker.outcomes_are_their_owners(Evidence([begin(2.1), end(3.9)], rows)) == []
    assert checker.outcomes_are_their_owners(Evidence([begin(2.1)], rows)) != []


def test_a_refused_outcome_that_was_written_is_found():
    refused = event(3.0, "fenced", job=1, fence=10, state="completed")
    evidence = Evidence([*RUN, refused], changes(*PLAIN))

    assert broken(evidence) == {"refused_outcomes_wrote_nothing", "nothing_fenced"}


def test_an_attempt_spent_on_the_way_back_is_found():
    rescued = changes(*PLAIN[:2], ("available", 1, 10, 1, 1))
    handed_back = changes(*PLAIN[:2], ("available", 1, 10))

    assert broken(Evidence(RUN, rescued)) == {"way_back_spends_no_attempt", "nothing_rescued"}
    assert broken(Evidence(RUN, handed_back)) == {"way_back_spends_no_attempt"}
    assert broken(Evidence(RUN, changes(*PLAIN[:2], ("discarded", 1, 10, 3, 3)))) == {
        "nothing_rescued"
    }


def samples(node, *leads, since=0.0):
    return [
        Event(since + place * 0.1, node, "sample", {"leads": bool(lead)})
        for place, lead in enumerate(leads)
    ]


def test_two_leaders_at_a_time_are_found():
    together = samples("one", 1, 1, 1, 0) + samples("two", 0, 1, 1, 1, since=0.03)
    in_turn = samples("one", 1, 1, 0, 0) + samples("two", 0, 0, 1, 1, since=0.03)

    assert broken(Evidence(together)) == {"at_most_one_leader"}
    assert broken(Evidence(in_turn)) == set()
    assert checker.leaders_by_moment(Evidence(together), 0.1, 0.0, 0.35) == [1, 2, 2, 1]


def test_cron_rows_too_many_and_too_few_are_found():
    due = [("hourly", 1), ("hourly", 2), ("hourly", 3)]

    assert checker.cron_exactly_once(due, due) == []
    assert checker.cron_exactly_once([due[0], due[0], due[2]], due) == [
        "hourly at 1 has 2 jobs",
        "hourly at 2 has no job",
    ]


def test_a_failed_check_tells_the_story_of_the_job():
    evidence = Evidence(RUN, changes(*PLAIN[:2]), {1: "executing"}, [1])

    with pytest.raises(AssertionError, match="(?s)nothing_lost: job 1 is executing.*ran on one"):
        checker.check(evidence, *checker.ALWAYS)


def test_a_line_that_is_being_written_is_read_when_it_is_whole(tmp_path):
    path = tmp_path / "one.jsonl"
    reader = Reader(path)
    ledger = Ledger(path, "one")
    ledger.note("begin", job=1)

    with path.open("ab") as file:
        file.write(b'{"at": 2.5, "node": "one", ')
        file.flush()
        assert [event.name for event in reader.more()] == ["begin"]
        file.write(b'"event": "end", "job": 1}\n')

    assert reader.more() == [Event(2.5, "one", "end", {"job": 1})]
    assert reader.more() == []
