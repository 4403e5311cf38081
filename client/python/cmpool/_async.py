"""A pool in an asyncio loop: no thread, the loop watches the pool's descriptor."""

import asyncio

from cmpool._errors import Again


class AsyncPool:
    """Awaits calls on `pool`. Other threads open pools of their own: who waits at this one keeps the loop waiting.

    A task that is cancelled leaves its call to end by itself; the call's buffers are kept until then.
    """

    def __init__(self, pool):
        self._pool = pool
        self._calls = {}
        self._loop = None
        self._fd = -1
        self._ended = None

    @property
    def pool(self):
        return self._pool

    def close(self):
        """Closes the pool, and ends what is awaited, with misses."""
        self._unwatch()
        self._pool.close()
        self._settle()

    async def match(self, keys, **options):
        return await self._ask(self._pool.start_match, keys, **options)

    async def get(self, keys, into, first=0, **options):
        return await self._ask(self._pool.start_get, keys, into, first, **options)

    async def put(self, keys, blocks, first=0, **options):
        return await self._ask(self._pool.start_put, keys, blocks, first, **options)

    async def exists(self, keys, **options):
        return await self._ask(self._pool.start_exists, keys, **options)

    async def remove(self, keys, **options):
        return await self._ask(self._pool.start_remove, keys, **options)

    async def _ask(self, start, *arguments, **options):
        while True:
            try:
                call = start(*arguments, **options)
            except Again:
                if not self._calls:
                    raise
                # Only so many may be on their way; each of those before this one ends by its deadline.
                await self._next_end()
            else:
                return await self._run(call)

    def _next_end(self):
        if self._ended is None:
            self._ended = self._loop.create_future()
        return asyncio.shield(self._ended)

    async def _run(self, call):
        if call.done():
            return call.result()
        loop = asyncio.get_running_loop()
        if self._calls and loop is not self._loop:
            if not self._loop.is_closed():
                raise RuntimeError("an AsyncPool serves one event loop: make another one for this loop")
            # Nobody waits for what an ended loop has left, but for its buffers.
            for left in self._calls:
                left.wait()
            self._calls.clear()
            self._ended = None
            self._unwatch()
        future = loop.create_future()
        if not self._calls:
            self._loop, self._fd = loop, self._pool.fileno()
            loop.add_reader(self._fd, self._moved)
        self._calls[call] = future
        # What was started may have come to an end before anybody watched.
        self._moved()
        return await future

    def _moved(self):
        self._pool.progress()
        self._settle()

    def _settle(self):
        ended = [call for call in self._calls if call.done()]
        if ended and self._ended is not None:
            self._ended.set_result(None)
            self._ended = None
        for call in ended:
            future = self._calls.pop(call)
            if future.done():  # its task was cancelled
                continue
            try:
                future.set_result(call.result())
            except Exception as error:
                future.set_exception(error)
        if not self._calls:
            self._unwatch()

    def _unwatch(self):
        if self._fd >= 0 and not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
        self._fd = -1
