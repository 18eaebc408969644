"""What is measured: the cases of each workload, their sizes, and what the goal of each is. Only data."""
import dataclasses

# Who does a case.
OURS = ['duet', 'streams', 'switch']
LIMITS = ['limit', 'epoll']
PEERS = ['libuv', 'asio', 'asio_coro', 'fiber', 'tbb', 'tokio', 'go', 'asyncio', 'uvloop', 'nginx']
CONTESTANTS = OURS + LIMITS + PEERS
IN_PYTHON = ['asyncio', 'uvloop']
QUICK = OURS + ['limit', 'libuv', 'asio', 'tokio', 'go', 'nginx']

UNITS = {'ns': 'ns', 'mps': 'M/s', 'krps': 'k/s', 'bytes': 'B', 'early': '', 'cpu_s': 's', 'peak_mib': 'MiB'}
UNITS_BY_END = {'_us': 'µs', '_ns': 'ns', '_ms': 'ms', '_bytes': 'B'}
MORE_IS_BETTER = {'mps', 'krps'}
NAMES = {'mps': '', 'krps': '', 'cpu_s': 'CPU', 'cpu_us': 'CPU', 'cpu_ms': 'CPU', 'bytes': ''}  # in tables


@dataclasses.dataclass(frozen=True)
class Goal:
    """That a figure of ours is at most (or at least, where more is better) a value, or so many times another's."""
    figure: str
    value: float
    of: str = ''  # a contestant, or PEER; else the value is absolute


PEER = 'the best peer'


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    workload: str  # what is typed to select it
    folder: str
    title: str
    figure: str  # the one that ratios are of
    arguments: dict = dataclasses.field(default_factory=dict)
    goals: tuple = ()
    others: dict = dataclasses.field(default_factory=dict)  # contestant: arguments of its own
    quick: dict = None  # arguments of --quick; None: it leaves the case out
    ours: str = 'duet'
    without: tuple = ()  # contestants for whom it would take minutes
    only: tuple = ()  # contestants; empty: all
    aside: tuple = ()  # shown, but no peer to be compared with: it does not do the same
    before: tuple = ()  # a command that starts the program
    client: str = ''  # what asks a server: 'echo' or 'wrk'
    connections: int = 0
    timeout_s: float = 30


def python_does(**arguments):
    return {name: arguments for name in IN_PYTHON}


def who(number):
    return f'{number} producers' if number > 1 else 'a producer'


def calls():
    common = {'folder': 'w1_call', 'figure': 'p50_us', 'others': python_does(calls=4000)}
    yield Case('W1', 'W1', title='a thread submits to a loop on another, and blocks for the result',
               goals=(Goal('p50_us', 0.7), Goal('p99_us', 3), Goal('p50_us', 1, PEER)),
               quick={'calls': 10000}, **common)
    yield Case('W1-asleep', 'W1', title='the same; neither side may spin', arguments={'spin': 0},
               goals=(Goal('p50_us', 1.05, 'limit'),), only=('duet', 'limit'), **common)
    yield Case('W1-sparse', 'W1', title='the same, a call every 10 ms: what an idle loop costs',
               arguments={'calls': 100, 'gap_us': 10000}, folder='w1_call', figure='p50_us',
               goals=(Goal('cpu_s', 1.1, 'libuv'),))
    yield Case('W1s', 'W1s', title='the same, all on one processor', before=('taskset', '-c', '0'),
               quick={'calls': 10000}, goals=(Goal('p50_us', 3.9), Goal('p50_us', 1, PEER)), **common)


