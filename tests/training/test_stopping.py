"""What a training does with signals while it waits for its loader."""

import os
import signal
import time

import pytest

from effdet.errors import DataError
from effdet.training import stopping
from effdet.training.stopping import stop_request

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="Windows has no timer signals")


def send(number):
    os.kill(os.getpid(), number)


def hanging():
    """Gives one batch, and no other for a long time."""
    yield 1
    time.sleep(60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_loader_that_gives_no_batch_after_a_signal_is_an_error(monkeypatch, number):
    monkeypatch.setattr(stopping, "LONGEST_WAIT", 0.1)
    with stop_request(None) as stop:
        batches = stop.batches(hanging())
        assert next(batches) == 1
        send(number)
        with pytest.raises(DataError, match=r"no batch within 0\.1 seconds after the signal"):
            next(batches)


def test_a_step_or_an_evaluation_may_last_longer(monkeypatch):
    monkeypatch.setattr(stopping, "LONGEST_WAIT", 0.05)
    with stop_request(None) as stop:
        batches = stop.batches(number for number in (1, 2))
        assert next(batches) == 1
        send(signal.SIGTERM)
        time.sleep(0.2)
        assert (stop.reason, list(batches)) == ("terminated", [2])


def test_handlers_and_the_timer_are_those_of_before_in_the_end():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    with stop_request(None):
        send(signal.SIGTERM)
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_only_the_second_ctrl_c_ends_a_run_at_once():
    with stop_request(None) as stop:
        send(signal.SIGINT)
        assert stop.reason == "interrupted"
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        send(signal.SIGINT)


def test_the_batches_are_closed_with_their_wrapper():
    closed = []

    def batches():
        try:
            yield 1
        finally:
            closed.append(True)

    with stop_request(None) as stop:
        own = stop.batches(batches())
        next(own)
        own.close()
    assert closed == [True]
