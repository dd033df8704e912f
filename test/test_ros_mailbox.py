# SPDX-License-Identifier: Apache-2.0
"""The mailbox of two stages: newest wins, nothing is searched late, nothing is followed over a gap."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy")

from spine_nav_common.ros.mailbox import NewestWins

END_S = 30.0


class Bench:
    """A mailbox whose second stage waits to be let go, item by item."""

    def __init__(self) -> None:
        self.following = False
        self.outputs: list[int] = []
        self.dropped = 0
        self.began = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.came = threading.Semaphore(0)
        node = SimpleNamespace(executor=SimpleNamespace(create_task=lambda _: self.came.release()))
        self.box = NewestWins(
            node, (lambda item: item, self._second), self.outputs.append, self._drop, "bench",
            lambda: self.following,
        )  # fmt: skip

    def _second(self, item: int) -> int:
        self.began.release()
        assert self.go.acquire(timeout=END_S)
        return item

    def _drop(self) -> None:
        self.dropped += 1

    def begin(self, item: int) -> None:
        """Put an item and wait until the second stage has it."""
        self.box.put(item)
        assert self.began.acquire(timeout=END_S)

    def put(self, *items: int) -> None:
        """Put items, the second stage being busy, and wait until the first has done what it may."""
        for item in items:
            self.box.put(item)
            with self.box._change:
                assert self.box._change.wait_for(self._settled, END_S)

    def _settled(self) -> bool:
        return not self.box._busy[0] and not self.box._ready(0)

    def finish(self) -> None:
        """Let the item in the second stage go and wait for its output."""
        self.go.release()
        assert self.came.acquire(timeout=END_S)
        self.box._deliver()

    def drain(self) -> list[int]:
        """Let everything through that waits; all outputs."""
        while True:
            with self.box._change:
                left = any(self.box._queues) or any(self.box._busy)
            if not left:
                break
            assert self.began.acquire(timeout=END_S)
            self.finish()
        assert self.box.idle
        return self.outputs


@pytest.fixture
def bench():
    made = Bench()
    yield made
    for _ in range(30):
        made.go.release()
    assert made.box.close()


def test_what_came_during_a_search_that_finds_is_followed_without_a_gap(bench):
    bench.begin(0)
    bench.put(*range(1, 6))
    bench.following = True  # the search of item 0 found something
    bench.finish()
    assert bench.drain() == [0, 1, 2, 3, 4, 5]
    assert bench.dropped == 0


def test_what_came_during_a_search_that_finds_nothing_is_not_searched_late(bench):
    bench.begin(0)
    bench.put(*range(1, 6))
    bench.finish()
    assert bench.drain() == [0, 5]
    assert bench.dropped == 4


def test_while_following_the_newest_wins(bench):
    bench.following = True
    bench.begin(0)
    bench.put(*range(1, 6))
    bench.finish()
    assert bench.drain() == [0, 1, 5]  # 1 was through the first stage before the others came
    assert bench.dropped == 3


def test_an_item_that_comes_while_the_others_are_worked_off_costs_none_of_them(bench):
    bench.begin(0)
    bench.put(1, 2, 3)
    bench.following = True
    bench.finish()
    bench.put(4)
    assert bench.drain() == [0, 1, 2, 3, 4]


def test_too_slow_to_work_it_off_the_newest_wins_again_after_the_backlog(bench):
    bench.begin(0)
    bench.put(*range(1, 9))
    bench.following = True
    bench.finish()
    newest = 8
    for _ in range(8):  # one comes for each that goes: nothing is ever caught up
        assert bench.began.acquire(timeout=END_S)
        newest += 1
        bench.put(newest)
        bench.finish()
    assert len(bench.box._queues[0]) <= 1
    outputs = bench.drain()
    assert outputs == sorted(outputs)
    assert outputs[-1] == newest
    assert len(outputs) + bench.dropped == newest + 1


def test_a_search_keeps_no_more_than_its_backlog(bench):
    bench.begin(0)
    bench.put(*range(1, 21))
    bench.following = True
    bench.finish()
    assert bench.drain() == [0, *range(13, 21)]
