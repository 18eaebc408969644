"""W5 with asyncio: tasks, which are gathered."""

import asyncio
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'peers'))
import bench  # noqa: E402


async def trivial():
    return 1


async def spawn(spawns, batch):
    loop = asyncio.get_running_loop()
    ran = 0
    for left in range(spawns, 0, -batch):
        tasks = [loop.create_task(trivial()) for _ in range(min(left, batch))]
        ran += sum(await asyncio.gather(*tasks))
    bench.need(ran == spawns, 'all of them ran')


def main():
    spawns, batch = bench.number('spawns', 100000), bench.number('batch', 1000)
    bench.say('spawn_ns', bench.took_ns(spawns, lambda n: bench.run(spawn(n, batch))) / spawns)


main()
