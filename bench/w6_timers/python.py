"""W6 with asyncio: call_later, or a task each that sleeps."""

import asyncio
import itertools
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'peers'))
import bench  # noqa: E402


class Timers:
    def __init__(self, timers, span_ms):
        self.lengths = [1 + number % span_ms for number in itertools.islice(bench.random_numbers(), timers)]
        self.late_us = []
        self.all = asyncio.get_running_loop().create_future()

    def fired(self, due_ns):
        self.late_us.append((time.monotonic_ns() - due_ns) / 1e3)
        if len(self.late_us) == len(self.lengths):
            self.all.set_result(None)

    async def sleep(self, ms):
        due_ns = time.monotonic_ns() + ms * 1000000
        await asyncio.sleep(ms / 1e3)
        self.fired(due_ns)

    async def run(self, kind):
        """Milliseconds of CPU time."""
        loop = asyncio.get_running_loop()
        begun_ns = time.process_time_ns()
        if kind == 'sleep':
            tasks = [loop.create_task(self.sleep(ms)) for ms in self.lengths]
            bench.need(len(tasks) == len(self.lengths), 'each has a task')
        else:
            for ms in self.lengths:
                loop.call_later(ms / 1e3, self.fired, time.monotonic_ns() + ms * 1000000)
        await self.all
        return (time.process_time_ns() - begun_ns) / 1e6


async def main():
    timers, span_ms = bench.number('timers', 20000), bench.number('span_ms', 1000)
    kind = bench.text('kind', 'callback')
    await Timers(timers // 20 + 1, span_ms // 20 + 1).run(kind)
    measured = Timers(timers, span_ms)
    bench.say('cpu_ms', await measured.run(kind))
    bench.say('early', sum(us < 0 for us in measured.late_us))
    bench.say_quantiles('late_', measured.late_us)


bench.run(main())
