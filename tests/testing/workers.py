"""Workers of these tests."""

from __future__ import annotations

from oban_sync import Cancel, Oban, Record, Snooze, current_job, job, worker

RAN: list[object] = []


@worker(queue="mail", name="kit.Mailer", max_attempts=3)
class Mailer:
    """Notes whom it writes to."""

    def process(self, job):
        RAN.append(job.args.get("to"))


@worker(queue="mail", name="kit.Parent")
class Parent:
    """Enqueues others."""

    def process(self, job):
        for to in job.args["to"]:
            Mailer.enqueue({"to": to}, queue=job.args.get("queue", "mail"))


@worker(queue="mail", name="kit.Failing", max_attempts=2)
class Failing:
    """Fails."""

    def process(self, job):
        raise ValueError("no such mailbox")


@worker(queue="mail", name="kit.BadSql", max_attempts=2)
class BadSql:
    """Fails in PostgreSQL, on the connection that it finds."""

    def process(self, job):
        with Oban.get_instance().connection() as conn:
            conn.execute("INSERT INTO notes VALUES ('before')")
            conn.execute("SELECT 1 / 0")


@worker(queue="mail", name="kit.Answering")
class Answering:
    """Returns what it is asked for."""

    def process(self, job):
        kinds = {"record": Record(7), "snooze": Snooze(60), "cancel": Cancel("no")}

        return kinds[job.args["what"]]


@worker(queue="mail", name="kit.Exact", transactional=True)
class Exact:
    """Writes by what it is given."""

    def process(self, job, conn):
        conn.execute("INSERT INTO notes VALUES (%s)", [job.args["text"]])

        if job.args.get("fail"):
            raise ValueError("after the work")


@job(queue="sums", name="kit.add")
def add(a, b):
    """Add, and note the attempt."""
    RAN.append(current_job().attempt)

    return a + b


@worker(queue="mail", name="kit.Chain", max_attempts=2)
class Chain:
    """Enqueues the next of its kind."""

    def process(self, job):
        RAN.append(left := job.args["left"])

        if left > 1:
            Chain.enqueue({"left": left - 1})
