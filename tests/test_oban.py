"""The front object, from outside."""

from __future__ import annotations

from oban_sync import worker


@worker(queue="alpha")
class Echo:
    def process(self, job):
        return None


def test_a_job_runs_on_a_thread_soon_after_it_is_enqueued(make_oban, probe):
    oban = make_oban(queues={"alpha": 2}).start()
    job = Echo.enqueue({"n": 1})

    assert probe.next("oban.job.stop")["state"] == "completed"

    oban.stop()

    assert job.id is not None
