"""Calls that an asyncio loop awaits, by the pool's descriptor."""

import asyncio
import gc
import time

import numpy
import pytest

import cmpool
from cmpool import AsyncPool, Outcome

SECONDS = 20


def run(work):
    return asyncio.run(asyncio.wait_for(work, SECONDS))


def test_many_calls_are_awaited_at_once(pool):
    ours = AsyncPool(pool)

    async def work():
        keys = [pool.key(str(at).encode()) for at in range(50)]
        blocks = [numpy.full(30_000, at, numpy.uint8) for at in range(50)]
        reports = await asyncio.gather(*(ours.put([key], [block]) for key, block in zip(keys, blocks)))
        assert all(report.outcomes == [Outcome.STORED] for report in reports)
        pages = [numpy.zeros(30_000, numpy.uint8) for _ in keys]
        reports = await asyncio.gather(*(ours.get([key], [page]) for key, page in zip(keys, pages)))
        assert all(report.outcomes == [Outcome.HIT] for report in reports)
        assert all(numpy.array_equal(page, block) for page, block in zip(pages, blocks))
        assert (await ours.exists(keys)).count(Outcome.HIT) == 50
        assert (await ours.remove(keys[:10])).count(Outcome.HIT) == 10

    run(work())


def test_a_match_is_awaited(pool):
    chain = pool.chain(range(8))
    pool.put(chain, [b"a", b"b"])

    async def work():
        lease = await AsyncPool(pool).match(chain)
        assert lease.blocks == 2 and lease.held

    run(work())


def test_the_loop_runs_while_a_frozen_pool_is_awaited_and_the_deadline_ends_it(daemon):
    pool = cmpool.Pool(daemon.uri("tcp"), model="m", dtype="u8")
    ours = AsyncPool(pool)
    key = pool.key(b"x")

    async def work():
        daemon.freeze()
        task = asyncio.create_task(ours.get([key], [bytearray(10)], deadline=0.2))
        turns = 0
        begun = time.monotonic()
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns > 10
        assert time.monotonic() - begun < 5
        report = task.result()
        assert report.outcomes == [Outcome.MISS]
        assert isinstance(report.trouble, cmpool.Deadline) and isinstance(report.trouble, TimeoutError)
        daemon.thaw()

    run(work())
    pool.close()


def test_a_cancelled_task_leaves_its_buffer_alone_only_when_its_call_has_ended(daemon):
    pool = cmpool.Pool(daemon.uri("tcp"), model="m", dtype="u8")
    ours = AsyncPool(pool)
    key = pool.key(b"x")

    async def work():
        daemon.freeze()
        room = bytearray(10)
        task = asyncio.create_task(ours.get([key], [room], deadline=0.2))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(BufferError):
            room.append(0)
        # The next call shares the wait; when it has ended the cancelled one has, too.
        assert (await ours.exists([key], deadline=0.3)).outcomes == [Outcome.MISS]
        gc.collect()
        room.append(0)
        daemon.thaw()

    run(work())
    pool.close()


def test_closing_ends_what_is_awaited_with_misses(daemon):
    pool = cmpool.Pool(daemon.uri("tcp"), model="m", dtype="u8")
    ours = AsyncPool(pool)
    key = pool.key(b"x")

    async def work():
        daemon.freeze()
        task = asyncio.create_task(ours.exists([key]))
        await asyncio.sleep(0)
        ours.close()
        assert (await task).outcomes == [Outcome.MISS]
        daemon.thaw()

    run(work())


def test_what_one_loop_has_left_does_not_disturb_the_next(daemon):
    with cmpool.Pool(daemon.uri("tcp"), model="m", dtype="u8") as pool:
        ours = AsyncPool(pool)
        key = pool.key(b"x")

        async def leave():
            asyncio.create_task(ours.exists([key], deadline=0.2))
            await asyncio.sleep(0)

        daemon.freeze()
        asyncio.run(leave())
        daemon.thaw()
        report = run(ours.put([key], [b"bytes"], deadline=10))
        assert report.outcomes in ([Outcome.STORED], [Outcome.DROPPED])