def submissions():
    """What is a callback is compared with callbacks, what has a result with such."""
    absolute = {'callback': {1: 15, 2: 12, 4: 12, 8: 12}, 'task': {1: 6, 2: 6, 4: 6, 8: 6}}
    of_limit = {'callback': (Goal('mps', 0.8, 'limit'),), 'task': ()}
    for kind, what in ('callback', 'callbacks'), ('task', 'tasks with a result'):
        for producers in 1, 2, 4, 8:
            arguments = {'kind': kind, 'producers': producers}
            yield Case(f'W2-{kind}-{producers}', 'W2', 'w2_submit', f'{what} submitted by {who(producers)}', 'mps',
                       arguments, (Goal('mps', 1.25, PEER), *of_limit[kind], Goal('mps', absolute[kind][producers])),
                       others=python_does(**arguments, work=50000),
                       quick={**arguments, 'work': 500000} if producers in (1, 8) else None)
        yield Case(f'W2m-{kind}', 'W2m', 'w2_submit', f'peak memory while 8 producers submit {what}', 'peak_mib',
                   {'kind': kind, 'producers': 8}, (Goal('peak_mib', 10),), without=tuple(IN_PYTHON))


def offloads():
    """Go runs such a job as a coroutine on the same thread: nothing is offloaded."""
    for workers in 2, 4:
        yield Case(f'W3-{workers}', 'W3', 'w3_offload', f'a coroutine offloads to a pool of {workers}, one at a time',
                   'p50_us', {'workers': workers}, (Goal('p50_us', 1.5), Goal('p50_us', 1, PEER)),
                   others=python_does(workers=workers, offloads=3000), aside=('go',),
                   quick={'workers': workers, 'offloads': 10000} if workers == 2 else None)
    many = {'workers': 2, 'at_once': 1000, 'offloads': 1000000}
    yield Case('W3c', 'W3c', 'w3_offload', '1000 coroutines offload at once', 'mps', many,
               (Goal('mps', 3), Goal('mps', 1, PEER)), others=python_does(**{**many, 'offloads': 20000}), aside=('go',),
               quick={**many, 'offloads': 200000})


def inside_one_loop():
    yield Case('W4-switch', 'W4', 'w4_switch', 'the bare switch from stack to stack', 'switch_ns', ours='switch',
               goals=(Goal('switch_ns', 4),), without=tuple(IN_PYTHON))
    yield Case('W4-yield', 'W4', 'w4_switch', 'two coroutines yield to each other', 'yield_ns',
               goals=(Goal('yield_ns', 13), Goal('yield_ns', 1, PEER)), others=python_does(yields=200000),
               quick={'yields': 2000000})
    yield Case('W5', 'W5', 'w5_spawn', 'a coroutine starts and awaits trivial ones, in batches of 1000', 'spawn_ns',
               goals=(Goal('spawn_ns', 50), Goal('spawn_ns', 1, PEER)), others=python_does(spawns=100000),
               quick={'spawns': 1000000})
    yield Case('W5-at-once', 'W5', 'w5_spawn', 'one after the other, each of which runs at once', 'spawn_ns',
               {'at_once': 1}, (Goal('spawn_ns', 25),), only=('duet',))
    yield Case('W5m', 'W5m', 'w5_memory', 'memory of a sleeping coroutine, of 100,000', 'bytes',
               goals=(Goal('bytes', 4450),), quick={})


def timers():
    goals = {('callback', 100000): (Goal('cpu_ms', 60), Goal('early', 0)),
             ('callback', 1000000): (Goal('cpu_ms', 800), Goal('early', 0)),
             ('sleep', 100000): (Goal('cpu_ms', 500), Goal('early', 0)),
             ('sleep', 1000000): (Goal('early', 0), Goal('cpu_ms', 1, PEER))}
    for kind, what in ('callback', 'timers that call back'), ('sleep', 'coroutines that sleep'):
        for timers in 100000, 1000000:
            many = timers > 100000
            quick = {'kind': kind, 'timers': timers, 'span_ms': 500}
            yield Case(f'W6-{kind}-{timers}', 'W6', 'w6_timers', f'{timers:,} {what}', 'cpu_ms',
                       {'kind': kind, 'timers': timers}, goals[kind, timers],
                       without=tuple(IN_PYTHON) if many else (), timeout_s=60,
                       quick=quick if (kind, many) == ('callback', False) else None)
    yield Case('W6-sleep-warm', 'W6', 'w6_timers', '100,000 coroutines that sleep, once more', 'cpu_ms',
               {'kind': 'sleep', 'timers': 100000, 'warm': 1}, (Goal('cpu_ms', 250), Goal('early', 0)), only=('duet',))


