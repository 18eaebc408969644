"""What the programs in Python share: as bench.h and bench.hpp have it. Each is for asyncio; loop=uvloop: for that.

Default sizes are smaller than the other languages', so that a run ends in a few seconds.
"""

import asyncio
import os
import sys
import threading
import time

SKIP = 77
ARGUMENTS = dict(argument.split('=', 1) for argument in sys.argv[1:])


def text(key, otherwise):
    return ARGUMENTS.get(key, otherwise)


def number(key, otherwise):
    return int(ARGUMENTS.get(key, otherwise))


def skip():
    sys.exit(SKIP)


def need(condition, what):
    if not condition:
        sys.exit(f'bench: failed: {what}')


def say(figure, value):
    print(f'{figure} {value:.6g}', flush=True)


def say_quantiles(prefix, us):
    us.sort()
    for name, q in ('p50_us', 0.5), ('p99_us', 0.99), ('p999_us', 0.999):
        say(prefix + name, us[min(int(len(us) * q), len(us) - 1)])


def new_loop():
    if text('loop', 'asyncio') != 'uvloop':
        return asyncio.new_event_loop()
    try:
        import uvloop
    except ImportError:
        skip()
    return uvloop.new_event_loop()


def run(coroutine):
    return new_loop().run_until_complete(coroutine)


def loop_on_thread():
    """A loop on a thread of its own, for as long as the process."""
    loop = new_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


def end():
    """Ends the process without what a daemon's loop would say of that."""
    sys.stdout.flush()
    os._exit(0)


def took_ns(work, do):
    """Does it once with a twentieth of the work to warm up, and measures it then."""
    do(work // 20)
    begun = time.monotonic_ns()
    do(work)
    return time.monotonic_ns() - begun


class Count:
    """Counts what ran, and knows when the last did."""

    def __init__(self):
        self.ran = self.goal = self.ended_ns = 0
        self.done = threading.Event()
        self.lock = threading.Lock()

    def expect(self, goal):
        self.ran = 0
        self.goal = goal
        self.done.clear()

    def ran_on_one_thread(self):
        self.ran += 1
        if self.ran == self.goal:
            self.ended_ns = time.monotonic_ns()
            self.done.set()

    def ran_on_any_thread(self):
        with self.lock:
            self.ran_on_one_thread()

    def wait_ns(self):
        need(self.done.wait(120), 'all of the work runs')
        need(self.ran == self.goal, 'the work runs once')
        return self.ended_ns


def produce_on_threads(threads, total, produce):
    """produce(n) on so many threads; returns when the first began."""
    shares = [total * (i + 1) // threads - total * i // threads for i in range(threads)]
    producers = [threading.Thread(target=produce, args=(share,)) for share in shares]
    begun = time.monotonic_ns()
    for producer in producers:
        producer.start()
    for producer in producers:
        producer.join()
    return begun


def measure_rate(total, count, produce):
    """W2 and W8: produce(n) submits n pieces of work, each of which reports to `count`."""
    threads = number('producers', 1)
    count.expect(total // 20 + 1)
    produce_on_threads(threads, total // 20 + 1, produce)
    count.wait_ns()

    count.expect(total)
    begun = produce_on_threads(threads, total, produce)
    say('mps', total * 1e3 / (count.wait_ns() - begun))


def random_numbers():
    """xorshift64*, as in bench.h."""
    x = 88172645463325252
    while True:
        x ^= x >> 12
        x = (x ^ x << 25) & 0xffffffffffffffff
        x ^= x >> 27
        yield x * 2685821657736338717 >> 32 & 0xffffffff


def memory():
    """W5, memory: bytes of VmRSS and VmPTE, the pages of this process and the tables of them."""
    with open('/proc/self/status') as status:
        fields = dict(line.split(':', 1) for line in status)
    return [int(fields[name].split()[0]) * 1024 for name in ('VmRSS', 'VmPTE')]


def say_more(before, count):
    """What has come since then, for each of so many."""
    for name, now, then in zip(('bytes', 'tables_bytes'), memory(), before):
        say(name, (now - then) / count)


async def serve(protocol):
    """A server; it says its port, and ends when its standard input does. Both loops set TCP_NODELAY themselves."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(protocol, '127.0.0.1', 0, backlog=4096)
    print('port', server.sockets[0].getsockname()[1], flush=True)
    ended = loop.create_future()

    def read_input():
        if not os.read(0, 4096) and not ended.done():
            ended.set_result(None)

    loop.add_reader(0, read_input)
    await ended
    end()
