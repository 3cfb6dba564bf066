"""Steps that overlap: the same results, order and errors as one by one, and few items in memory."""

from __future__ import annotations

import threading
import time

import pytest

from scenewise.engine.overlap import overlapped


def test_results_come_in_order_whatever_takes_long():
    def slow_when_even(item, value):
        time.sleep(0.02 if item % 2 == 0 else 0)
        return value

    done = list(overlapped(range(9), lambda i: slow_when_even(i, i), lambda i, v: v * v, slow_when_even))
    assert [(e.item, e.value, e.error) for e in done] == [(i, i * i, None) for i in range(9)]
    assert list(overlapped([], str, lambda i, v: v, lambda i, v: v)) == []


@pytest.mark.parametrize("step", ["read", "make", "write"])
def test_an_error_ends_its_item_alone(step):
    def fails(name, item, value):
        if name == step and item == 2:
            raise ValueError(f"{name} {item}")
        return value

    done = list(
        overlapped(
            range(5), lambda i: fails("read", i, i), lambda i, v: fails("make", i, v), lambda i, v: fails("write", i, v)
        )
    )
    assert [e.item for e in done] == [0, 1, 2, 3, 4]
    assert [str(e.error) for e in done if e.error] == [f"{step} 2"]
    assert [e.value for e in done if not e.error] == [0, 1, 3, 4]


def test_reading_and_writing_run_beside_the_middle_step():
    """While an item is made, the next is read and the last written: each waits for the other two."""
    meeting = threading.Barrier(3)

    def meet(item, value=None):
        meeting.wait(timeout=20)
        return item

    wanted = {"read": {2}, "make": {1}, "write": {0}}
    done = overlapped(
        range(3),
        lambda i: meet(i) if i in wanted["read"] else i,
        lambda i, v: meet(i) if i in wanted["make"] else v,
        lambda i, v: meet(i) if i in wanted["write"] else v,
    )
    assert [e.value for e in done] == [0, 1, 2]


def test_few_items_are_in_memory():
    alive, most, lock = 0, 0, threading.Lock()

    def read(item):
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        return item

    def write(item, value):
        nonlocal alive
        time.sleep(0.002)
        with lock:
            alive -= 1
        return value

    assert len(list(overlapped(range(50), read, lambda i, v: v, write, ahead=2))) == 50
    assert most <= 2 + 1 + 3


def test_nothing_is_begun_after_the_caller_stops():
    read, written = [], []
    steps = overlapped(
        iter(range(100)),
        lambda i: read.append(i),
        lambda i, v: v,
        lambda i, v: (time.sleep(0.01), written.append(i)),
    )
    assert next(steps).item == 0
    steps.close()
    assert len(read) < 10
    assert len(written) < 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("scenewise-")]


def test_an_interruption_is_no_items_error():
    def make(item, value):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(overlapped(range(3), lambda i: i, make, lambda i, v: v))
