"""What the module promises of blocking calls, buffers and errors."""

import gc
import sys
import threading
import time

import numpy
import pytest

import cmpool
from cmpool import Outcome

BYTES = 100_000


def blocks_of(count, nbytes=BYTES):
    return [numpy.random.default_rng(at).integers(0, 256, nbytes, dtype=numpy.uint8) for at in range(count)]


def put_chain(pool, count):
    chain = pool.chain(numpy.arange(count * 4 + 1, dtype=numpy.uint32))
    blocks = blocks_of(count)
    assert pool.put(chain, blocks).count(Outcome.STORED) == count
    return chain, blocks


def test_what_was_put_lands_in_numpy_arrays(pool):
    chain, blocks = put_chain(pool, 3)
    with pool.match(chain) as lease:
        assert lease.blocks == len(lease) == 3
        assert lease.held and lease.trouble is None
        pages = [numpy.zeros(BYTES, numpy.uint8) for _ in range(3)]
        report = pool.get(chain, pages, verify=True)
        assert report.outcomes == [Outcome.HIT] * 3
        assert report.bytes == [BYTES] * 3
        assert report.trouble is None
        assert all(numpy.array_equal(page, block) for page, block in zip(pages, blocks))
    # The end of the chain alone, and as a list of keys, which are in no chain and so elsewhere.
    page = numpy.zeros(BYTES, numpy.uint8)
    assert pool.get(chain, [page], 2).outcomes == [Outcome.HIT]
    assert numpy.array_equal(page, blocks[2])
    assert pool.remove(chain).count(Outcome.HIT) == 3
    assert pool.match(chain).blocks == 0


