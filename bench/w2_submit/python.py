"""W2 with asyncio: call_soon_threadsafe, or run_coroutine_threadsafe and its future let go."""

import asyncio
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'peers'))
import bench  # noqa: E402


def main():
    kind = bench.text('kind', 'callback')
    count = bench.Count()
    loop = bench.loop_on_thread()

    async def trivial():
        count.ran_on_one_thread()

    def callbacks(n):
        for _ in range(n):
            loop.call_soon_threadsafe(count.ran_on_one_thread)

    def tasks(n):
        for _ in range(n):
            asyncio.run_coroutine_threadsafe(trivial(), loop)

    bench.measure_rate(bench.number('work', 40000), count, tasks if kind == 'task' else callbacks)
    bench.end()


main()
