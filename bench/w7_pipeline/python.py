"""W7 with asyncio: three tasks and its queues."""

import asyncio
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'peers'))
import bench  # noqa: E402


async def produce(numbers, items):
    for number in range(items):
        await numbers.put(number)
    await numbers.put(None)


async def process(numbers, sums):
    while (number := await numbers.get()) is not None:
        await sums.put(number + 1)
    await sums.put(None)


async def consume(sums):
    count = total = 0
    while (number := await sums.get()) is not None:
        count += 1
        total += number
    return count, total


async def run(items, room):
    numbers, sums = asyncio.Queue(room), asyncio.Queue(room)
    found = await asyncio.gather(produce(numbers, items), process(numbers, sums), consume(sums))
    bench.need(found[2] == (items, items * (items + 1) // 2), 'each item reached the end')


def main():
    items, room = bench.number('items', 100000), bench.number('room', 100)
    bench.say('mps', items * 1e3 / bench.took_ns(items, lambda n: bench.run(run(n, room))))


main()