@pytest.mark.parametrize("make", [bytearray, lambda n: memoryview(bytearray(n)), lambda n: numpy.zeros(n // 4, "f4")])
def test_any_writable_buffer_is_filled_in_place(pool, make):
    key = pool.key(b"own key")
    assert len(key) == 32
    put = pool.put([key], [b"x" * 400])
    assert put.outcomes == [Outcome.STORED]
    room = make(400)
    assert pool.get([key], [room]).outcomes == [Outcome.HIT]
    assert bytes(memoryview(room).cast("B")) == b"x" * 400


def test_a_block_may_lie_in_pieces(pool):
    key = pool.key(b"pieces")
    assert pool.put([key], [(b"abc", bytearray(b"defg"), numpy.frombuffer(b"hi", numpy.uint8))]).count(Outcome.STORED)
    front, back = bytearray(4), bytearray(5)
    assert pool.get([key], [[front, back]]).bytes == [9]
    assert front + back == b"abcdefghi"


def test_arrays_are_filled_without_a_copy_and_kept_only_while_a_call_runs(pool):
    chain, blocks = put_chain(pool, 1)
    whole = numpy.zeros((3, BYTES), numpy.uint8)
    references = sys.getrefcount(whole)
    assert pool.get(chain, [whole[1]]).outcomes == [Outcome.HIT]
    assert numpy.array_equal(whole[1], blocks[0])
    assert not whole[0].any() and not whole[2].any()
    gc.collect()
    assert sys.getrefcount(whole) == references
    grows = bytearray(BYTES)
    call = pool.start_get(chain, [grows])
    call.wait()
    if pool.status()["transport"] == "tcp":
        with pytest.raises(BufferError):
            grows.append(0)
    assert call.result().outcomes == [Outcome.HIT]
    grows.append(0)


def test_what_cannot_be_a_buffer_is_an_error_before_anything_is_asked(pool):
    key = pool.key(b"x")
    with pytest.raises(TypeError):
        pool.put([key], ["text"])
    with pytest.raises((BufferError, ValueError)):  # read-only
        pool.get([key], [b"cannot be filled"])
    frozen = numpy.zeros(8, numpy.uint8)
    frozen.flags.writeable = False
    with pytest.raises((BufferError, ValueError)):
        pool.get([key], [frozen])
    with pytest.raises((BufferError, ValueError)):  # with holes
        pool.get([key], [numpy.zeros((8, 8), numpy.uint8)[:, 0]])
    with pytest.raises(ValueError, match="32 bytes"):
        pool.exists([b"short"])
    with pytest.raises(ValueError, match="a buffer for each key"):
        pool.get([key], [])
    with pytest.raises(ValueError, match="32-bit"):
        pool.chain(numpy.arange(8, dtype=numpy.int64))
    with pytest.raises(TypeError):
        pool.chain([-1, 2, 3, 4])
    with pytest.raises(ValueError, match="deadline"):
        pool.exists([key], deadline=0)


def test_chains_are_keys(pool):
    array = pool.chain(numpy.arange(9, dtype=numpy.uint32))
    listed = pool.chain(range(9))
    assert len(array) == 2
    assert list(array) == [array[0], array[1]] == list(listed)
    assert array[-1] == array[1]
    with pytest.raises(IndexError):
        array[2]
    assert len(pool.chain([])) == 0


def test_views_are_read_only_and_keep_their_lease(daemon):
    with cmpool.Pool(daemon.uri("shm"), model="test", dtype="u8", block_tokens=4) as pool:
        chain, blocks = put_chain(pool, 2)
        lease = pool.match(chain)
        view = lease.view(1)
        assert view.readonly and view.nbytes == BYTES
        with pytest.raises(cmpool.Invalid):
            lease.view(2)
        lease.release()
        assert lease.blocks == 0
        assert numpy.array_equal(numpy.frombuffer(view, numpy.uint8), blocks[1])
    assert numpy.array_equal(numpy.frombuffer(view, numpy.uint8), blocks[1])
    with cmpool.Pool(daemon.uri("tcp"), model="test", dtype="u8", block_tokens=4) as pool:
        with pytest.raises(cmpool.Unsupported):
            pool.match(chain).view(0)


def test_a_pool_that_is_not_there_is_misses_with_a_reason():
    with cmpool.Pool("cmpool://127.0.0.1:1?deadline_ms=50", model="test", dtype="u8") as pool:
        assert pool.status()["ready"] is False
        report = pool.exists([bytes(32)])
        assert report.outcomes == [Outcome.MISS]
        assert isinstance(report.trouble, cmpool.PeerDown) and isinstance(report.trouble, ConnectionError)
        assert str(report.trouble)
        assert pool.match([bytes(32)]).trouble is not None
        with pytest.raises(cmpool.PeerDown):
            pool.key(b"x")
        with pytest.raises(cmpool.PeerDown):
            pool.stats()


def test_what_opens_wrong_says_why(daemon):
    with pytest.raises(cmpool.Invalid, match="cmpool://"):
        cmpool.Pool("http://x", model="m", dtype="u8")
    with pytest.raises(TypeError):
        cmpool.Pool(daemon.uri(), model="m")
    mine = daemon.uri("tcp") + "&tenant=me&key="
    with cmpool.Pool(mine + "secret", model="m", dtype="u8"):
        with pytest.raises(cmpool.Denied):
            cmpool.Pool(mine + "other", model="m", dtype="u8")


def test_a_closed_pool_is_a_value_error(daemon):
    pool = cmpool.Pool(daemon.uri(), model="m", dtype="u8")
    pool.close()
    pool.close()
    with pytest.raises(ValueError, match="closed"):
        pool.exists([bytes(32)])


def test_other_threads_run_while_a_call_waits(daemon):
    with cmpool.Pool(daemon.uri("tcp"), model="m", dtype="u8") as pool:
        daemon.freeze()
        ticks = 0
        waited = threading.Event()

        def ask():
            assert pool.exists([bytes(32)], deadline=0.3).outcomes == [Outcome.MISS]
            waited.set()

        thread = threading.Thread(target=ask)
        begun = time.monotonic()
        thread.start()
        while not waited.is_set() and time.monotonic() - begun < 20:
            ticks += 1
        thread.join()
        # With the interpreter's lock held this loop would not have turned at all.
        assert ticks > 100
        daemon.thaw()


def test_registered_memory_and_statistics(pool):
    memory = bytearray(BYTES)
    registered = pool.register(memory)
    key = pool.key(b"registered")
    assert pool.put([key], [memory]).outcomes == [Outcome.STORED]
    registered.release()
    stats = pool.stats()
    assert stats["capacity_bytes"] > 0 and stats["blocks"] == 1


def test_a_seal_key_makes_blocks_that_nobody_without_it_can_use(daemon):
    def sealed(key):
        return cmpool.Pool(daemon.uri(), model="sealed", dtype="u8", block_tokens=4, seal_key=key)

    with sealed(b"k" * 32) as ours, sealed(b"o" * 32) as other:
        chain, blocks = put_chain(ours, 3)
        pages = [numpy.zeros(BYTES, numpy.uint8) for _ in range(3)]
        assert ours.get(chain, pages).outcomes == [Outcome.HIT] * 3
        assert all(numpy.array_equal(page, block) for page, block in zip(pages, blocks))
        assert other.get(chain, pages).outcomes == [Outcome.MISS] * 3
        with ours.match(chain) as lease:
            assert lease.blocks == 3
            with pytest.raises(cmpool.Unsupported):
                lease.view(0)
    with pytest.raises(cmpool.Mismatch):
        cmpool.Pool(daemon.uri(), model="sealed", dtype="u8", block_tokens=4)
    with pytest.raises(ValueError, match="32 bytes"):
        sealed(b"short")
