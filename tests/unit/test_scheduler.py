"""Who is served next, who is replaced, and that every request ends exactly once."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockdiff.errors import (
    BlockdiffError,
    Cancelled,
    EngineBusy,
    EngineStopping,
    Superseded,
)
from blockdiff.service.scheduler import Job, Message, Scheduler
from blockdiff.types import Finished, Hole, InfillRequest, Priority, Progress, Refinement, Warmed

STOPPING = EngineStopping("it stops")


class Inbox:
    """A job and what it delivered."""

    def __init__(self, priority: Priority = Priority.EXPLICIT, **values: Any) -> None:
        self.messages: list[Message] = []
        self.job = Job(
            InfillRequest("", Hole(0, 0)), self.messages.append, priority=priority, **values
        )

    @property
    def ends(self) -> list[Message]:
        return [m for m in self.messages if isinstance(m, (Finished, Warmed, BlockdiffError))]


def explicit(**values: Any) -> Inbox:
    return Inbox(**values)


def automatic(**values: Any) -> Inbox:
    return Inbox(Priority.AUTOMATIC, **values)


def ahead(**values: Any) -> Inbox:
    return Inbox(Priority.AHEAD, **values)


def submitted(scheduler: Scheduler, *inboxes: Inbox) -> None:
    for inbox in inboxes:
        scheduler.submit(inbox.job)


def taken(scheduler: Scheduler) -> list[Job]:
    """All jobs, each taken and done."""
    jobs = []
    while (job := scheduler.next(timeout=0)) is not None:
        scheduler.done(job)
        jobs.append(job)
    return jobs


def test_equals_are_served_in_the_order_of_arrival() -> None:
    scheduler, inboxes = Scheduler(), [explicit() for _ in range(4)]
    submitted(scheduler, *inboxes)
    assert taken(scheduler) == [inbox.job for inbox in inboxes]


def test_an_explicit_command_overtakes_automatic_completions() -> None:
    scheduler = Scheduler()
    first, second, command = automatic(), automatic(), explicit()
    submitted(scheduler, first, second, command)
    assert taken(scheduler) == [command.job, first.job, second.job]


def test_a_busy_client_does_not_keep_the_others_waiting() -> None:
    scheduler = Scheduler()
    busy = [explicit(client="busy") for _ in range(3)]
    submitted(scheduler, *busy)
    first = scheduler.next(timeout=0)
    quiet = explicit(client="quiet")
    submitted(scheduler, quiet)
    assert first is busy[0].job
    scheduler.done(first)
    assert taken(scheduler) == [quiet.job, busy[1].job, busy[2].job]


@pytest.mark.parametrize("running", [False, True])
def test_a_newer_automatic_completion_replaces_the_older_one_of_its_document(
    running: bool,
) -> None:
    scheduler = Scheduler()
    old, other, new = automatic(source="a"), automatic(source="b"), automatic(source="a")
    submitted(scheduler, old)
    if running:
        assert scheduler.next(timeout=0) is old.job
    submitted(scheduler, other, new)
    assert [type(end) for end in old.ends] == [Superseded]
    assert scheduler.must_yield(old.job)
    if running:
        scheduler.put_back(old.job)  # it has ended: it does not come back
    assert taken(scheduler) == [other.job, new.job]


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        (explicit(source="a"), automatic(source="a")),
        (automatic(source="a"), explicit(source="a")),
        (explicit(source="a"), explicit(source="a")),
        (automatic(source="a"), automatic(source="b")),
        (automatic(), automatic()),
    ],
)
def test_nothing_else_is_replaced(older: Inbox, newer: Inbox) -> None:
    scheduler = Scheduler()
    submitted(scheduler, older, newer)
    assert scheduler.waiting == 2 and not older.ends


def test_a_running_completion_makes_way_for_a_command_and_starts_again_after_it() -> None:
    scheduler = Scheduler()
    completion, later, command = automatic(), automatic(), explicit()
    submitted(scheduler, completion)
    job = scheduler.next(timeout=0)
    assert job is completion.job and not scheduler.must_yield(job)
    submitted(scheduler, later)
    assert not scheduler.must_yield(job)
    submitted(scheduler, command)
    assert scheduler.must_yield(job)
    scheduler.put_back(job)
    assert taken(scheduler) == [command.job, completion.job, later.job]


def test_a_running_command_makes_way_for_nobody() -> None:
    scheduler, first, second = Scheduler(), explicit(), explicit()
    submitted(scheduler, first)
    job = scheduler.next(timeout=0)
    submitted(scheduler, second)
    assert job is first.job and not scheduler.must_yield(job)


def test_refinements_are_counted_on_when_a_request_starts_again() -> None:
    inbox = automatic()
    for seq in (0, 1, 0):
        inbox.job.post(Refinement("", seq, 0, "", (), 0, 0, 0.0))
    assert [m.seq for m in inbox.messages if isinstance(m, Refinement)] == [0, 1, 2]


@pytest.mark.parametrize("running", [False, True])
def test_a_cancelled_request_ends_at_once_and_does_not_run(running: bool) -> None:
    scheduler, inbox = Scheduler(), automatic()
    submitted(scheduler, inbox)
    if running:
        scheduler.next(timeout=0)
    scheduler.cancel(inbox.job, Cancelled("the user went on"))
    assert [type(end) for end in inbox.ends] == [Cancelled]
    assert scheduler.must_yield(inbox.job)
    assert scheduler.next(timeout=0) is None


def test_only_the_first_end_counts_and_nothing_follows_it() -> None:
    inbox = explicit()
    assert inbox.job.end(Cancelled("first"))
    assert not inbox.job.end(STOPPING)
    inbox.job.post(Progress("", "late", 1.0))
    assert [type(m) for m in inbox.messages] == [Cancelled]


def test_a_full_queue_refuses_but_still_replaces() -> None:
    scheduler = Scheduler(most_waiting=1)
    old, new = automatic(source="a"), automatic(source="a")
    submitted(scheduler, old)
    with pytest.raises(EngineBusy):
        scheduler.submit(explicit().job)
    submitted(scheduler, new)
    assert old.ends and taken(scheduler) == [new.job]


def test_closing_ends_every_request_and_refuses_new_ones() -> None:
    scheduler, running, waiting = Scheduler(), explicit(), explicit()
    submitted(scheduler, running, waiting)
    scheduler.next(timeout=0)
    scheduler.close(STOPPING)
    assert running.ends == waiting.ends == [STOPPING]
    assert scheduler.next() is None
    with pytest.raises(EngineStopping):
        scheduler.submit(explicit().job)


def test_a_waiting_engine_thread_wakes_up_for_a_job_and_for_the_end() -> None:
    scheduler, inbox, seen = Scheduler(), explicit(), []

    def work() -> None:
        while (job := scheduler.next()) is not None:
            seen.append(job)
            scheduler.done(job)

    thread = threading.Thread(target=work)
    thread.start()
    submitted(scheduler, inbox)
    while scheduler.idle_since is None:
        time.sleep(0.001)
    scheduler.close(STOPPING)
    thread.join(10)
    assert not thread.is_alive() and seen == [inbox.job]


def test_idle_is_what_neither_runs_nor_waits() -> None:
    scheduler, inbox = Scheduler(), explicit()
    assert not scheduler.close_if_idle(60, STOPPING)
    submitted(scheduler, inbox)
    assert scheduler.idle_since is None
    job = scheduler.next(timeout=0)
    assert job is not None and not scheduler.close_if_idle(0, STOPPING)
    scheduler.done(job)
    assert scheduler.close_if_idle(0, STOPPING) and scheduler.closed is STOPPING


@given(st.data())
def test_whatever_happens_every_request_ends_exactly_once(data: st.DataObject) -> None:
    scheduler, inboxes, running = Scheduler(most_waiting=4), [], None
    for _ in range(data.draw(st.integers(0, 30))):
        action = data.draw(st.sampled_from(["submit", "next", "finish", "yield", "cancel"]))
        if action == "submit":
            priority = data.draw(st.sampled_from(list(Priority)))
            draw = st.sampled_from(["", "a", "b"])
            inbox = Inbox(priority, source=data.draw(draw), client=data.draw(draw))
            inboxes.append(inbox)
            try:
                scheduler.submit(inbox.job)
            except EngineBusy as busy:
                inbox.job.end(busy)
        elif action == "next" and running is None:
            running = scheduler.next(timeout=0)
            assert running is None or not running.ended
        elif action == "finish" and running is not None:
            running.end(BlockdiffError("over"))
            scheduler.done(running)
            running = None
        elif action == "yield" and running is not None:
            scheduler.put_back(running)
            running = None
        elif action == "cancel" and inboxes:
            scheduler.cancel(data.draw(st.sampled_from(inboxes)).job, Cancelled("no more"))
        assert (scheduler.idle_since is None) == bool(scheduler.active)
    scheduler.close(STOPPING)
    assert all(len(inbox.ends) == 1 for inbox in inboxes)
    assert all(inbox.messages[-1:] == inbox.ends for inbox in inboxes)


# Encoding ahead


@pytest.mark.parametrize("other", [explicit, automatic, ahead])
@pytest.mark.parametrize("running", [True, False], ids=["running", "waiting"])
def test_encoding_ahead_ends_when_anything_else_arrives(other: Any, running: bool) -> None:
    scheduler, encoding, arrival = Scheduler(), ahead(), other()
    submitted(scheduler, encoding)
    if running:
        assert scheduler.next(timeout=0) is encoding.job
        assert not scheduler.must_yield(encoding.job)
    submitted(scheduler, arrival)
    assert [type(end) for end in encoding.ends] == [Superseded]
    if running:
        assert scheduler.must_yield(encoding.job)
        scheduler.put_back(encoding.job)
    assert taken(scheduler) == [arrival.job], "it is not started again"


def test_encoding_ahead_waits_for_everything_that_was_there_before() -> None:
    scheduler, encoding, first, second = Scheduler(), ahead(client="new"), automatic(), explicit()
    submitted(scheduler, first, second, encoding)
    assert not encoding.ends
    assert taken(scheduler) == [second.job, first.job, encoding.job]
