"""Decorators, options and the registry."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from oban_sync import (
    ConfigError,
    InvalidJobError,
    NotRunningError,
    Worker,
    WorkerNotFoundError,
    job,
    worker,
)
from oban_sync.core.job import Deadline
from oban_sync.core.registry import resolve


@worker(queue="mailers", max_attempts=5, priority=2, tags=["A ", "a", "", "B"], meta={"m": 1})
class Mailer:
    def process(self, job):
        return None


@job(queue="maths")
def add(a, b=2):
    return a + b


def test_options_of_the_decorator_are_defaults_and_those_of_new_win():
    plain = Mailer.new({"to": "x"})
    other = Mailer.new({"to": "x"}, queue="slow", priority=9, tags=["z"], meta={}, max_attempts=1)

    assert (plain.queue, plain.priority, plain.max_attempts) == ("mailers", 2, 5)
    assert (plain.tags, plain.meta) == (["a", "b"], {"m": 1})
    assert (other.queue, other.priority, other.max_attempts) == ("slow", 9, 1)
    assert (other.tags, other.meta) == (["z"], {})
    assert plain.worker == f"{__name__}.Mailer"


def test_a_decorated_function_is_still_a_function():
    assert add(1) == 3
    assert add.__name__ == "add"
    assert add.new(1, b=5).args == {"a": 1, "b": 5}
    assert add.new(1).args == {"a": 1}


def test_options_on_a_function_leave_the_function_itself_alone():
    assert add.options(queue="slow", priority=3).new(1).queue == "slow"
    assert add.new(1).queue == "maths"


def test_arguments_that_do_not_fit_the_signature_are_an_ordinary_type_error():
    with pytest.raises(TypeError, match="missing a required argument: 'a'"):
        add.new()


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((1, 2), {}), ((1, 2, 3, 4), {}), ((1, 2), {"d": 5, "e": 6}), ((1, 2, 3), {"z": 0})],
)
def test_every_kind_of_parameter_arrives_as_it_was_passed(args, kwargs):
    @job(name=f"kinds-{args}-{kwargs}")
    def kinds(a, /, b, *c, d=0, **e):
        return (a, b, c, d, e)

    made = kinds.new(*args, **kwargs)

    assert resolve(made.worker).perform(made) == kinds(*args, **kwargs)


def test_a_name_given_twice_through_kwargs_is_refused():
    @job(name="clashing")
    def clashing(a, /, **rest):
        return a, rest

    with pytest.raises(InvalidJobError, match="two arguments"):
        clashing.new(1, a=2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quue": "x"}, ["quue", "queue"]),
        ({"queue": ""}, ["queue", "blank"]),
        ({"queue": "  "}, ["queue", "blank"]),
        ({"queue": "x" * 128}, ["queue", "127"]),
        ({"queue": "a\nb"}, ["queue", "printed"]),
        ({"queue": 7}, ["queue", "string"]),
        ({"priority": 10}, ["priority", "0 (first) to 9"]),
        ({"priority": True}, ["priority"]),
        ({"priority": "1"}, ["priority"]),
        ({"max_attempts": 0}, ["max_attempts", "1 to"]),
        ({"max_attempts": 2**31}, ["max_attempts"]),
        ({"tags": "abc"}, ["tags", "list"]),
        ({"tags": [1]}, ["tags[0]"]),
        ({"tags": ["a\0"]}, ["tags[0]", "NUL"]),
        ({"tags": [str(n) for n in range(101)]}, ["tags", "100"]),
        ({"meta": [1]}, ["meta"]),
        ({"meta": {"x": float("nan")}}, ["meta.x"]),
        ({"schedule_in": -1}, ["schedule_in"]),
        ({"schedule_in": float("inf")}, ["schedule_in"]),
        ({"schedule_in": float("nan")}, ["schedule_in"]),
        ({"schedule_in": "5"}, ["schedule_in"]),
        ({"schedule_in": 10**400}, ["schedule_in"]),
        ({"scheduled_at": datetime(2026, 1, 1)}, ["scheduled_at", "timezone"]),
        ({"scheduled_at": "2026-01-01"}, ["scheduled_at"]),
        ({"scheduled_at": datetime.max.replace(tzinfo=UTC)}, ["scheduled_at", "range"]),
        ({"scheduled_at": datetime.min.replace(tzinfo=UTC)}, ["scheduled_at", "range"]),
        ({"schedule_in": 1, "scheduled_at": datetime.now(UTC)}, ["schedule_in", "not both"]),
    ],
    ids=lambda value: re.sub(r" at 0x.*|\d{4}-\d\d-\d\d.*", "", str(value)[:60]),
)
def test_a_wrong_option_is_named_with_what_is_allowed(options, words):
    for make in (lambda: Mailer.new({}, **options), lambda: worker(**options)(type("X", (), {}))):
        with pytest.raises(ConfigError) as caught:
            make()

        for word in words:
            assert word in str(caught.value)


@pytest.mark.parametrize("name", ['a"b', "a b", "q'q", "a\\b", "名前", "x" * 127])
def test_queue_names_may_hold_quotes_spaces_and_letters_of_any_script(name):
    assert Mailer.new({}, queue=name).queue == name


def test_a_time_given_to_new_replaces_the_other_kind_of_time_in_the_decorator():
    @worker(schedule_in=60)
    class Later:
        def process(self, job):
            return None

    moment = datetime(2030, 1, 1, tzinfo=UTC)

    assert Later.new({}).state == "scheduled"
    assert Later.new({}, scheduled_at=moment).scheduled_at == moment
    assert Later.new({}, scheduled_in=timedelta(minutes=1)).state == "scheduled"


@pytest.mark.parametrize("args", [["x"], "x", 1], ids=repr)
def test_args_that_are_no_object_are_refused(args):
    with pytest.raises(InvalidJobError, match="args"):
        Mailer.new(args)


def test_an_asynchronous_process_is_refused_at_definition():
    with pytest.raises(ConfigError, match="asyncio.run"):

        @worker()
        class Async:
            async def process(self, job):
                return None

    with pytest.raises(ConfigError, match="asyncio.run"):

        @job()
        async def asynchronous():
            return None


def test_a_process_that_yields_is_refused_at_definition():
    with pytest.raises(ConfigError, match="yields"):

        @worker()
        class Yielding:
            def process(self, job):
                yield 1


def test_a_worker_that_could_not_be_called_is_refused_at_definition():
    with pytest.raises(ConfigError, match="must take the job"):

        @worker()
        class NoJob:
            def process(self):
                return None

    with pytest.raises(ConfigError, match="without arguments"):

        @worker()
        class NeedsMore:
            def __init__(self, db):
                self.db = db

            def process(self, job):
                return None


def test_unusual_workers_that_can_be_called_are_accepted():
    @worker(name="static")
    class Static:
        @staticmethod
        def process(job):
            return "static"

    @worker(name="optional")
    class Optional:
        def __init__(self, db=None):
            self.db = db

        def process(self, job, *rest):
            return "optional"

    for cls in (Static, Optional):
        made = cls.new()

        assert resolve(made.worker).perform(made) == made.worker


@pytest.mark.parametrize("decorator", [worker, job])
def test_forgotten_parentheses_are_told(decorator):
    with pytest.raises(ConfigError, match="parentheses"):

        @decorator
        class Bare:
            def process(self, job):
                return None


def test_options_in_the_wrong_place_are_told_where_they_go():
    with pytest.raises(TypeError, match=r"\.options\(schedule_in=\.\.\.\)"):
        add.enqueue(1, schedule_in=5)

    with pytest.raises(InvalidJobError, match="Args go into a dict"):
        Mailer.new(to="x")


def test_a_class_without_process_is_refused_at_definition():
    with pytest.raises(ConfigError, match="process"):

        @worker()
        class Empty:
            pass

    with pytest.raises(ConfigError, match="process"):

        @worker()
        class EmptyWorker(Worker):
            pass


def test_the_decorators_tell_classes_from_functions():
    with pytest.raises(ConfigError, match="use @job"):
        worker()(lambda job: None)

    with pytest.raises(ConfigError, match="use @worker"):
        job()(Mailer)


def test_a_subclass_of_a_worker_is_no_worker_until_decorated():
    class Special(Mailer):
        def process(self, job):
            return "special"

    with pytest.raises(ConfigError, match="decorate it"):
        Special.new({})


def test_two_places_cannot_share_a_name():
    @worker(name="shared.name")
    class First:
        def process(self, job):
            return None

    with pytest.raises(ConfigError, match=r"shared\.name"):

        @worker(name="shared.name")
        class Second:
            def process(self, job):
                return None


def test_the_same_place_may_be_defined_again():
    def define():
        @worker(name="again")
        class Again:
            def process(self, job):
                return None

        return Again

    define()

    assert resolve("again").perform is not None
    assert define().new({}).worker == "again"


def test_an_unknown_worker_is_told_with_the_nearest_name_and_nothing_is_imported():
    with pytest.raises(WorkerNotFoundError, match="Did you mean"):
        resolve(f"{__name__}.Mailr")

    assert "wave" not in sys.modules

    with pytest.raises(WorkerNotFoundError):
        resolve("wave.Wave_read")

    assert "wave" not in sys.modules


def test_enqueueing_without_an_oban_says_so():
    with pytest.raises(NotRunningError, match="construct"):
        Mailer.enqueue({})


@pytest.mark.parametrize("how", ["file", "module"])
def test_workers_of_a_script_are_named_as_other_processes_import_them(tmp_path, how):
    package = tmp_path / "shop"
    package.mkdir()
    script = package / "jobs.py"
    script.write_text(
        "from oban_sync import job\n@job()\ndef pack(): pass\nprint(pack.new().worker)\n"
    )
    command = [str(script)] if how == "file" else ["-m", "shop.jobs"]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == ("jobs.pack" if how == "file" else "shop.jobs.pack")


def test_a_timeout_of_the_decorator_stays_with_the_worker_and_that_of_a_job_with_the_job():
    @worker(name="timed", timeout=timedelta(minutes=1))
    class Timed:
        def process(self, job):
            return None

    @job(name="timed-function", timeout=5)
    def timed():
        return None

    made = Timed.new()

    assert resolve("timed").timeout(made) == 60.0
    assert resolve("timed-function").timeout(timed.new()) == 5.0
    assert (made.kept("timeout"), made.meta) == (None, {})
    assert Timed.new(timeout=3).kept("timeout") == 3.0
    assert timed.options(timeout=3).new().kept("timeout") == 3.0


def test_a_method_wins_over_the_timeout_of_the_decorator():
    @worker(name="timed-by-method", timeout=60)
    class Timed:
        def process(self, job):
            return None

        def timeout(self, job):
            return job.args["seconds"]

    assert resolve("timed-by-method").timeout(Timed.new({"seconds": 7})) == 7


def test_without_a_timeout_there_is_none():
    assert resolve(Mailer.new().worker).timeout is None


@pytest.mark.parametrize("given", [0, -1, "5", True, float("nan"), float("inf")], ids=repr)
def test_a_wrong_timeout_is_refused_at_definition_and_at_new(given):
    for make in (
        lambda: worker(timeout=given),
        lambda: job(timeout=given),
        lambda: Mailer.new(timeout=given),
    ):
        with pytest.raises(ConfigError, match="timeout"):
            make()


def test_a_timeout_that_is_no_method_is_refused():
    with pytest.raises(ConfigError, match=r"timeout is 5 and not a method timeout\(self, job\)"):

        @worker(name="timed-wrongly")
        class Timed:
            timeout = 5

            def process(self, job):
                return None

    with pytest.raises(ConfigError, match="timeout is async"):

        @worker(name="timed-wrongly")
        class Waiting:
            async def timeout(self, job):
                return 5

            def process(self, job):
                return None


def test_deadline_and_weight_of_the_decorator_are_those_of_every_job():
    @worker(name="bounded", deadline=60, weight=3)
    class Bounded:
        def process(self, job):
            return None

    plain, other = Bounded.new(), Bounded.new(deadline={"in": 5, "force": True}, weight=1)

    assert plain._deadline == Deadline(60.0)
    assert (plain.kept("weight"), plain.kept("forced")) == (3, None)
    assert other._deadline == Deadline(5.0, force=True)
    assert (other.kept("weight"), other.kept("forced")) == (1, True)


@pytest.mark.parametrize(
    ("options", "meant"),
    [({"retry_onn": ValueError}, "retry_on"), ({"discard": ValueError}, "discard_on")],
)
def test_a_misspelt_option_of_a_decorator_is_told_with_the_nearest(options, meant):
    with pytest.raises(ConfigError, match=f"Did you mean '{meant}'"):
        worker(**options)
