"""W4 with asyncio: two tasks that sleep(0), which is its yield."""

import asyncio
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'peers'))
import bench  # noqa: E402


async def yield_often(yields):
    yielded = 0
    for _ in range(yields):
        await asyncio.sleep(0)
        yielded += 1
    return yielded


async def both(yields):
    yielded = await asyncio.gather(yield_often(yields // 2), yield_often(yields // 2))
    bench.need(sum(yielded) == yields // 2 * 2, 'all yields were done')


def main():
    yields = bench.number('yields', 200000)
    bench.say('yield_ns', bench.took_ns(yields, lambda n: bench.run(both(n))) / yields)


main()
