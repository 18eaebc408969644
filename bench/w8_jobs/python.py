"""W8 in Python: ThreadPoolExecutor, and its futures let go. It is asyncio's pool; uvloop has no other."""

import concurrent.futures
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'peers'))
import bench  # noqa: E402


def main():
    if bench.text('loop', 'asyncio') == 'uvloop':
        bench.skip()
    count = bench.Count()
    with concurrent.futures.ThreadPoolExecutor(bench.number('workers', 2)) as pool:

        def produce(n):
            for _ in range(n):
                pool.submit(count.ran_on_any_thread)

        bench.measure_rate(bench.number('jobs', 40000), count, produce)


main()