def queues():
    yield Case('W7', 'W7', 'w7_pipeline', 'producer, processor and consumer, with queues of 100', 'mps',
               goals=(Goal('mps', 25), Goal('mps', 1, PEER)), others=python_does(items=100000),
               quick={'items': 1000000})
    for producers, absolute in (1, 3.6), (4, 5):
        yield Case(f'W8-{producers}', 'W8', 'w8_jobs', f'empty jobs submitted to a pool of 2 by {who(producers)}',
                   'mps', {'producers': producers}, (Goal('mps', absolute), Goal('mps', 1, PEER)),
                   others=python_does(producers=producers, jobs=30000),
                   quick={'producers': producers, 'jobs': 300000} if producers == 1 else None)


def servers():
    """The processor time of one request is what counts: client and server share the machine."""
    for connections in 1, 64, 1000:
        enough = (Goal('krps', 90),) if connections == 1000 else ()
        yield Case(f'W9-{connections}', 'W9', 'w9_echo', f'echo of 64 bytes, {connections} at a time', 'cpu_us',
                   goals=(Goal('cpu_us', 1.05, 'limit'), Goal('cpu_us', 1, PEER), *enough), client='echo',
                   connections=connections, quick={} if connections == 64 else None)
    yield Case('H', 'H', 'h_http', 'HTTP/1.1 with keep-alive, 64 connections', 'krps',
               goals=(Goal('krps', 0.97, 'libuv'), Goal('krps', 1.1, 'nginx'), Goal('cpu_us', 9)), client='wrk',
               connections=64, quick={})


CASES = [*calls(), *submissions(), *offloads(), *inside_one_loop(), *timers(), *queues(), *servers()]


@dataclasses.dataclass(frozen=True)
class Scale:
    """A line of the scale plots: what one operation costs as the number grows. `connections`: asks a server."""
    kind: str
    title: str
    number: str  # of what
    figure: str
    sizes: tuple
    quick: tuple
    connections: bool = False


UP_TO_A_MILLION = (1, 10, 100, 1000, 10000, 100000, 1000000)
SOME = (1, 100, 10000, 100000)
SCALES = [
    Scale('spawn', 'spawn a coroutine and await it', 'coroutines alive', 'ns', UP_TO_A_MILLION, SOME),
    Scale('yield', 'yield', 'coroutines that yield', 'ns', UP_TO_A_MILLION[1:], SOME[1:]),
    Scale('memory', 'memory of a coroutine', 'coroutines asleep', 'bytes', UP_TO_A_MILLION[2:], SOME[1:]),
    Scale('timer_add', 'start a timer', 'timers running', 'ns', UP_TO_A_MILLION, SOME),
    Scale('timer_cancel', 'cancel a timer', 'timers running', 'ns', UP_TO_A_MILLION, SOME),
    Scale('producers', 'submit a callback, and run it', 'producers', 'ns', (1, 2, 4, 8, 16, 32, 64), (1, 8, 64)),
    Scale('inbox', 'submit to a loop that is busy', 'submissions waiting', 'ns', UP_TO_A_MILLION, SOME),
    Scale('channel', 'send and receive', 'items in the channel', 'ns', UP_TO_A_MILLION, SOME),
    Scale('connections', 'a request, of 64 at a time', 'connections', 'cpu_us', (1, 10, 100, 1000, 10000),
          (1, 100, 1000), connections=True),
]


def unit(figure):
    return UNITS.get(figure, next((unit for end, unit in UNITS_BY_END.items() if figure.endswith(end)), ''))


def better(figure, a, b):
    """Whether a is better than b."""
    return a > b if figure in MORE_IS_BETTER else a < b
