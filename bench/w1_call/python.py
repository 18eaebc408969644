"""W1 with asyncio: run_coroutine_threadsafe, and its future waited for."""

import asyncio
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'peers'))
import bench  # noqa: E402


async def trivial():
    return 1


def main():
    if not bench.number('spin', 1):
        bench.skip()
    calls, gap_s = bench.number('calls', 5000), bench.number('gap_us', 0) / 1e6
    loop = bench.loop_on_thread()
    us = []
    for i in range(-calls // 20, calls):
        if gap_s:
            time.sleep(gap_s)
        begun = time.monotonic_ns()
        bench.need(asyncio.run_coroutine_threadsafe(trivial(), loop).result() == 1, 'each call has its result')
        if i >= 0:
            us.append((time.monotonic_ns() - begun) / 1e3)
    bench.say_quantiles('', us)
    bench.end()


main()
