"""W3 with asyncio: coroutines that await run_in_executor."""

import asyncio
import concurrent.futures
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'peers'))
import bench  # noqa: E402


def job():
    return 1


class Offloads:
    """What the coroutines have done together; the first ones warm up."""

    def __init__(self, total):
        self.total = total
        self.left = total + total // 20
        self.done = self.begun_ns = self.ended_ns = 0
        self.us = []

    def take(self):
        if self.left == 0:
            return False
        if self.left == self.total:
            self.begun_ns = time.monotonic_ns()
        self.left -= 1
        return True

    def came_back(self, begun_ns):
        self.ended_ns = time.monotonic_ns()
        self.done += 1
        if self.done > self.total // 20:
            self.us.append((self.ended_ns - begun_ns) / 1e3)

    def say(self):
        bench.need(self.done == self.total + self.total // 20, 'all offloads came back')
        bench.say_quantiles('', self.us)
        bench.say('mps', self.total * 1e3 / (self.ended_ns - self.begun_ns))


async def offload(loop, pool, offloads):
    while offloads.take():
        begun_ns = time.monotonic_ns()
        bench.need(await loop.run_in_executor(pool, job) == 1, 'the job ran')
        offloads.came_back(begun_ns)


async def main():
    loop = asyncio.get_running_loop()
    offloads = Offloads(bench.number('offloads', 5000))
    with concurrent.futures.ThreadPoolExecutor(bench.number('workers', 2)) as pool:
        await asyncio.gather(*(offload(loop, pool, offloads) for _ in range(bench.number('at_once', 1))))
    offloads.say()


bench.run(main())
