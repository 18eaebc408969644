"""W5, memory, with asyncio: tasks that sleep."""

import asyncio
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'peers'))
import bench  # noqa: E402


sleeping = 0


async def sleep():
    global sleeping
    sleeping += 1
    await asyncio.sleep(3600)


async def main():
    sleepers = bench.number('sleepers', 100000)
    before = bench.memory()
    tasks = [asyncio.ensure_future(sleep()) for _ in range(sleepers)]
    await asyncio.sleep(0)
    bench.need(sleeping == sleepers == len(tasks), 'all of them sleep')
    bench.say_more(before, sleepers)
    bench.end()


bench.run(main())
