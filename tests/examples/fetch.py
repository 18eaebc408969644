#!/usr/bin/env python3
"""Lets fetch measure servers that answer in every way, or do not: it must count right, and end.

usage: fetch.py PROGRAM [HTTP_SERVER]

HTTP_SERVER is the example of that name. No time is asserted, except one that only a hang would pass.
DUET_TEST_SEED=N replays the same delays, DUET_TEST_CASE=NAME runs one case.
"""
import collections
import concurrent.futures
import json
import os
import pty
import random
import re
import select
import shlex
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

HANG = 100  # seconds
AT_ONCE = 3
KINDS = ['errors_connect', 'errors_timeout', 'errors_reset', 'errors_protocol']
PERCENTILES = {'latency_p50_us': 500, 'latency_p90_us': 900, 'latency_p99_us': 990, 'latency_p999_us': 999,
               'latency_max_us': 1000}


class Failure(Exception):
    pass


class HeldBack(Exception):
    """ThreadSanitizer keeps a signal for the coroutine in which it came until that runs again, which may be
    never, and then a run goes on. So there such a case is tried again; elsewhere it is a hang."""


HELD_BACK_AFTER, TRIES = 10, 5  # seconds; how often


def check(ok, what):
    if not ok:
        raise Failure(what)


# ---- Servers: a function for each connection, which runs in a thread of its own ----

Request = collections.namedtuple('Request', 'line fields body')


class Connection:
    """Iterates over its requests."""

    def __init__(self, server, sock, number):
        self.server, self.sock, self.number = server, sock, number
        self.read = b''

    def more(self):
        """False: at the end."""
        data = self.sock.recv(65536)
        self.read += data
        return bool(data)

    def __iter__(self):
        while True:
            while b'\r\n\r\n' not in self.read:
                if not self.more():
                    return
            head, self.read = self.read.split(b'\r\n\r\n', 1)
            line, *fields = head.decode().split('\r\n')
            fields = dict(field.split(': ', 1) for field in fields)
            size = int(fields.get('Content-Length', 0))
            while len(self.read) < size:
                if not self.more():
                    return
            body, self.read = self.read[:size], self.read[size:]
            with self.server.lock:
                self.server.requests += 1
            yield Request(line, fields, body)

    def send(self, data):
        self.sock.sendall(data)

    def reset(self):
        """The client reads a reset, not an end."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        self.sock.close()


class Server:
    def __init__(self, serve, family=socket.AF_INET, address=('127.0.0.1', 0)):
        self.serve, self.lock = serve, threading.Lock()
        self.requests, self.connections, self.open = 0, 0, []
        self.listener = socket.socket(family, socket.SOCK_STREAM)
        self.listener.bind(address)
        self.listener.listen(2000)
        self.url = 'http://localhost/'
        if family != socket.AF_UNIX:
            host, port = self.listener.getsockname()[:2]
            self.url = f'http://[{host}]:{port}/' if family == socket.AF_INET6 else f'http://{host}:{port}/'
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                self.connections += 1
                connection = Connection(self, sock, self.connections)
                self.open.append(connection)
            threading.Thread(target=self.run, args=[connection], daemon=True).start()

    def run(self, connection):
        try:
            self.serve(connection)
        except OSError:
            pass  # the client has gone
        connection.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.open:
            try:
                connection.sock.shutdown(socket.SHUT_RDWR)  # closing would let its thread sleep on
            except OSError:
                pass


def answer(body=b'hello', status='200 OK', fields=''):
    return f'HTTP/1.1 {status}\r\n{fields}Content-Length: {len(body)}\r\n\r\n'.encode() + body


def always(data):
    """Serves so: the same for every request."""
    def serve(connection):
        for _ in connection:
            connection.send(data)
    return serve


def never(connection):
    for _ in connection:
        pass


# ---- One run ----

class Run:
    """One process."""

    def __init__(self, program, *options, terminal=None, timeout=HANG):
        """terminal: both ends of one, for standard error."""
        self.command = [program, '--timeout', str(timeout), *map(str, options)]
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=terminal[1] if terminal else subprocess.PIPE)
        self.ear = terminal[0] if terminal else self.process.stderr.fileno()
        self.said, self.patience = b'', HANG

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)
        with open(self.command[0], 'rb') as file:
            if b'__tsan_init' in file.read():
                self.patience = HELD_BACK_AFTER

    def wait_until_it_says(self, pattern):
        while not re.search(pattern, self.said):
            ready, _, _ = select.select([self.ear], [], [], HANG)
            if not ready:
                self.hung()
            said = os.read(self.ear, 1000)
            check(said, f'ends before it says {pattern}')
            self.said += said

    def hung(self):
        self.process.kill()
        out, err = self.process.communicate()
        raise Failure(f'hangs; standard output: {out}; standard error: {(self.said + (err or b""))[-3000:]}')

    def end(self):
        try:
            self.out, err = self.process.communicate(timeout=self.patience)
        except subprocess.TimeoutExpired:
            if self.patience < HANG:
                raise HeldBack from None
            self.hung()
        self.err = (self.said + (err or b'')).decode(errors='replace')
        return self.process.returncode

    def answer(self, status=0, stopped='requests', **counts):
        """The JSON, of which these must be so, the errors 0 if they are not named. What must always be so is."""
        ended = self.end()
        check(ended == status, f'exit status {ended}, not {status}')
        check(self.out.count(b'\n') == 1 and self.out.endswith(b'\n'), 'not one line')
        found = json.loads(self.out)
        counts = {**dict.fromkeys(KINDS, 0), 'stopped': stopped, **counts}
        wrong = {name: found[name] for name, value in counts.items() if value is not None and found[name] != value}
        check(not wrong, f'{wrong} should be { {name: counts[name] for name in wrong} }')
        answers = found['responses_ok'] + found['responses_failed']
        check(found['requests'] == answers + sum(found[kind] for kind in KINDS), 'requests are lost')
        latencies = [found[name] for name in PERCENTILES]
        check(latencies == sorted(latencies) and (latencies[0] > 0) == (answers > 0), 'latencies in no order')
        check(latencies[-1] <= 1e6 * found['elapsed'] + 1000, 'a latency is longer than the run')
        check(answers == 0 or abs(answers / found['rate'] - found['elapsed']) <= 0.001,
              'the rate is not answers in a second')
        check(found['reconnects'] <= found['connections'], 'more connections are replaced than were opened')
        return found

    def told(self):
        command = shlex.join(word if len(word) < 200 else word[:20] + '...' for word in self.command)
        return (f'command: {command}\nstandard output: {getattr(self, "out", b"").decode()}\n'
                f'standard error: {getattr(self, "err", "")[-6000:]}')


class Case:
    """What a case uses: its runs, and what must be ended after it."""

    def __init__(self, program, directory, rng, http_server):
        self.program, self.directory, self.rng, self.http_server = program, directory, rng, http_server
        self.runs = []

    def run(self, *options, **more):
        self.runs.append(Run(self.program, *options, **more))
        return self.runs[-1]


def told_with(fn, *args):
    """What is wrong in fn(Case), with the command; else None."""
    for _ in range(TRIES):
        case = Case(*args)
        try:
            return fn(case)
        except HeldBack:
            wrong = f'does not end, in {TRIES} tries'
        except (Failure, ValueError, KeyError, OSError, threading.BrokenBarrierError) as error:
            wrong = error
            break
        finally:
            for run in case.runs:
                run.process.kill()
                run.process.wait()
    return f'{fn.__name__}: {wrong!r}\n' + '\n'.join(run.told() for run in case.runs)


# ---- All is answered ----

def counts_and_bytes(case):
    data = answer(b'x' * 100)
    for loops in (1, 3):
        with Server(always(data)) as server:
            case.run('-n', 600, '-c', 7, '--loops', loops, server.url).answer(
                requests=600, responses_ok=600, responses_failed=0, bytes=600 * len(data), connections=7,
                reconnects=0, idle=0)
            check((server.requests, server.connections) == (600, 7), 'the server has counted otherwise')


def fewer_requests_than_connections(case):
    with Server(always(answer())) as server:
        case.run('-n', 3, '-c', 50, '--loops', 2, server.url).answer(requests=3, responses_ok=3, connections=None)
        check(server.requests == 3, f'{server.requests} requests, not 3')


def what_is_asked(case):
    """The request line and the fields are those of the options."""
    for options, path, line, body in [
            ([], '', 'GET / HTTP/1.1', b''), ([], 'a/b?c=d#e', 'GET /a/b?c=d HTTP/1.1', b''),
            ([], '?q', 'GET /?q HTTP/1.1', b''), (['--body', 'some text'], '', 'POST / HTTP/1.1', b'some text'),
            (['--method', 'DELETE'], 'x', 'DELETE /x HTTP/1.1', b''),
            (['--method', 'PUT', '--body', 'x' * 30000], 'x', 'PUT /x HTTP/1.1', b'x' * 30000)]:
        seen = []

        def serve(connection):
            for request in connection:
                seen.append(request)
                connection.send(answer())
        with Server(serve) as server:
            url = server.url.rstrip('/') + path if path.startswith('?') else server.url + path
            case.run('-n', 2, '-c', 1, '--quiet', *options, url).answer(responses_ok=2)
            check([(r.line, r.body) for r in seen] == 2 * [(line, body)], f'{seen} should be {line}')
            check(all(r.fields['Host'] == server.url.split('/')[2] for r in seen), f'wrong host in {seen}')
            check(all(('Content-Length' in r.fields) == bool(body) for r in seen), f'wrong length in {seen}')
            check(case.runs[-1].err == '', 'is not quiet')


def bodies(case):
    chunked = (b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n'
               b'1f;with=extension\r\n' + b'y' * 31 + b'\r\n0\r\nTrailer: here\r\n\r\n')
    for data, options in [
            (answer(b''), []), (answer(b'z' * 1000000), []), (chunked, []), (b'HTTP/1.1 204 No Content\r\n\r\n', []),
            (b'HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\n\r\n', []),
            (b'HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n', ['--method', 'HEAD']),
            (b'HTTP/1.1 100 Continue\r\n\r\n' + answer(), []),
            (b'HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n' + chunked, ['--body', 'x'])]:
        for depth in (1, 3):
            with Server(always(data)) as server:
                case.run('-n', 20, '-c', 3, '-p', depth, *options, server.url).answer(
                    requests=20, responses_ok=20, bytes=20 * len(data), connections=3)

    def byte_by_byte(connection):
        for _ in connection:
            for i in range(len(chunked)):
                connection.send(chunked[i:i + 1])
    with Server(byte_by_byte) as server:
        case.run('-n', 20, '-c', 2, server.url).answer(responses_ok=20, bytes=20 * len(chunked), reconnects=0)


def classes(case):
    def serve(connection):
        for request in connection:
            connection.send(answer(status=statuses.pop()))
    statuses = 10 * ['200 OK', '201 Created', '302 Found', '400 Bad Request', '404 Not Found',
                     '500 Internal Server Error', '503 Service Unavailable']
    case.rng.shuffle(statuses)
    with Server(serve) as server:
        case.run('-n', 70, '-c', 4, server.url).answer(requests=70, responses_ok=30, responses_failed=40)


def pipelining(case):
    """Nothing is answered before all that may be under way has come."""
    depth, asked = 8, 100

    def serve(connection):
        requests, got = iter(connection), 0
        while got < asked:
            batch = min(depth, asked - got)
            for _ in range(batch):
                next(requests)
            check(b'GET' not in connection.read, 'more is under way than may be')
            got += batch
            connection.send(answer() * batch)
        connection.more()
    with Server(serve) as server:
        case.run('-n', asked, '-c', 1, '-p', depth, server.url).answer(
            requests=asked, responses_ok=asked, connections=1)


def pipelining_of_what_is_large(case):
    """A server that does not read while it writes: whoever does the same waits for ever."""
    with Server(always(answer(b'z' * 500000))) as server:
        case.run('-n', 400, '-c', 2, '-p', 200, '--body', 'x' * 100000, server.url).answer(
            responses_ok=400, connections=2)


def percentiles(case):
    """Each latency is longer than what the server knows it took, and shorter than from the answer before to the
    request after. So every percentile is between the same one of these, but for the width of a bucket."""
    connections, each = 4, 150
    least, most, lock = [], [], threading.Lock()

    def serve(connection):
        times = []  # of when a request came, and when the answer is about to go
        for _ in connection:
            come = time.monotonic()
            if connection.number % 2 == 0 and len(times) % 10 == 3:
                time.sleep(case.rng.uniform(0, 0.02))
            times.append((come, time.monotonic()))
            connection.send(answer())
        times = [(begin, begin)] + times + [(time.monotonic(), 0)]
        with lock:
            for before, now, after in zip(times, times[1:], times[2:]):
                least.append(now[1] - now[0])
                most.append(after[0] - before[1])
            if len(least) == connections * each:
                done.set()
    for loops in (1, 4):
        begin, done = time.monotonic(), threading.Event()
        least.clear()
        most.clear()
        with Server(serve) as server:
            found = case.run('-n', connections * each, '-c', connections, '--loops', loops, server.url).answer(
                responses_ok=connections * each)
            check(done.wait(HANG), 'connections are left open')
        for name, per_mille in PERCENTILES.items():
            rank = -(-connections * each * per_mille // 1000) - 1
            low, high = 1e6 * sorted(least)[rank], 1e6 * sorted(most)[rank]
            check(low - 0.002 <= found[name] <= high * (1 + 1 / 128) + 0.002,
                  f'{name} is {found[name]}, not from {low} to {high}')


def many_connections(case):
    """Nobody is answered before all have asked."""
    count = 500
    everybody = threading.Barrier(count)

    def serve(connection):
        for i, _ in enumerate(connection):
            if i == 0:
                everybody.wait(HANG)
            connection.send(answer())
    with Server(serve) as server:
        case.run('-n', 2 * count, '-c', count, '--loops', 2, server.url).answer(
            responses_ok=2 * count, connections=None)
        check(server.connections == count, f'{server.connections} connections, not {count}')


def idle_connections(case):
    """They are there before the first request; those that the server closes are not kept."""
    idle, refused, closed = 100, 30, threading.Semaphore(0)

    def serve(connection):
        if connection.number <= refused:
            connection.sock.shutdown(socket.SHUT_RDWR)
            closed.release()
            return
        for _ in connection:
            check(connection.server.connections >= idle, 'asks before all is open')
            if connection.number == idle + 1:
                for _ in range(refused):
                    closed.acquire()
                closed.release(refused)
            connection.send(answer())
    for loops in (1, 3):
        with Server(serve) as server:
            case.run('-n', 20, '-c', 1, '--idle', idle, '--loops', loops, server.url).answer(
                responses_ok=20, idle=idle - refused, connections=1)
            check(server.connections == idle + 1, f'{server.connections} connections')


def other_addresses(case):
    path = os.path.join(case.directory, 'socket')
    with Server(always(answer()), socket.AF_UNIX, path) as server:
        case.run('-n', 50, '-c', 5, '--unix', path, 'http://somewhere:1/').answer(responses_ok=50, connections=5)
        check(server.requests == 50, 'asks elsewhere')
    try:
        with Server(always(answer()), socket.AF_INET6, ('::1', 0)) as server:
            case.run('-n', 50, '-c', 5, server.url).answer(responses_ok=50, connections=5)
    except OSError:
        pass  # there is no IPv6 here
    with Server(always(answer())) as server:
        case.run('-n', 50, '-c', 5, server.url.replace('127.0.0.1', 'localhost')).answer(responses_ok=50)


# ---- A server that closes ----

def connections_that_are_closed(case):
    """Whether it says so before or not, whatever is under way: all is answered in the end."""
    def hang_up(connection):
        """Without a reset, which would come for what is not read."""
        connection.sock.shutdown(socket.SHUT_WR)
        while connection.more():
            pass

    def announced(connection):
        for i, _ in enumerate(connection, 1):
            connection.send(answer(fields='Connection: close\r\n' if i == each else ''))
            if i == each:
                return hang_up(connection)

    def silent(connection):
        for i, _ in enumerate(connection, 1):
            connection.send(answer())
            if i == each:
                return

    def by_its_end(connection):
        for _ in connection:
            connection.send(b'HTTP/1.1 200 OK\r\n\r\nuntil the end')
            return hang_up(connection)
    # what has a body may be asked anew only if the server has said that it closes
    for serve, each, options in [(announced, 1, []), (announced, 4, []), (announced, 4, ['--body', 'x']),
                                 (silent, 4, []), (by_its_end, 1, [])]:
        for depth in (1, 6):
            with Server(serve) as server:
                found = case.run('-n', 101, '-c', 3, '-p', depth, *options, server.url).answer(
                    requests=101, responses_ok=101, reconnects=None)
                check(found['reconnects'] >= 101 // each - 3, 'answers without connections')
                check(found['connections'] == server.connections, 'connections are miscounted')


def what_may_not_be_repeated(case):
    """The server closes, and nobody knows whether it has heard of the second request."""
    def serve(connection):
        for _ in connection:
            connection.send(answer())
            return
    with Server(serve) as server:
        case.run('-n', 10, '-c', 1, '-p', 2, '--body', 'x', server.url).answer(
            status=1, requests=10, errors_reset=None)
        check(case.runs[-1].err.count('first error was reset') == 1, 'does not say why')


# ---- Errors ----

def one_error(case):
    """On the first request of each connection, on the second, and in the midst of a pipeline."""
    def garbage(connection):
        connection.send(b'SSH-2.0-OpenSSH\r\n')
        connection.more()

    def bad_length(connection):
        connection.send(b'HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n')
        connection.more()

    def cut(connection):
        connection.send(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly')

    def cut_in_the_head(connection):
        connection.send(b'HTTP/1.1 200 OK\r\nContent-')

    def cut_in_a_chunk(connection):
        connection.send(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nonly')

    def reset_in_the_body(connection):
        connection.send(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly')
        connection.reset()
    for fault, kind in [(garbage, 'errors_protocol'), (bad_length, 'errors_protocol'), (cut, 'errors_reset'),
                        (cut_in_the_head, 'errors_reset'), (cut_in_a_chunk, 'errors_reset'),
                        (reset_in_the_body, 'errors_reset')]:
        def serve(connection):
            for i, _ in enumerate(connection):
                if i == good:
                    fault(connection)
                    return
                connection.send(answer())
        for good, depth in [(0, 1), (1, 1), (5, 4)]:
            with Server(serve) as server:
                # each connection: so many good answers, and then all that is under way fails: if that is more than
                # one, it depends on what is read at once
                exact = {'responses_ok': 3 * good, 'connections': 3, 'reconnects': 2}
                case.run('-n', 3 * (good + depth), '-c', 1, '-p', depth, server.url).answer(
                    status=1, requests=3 * (good + depth), responses_failed=0,
                    **{kind: 3 if depth == 1 else None}, **(exact if depth == 1 else {}))
                check(kind[len('errors_'):] in case.runs[-1].err, 'does not say why')
        case.runs.clear()


def no_answer_at_all(case):
    """The first request of a connection: whoever closes then would do so for ever."""
    def close(connection):
        for _ in connection:
            return

    def reset(connection):
        for _ in connection:
            connection.reset()
            return
    for serve in (close, reset):
        with Server(serve) as server:
            case.run('-n', 20, '-c', 4, server.url).answer(status=1, requests=20, errors_reset=20, connections=20)


def mixed_errors(case):
    """Each request comes to what the server has thrown for it."""
    seen, lock = collections.Counter(), threading.Lock()

    def serve(connection):
        for _ in connection:
            with lock:
                fate = case.rng.choice(['responses_ok', 'responses_ok', 'responses_failed', 'errors_reset',
                                        'errors_protocol'])
                seen[fate] += 1
            if fate == 'errors_reset':
                return connection.reset()
            connection.send({'responses_ok': answer(), 'responses_failed': answer(status='404 Not Found'),
                             'errors_protocol': b'HTTP/1.1 what\r\n\r\n'}[fate])
            if fate == 'errors_protocol':
                return connection.more()
        return None
    with Server(serve) as server:
        found = case.run('-n', 500, '-c', 8, '--loops', 2, '--body', 'x', server.url).answer(
            status=1, requests=500, **{kind: None for kind in KINDS})
        check({name: found[name] for name in seen} == seen, f'should be {seen}')


def more_than_was_asked_for(case):
    """With the last answer, so that it cannot be taken for the next one: there is one request less."""
    with Server(always(answer() + b'HTTP/1.1 200 OK\r\n')) as server:
        run = case.run('-n', 1, '-c', 1, server.url)
        check(run.end() == 1 and json.loads(run.out)['errors_protocol'] == 1, 'takes an answer to nothing')


def timeouts(case):
    def trickle(connection):
        for _ in connection:
            connection.send(b'HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n')
            while True:
                connection.send(b'x')
                time.sleep(0.01)
    for serve in (never, trickle):
        with Server(serve) as server:
            found = case.run('-n', 9, '-c', 3, '-p', 3, server.url, timeout=1).answer(
                status=1, requests=9, errors_timeout=9, connections=3, responses_ok=0)
            check(found['elapsed'] >= 1, 'does not wait')


def refused(case):
    with socket.socket() as nobody:
        nobody.bind(('127.0.0.1', 0))
        url = f'http://127.0.0.1:{nobody.getsockname()[1]}/'
        case.run('-n', 50, '-c', 10, url).answer(status=1, requests=50, errors_connect=50, connections=0)
        check('Connection refused' in case.runs[-1].err, 'does not say why')
        case.run('-d', 0.2, '-c', 10, url).answer(
            status=1, stopped='duration', errors_connect=None, connections=0, responses_ok=0)
        run = case.run('-n', 1, '--idle', 20, url)
        check(run.end() == 1 and json.loads(run.out)['errors_connect'] == 21, 'idle ones are refused, too')
        case.run('-n', 5, '-c', 1, '--unix', os.path.join(case.directory, 'none'), url).answer(
            status=1, errors_connect=5)


# ---- Ends ----

def duration(case):
    with Server(always(answer())) as server:
        for options in ([], ['-p', 4, '--loops', 2], ['-n', 10**9]):
            found = case.run('-d', 1, '-c', 5, *options, server.url).answer(
                status=1 if '-n' in options else 0, stopped='duration', responses_failed=0)
            check(found['elapsed'] >= 1 and found['responses_ok'] > 0, 'ends too early')
        check(case.run('-d', HANG, '-n', 10, server.url).answer()['requests'] == 10, 'does not end by its requests')


def sigint(case):
    with Server(always(answer())) as server:
        for options, status in [(['-d', 1000], 0), (['-n', 10**9], 1), (['-d', 1000, '-p', 5, '--loops', 3], 0)]:
            run = case.run('-c', 5, '--idle', 10, *options, server.url)
            run.wait_until_it_says(rb'answered [1-9]')
            run.interrupt()
            run.answer(status=status, stopped='signal', idle=10)
    with Server(never) as server:  # what is under way is waited for
        run = case.run('-d', 1000, '-c', 5, server.url, timeout=2)
        run.wait_until_it_says(rb'connections [1-9]')
        run.interrupt()
        run.answer(status=1, stopped='signal', errors_timeout=None)


def sigint_at_once(case):
    """Before it has a handler SIGINT kills it, and it has said nothing; later it says what has been."""
    with Server(always(answer())) as server:
        for i in range(12):
            run = case.run('-d', 1000, '-c', 5, '--idle', 20, '-q', server.url)
            time.sleep(i / 1000)
            run.interrupt()
            if run.end() == -signal.SIGINT:
                check(not run.out, 'killed by SIGINT after it has answered')
            else:
                check(json.loads(run.out)['stopped'] == 'signal', 'not stopped by the signal')
                run.answer(status=run.process.returncode, stopped='signal')


def second_sigint(case):
    with Server(never) as server:
        run = case.run('-d', 1000, server.url, timeout=5)  # when ThreadSanitizer hands on what it has held back
        run.wait_until_it_says(rb'connections [1-9]')
        end = time.monotonic() + HANG
        while run.process.poll() is None and time.monotonic() < end:
            run.process.send_signal(signal.SIGINT)  # again: two at once are taken for one
            time.sleep(0.01)
        check(run.end() == -signal.SIGINT and not run.out, 'not ended by the second SIGINT')


# ---- The rest ----

def usage_errors(case):
    url = 'http://127.0.0.1:1/'
    for options, says in [
            ([], 'no URL'), ([url, url], 'Too many arguments'), (['https://127.0.0.1/'], 'does not begin with http://'),
            (['http://'], 'no host'), (['http://:80/'], 'no host'), (['http://h:x/'], "'x' is not a whole number"),
            (['http://h:0/'], 'from 1 to 65535'), (['http://h:/'], "'' is not"), (['http://h/a b'], 'escaped'),
            (['http://h/ä'], 'escaped'), (['-c', '0', url], 'from 1'), (['-n', '1.5', url], 'whole'),
            (['-d', '0', url], 'number'), (['-p', 'x', url], "'x' is not"), (['--idle', '-1', url], 'number'),
            (['--loops', '65', url], 'to 64'), (['--method', 'get', url], 'not a method'),
            (['--method', '', url], 'not a method'),
            (['--method', 'CONNECT', url], 'not a method'), (['--colour', url], 'colour')]:
        run = case.run(*options)
        status = run.end()
        check(status == 2, f'exit status {status}')
        check(says in run.err and not run.out, f'should say: {says}')
        case.runs.clear()
    run = case.run('--help')
    check(run.end() == 0 and b'--pipeline' in run.out, 'no help')


def on_a_terminal(case):
    """The progress stands in one line, which is written anew, and ends with a line feed."""
    terminal = pty.openpty()
    try:
        with Server(always(answer())) as server:
            run = case.run('-d', 1000, server.url, terminal=terminal)
            run.wait_until_it_says(b'answered [^\r]*\r.*answered [1-9]')
            run.interrupt()
            run.answer(stopped='signal')
            said = run.said + os.read(run.ear, 65536)
    finally:
        os.close(terminal[0])
        os.close(terminal[1])
    check(re.fullmatch(rb'(\r\x1b\[K *\d+\.\d s  answered [^\r\n]*)+\r\n', said), f'said {said}')


def the_example_server(case):
    if not case.http_server:
        return
    server = subprocess.Popen([case.http_server, '--port', '0', '--quiet'], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL)
    try:
        said = server.stdout.readline().decode()
        url = re.search(r'listening on (\S+)', said)
        check(url, f'the server says {said}')
        url = f'http://{url[1]}/'
        case.run('-n', 2000, '-c', 50, '--idle', 100, url).answer(responses_ok=2000, connections=50, idle=100)
        case.run('-n', 2000, '-c', 10, '-p', 10, '--loops', 2, url).answer(responses_ok=2000)
        case.run('-n', 50, '-c', 5, url + 'is-not-there').answer(responses_failed=50)
    finally:
        server.kill()
        server.communicate()


CASES = [
    percentiles, sigint_at_once, sigint, many_connections, one_error, bodies, counts_and_bytes,
    fewer_requests_than_connections, what_is_asked, classes, pipelining, pipelining_of_what_is_large, idle_connections,
    other_addresses, connections_that_are_closed, what_may_not_be_repeated, no_answer_at_all, mixed_errors,
    more_than_was_asked_for, timeouts, refused, duration, second_sigint, usage_errors, on_a_terminal,
    the_example_server]


def main():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # else a program that ignores it hands that on
    threading.stack_size(256 * 1024)
    program = os.path.abspath(sys.argv[1])
    http_server = os.path.abspath(sys.argv[2]) if len(sys.argv) > 2 else None
    seed = int(os.environ.get('DUET_TEST_SEED', str(random.randrange(2**32))))
    only = os.environ.get('DUET_TEST_CASE')
    print(f'seed {seed}', flush=True)
    wrong = 0
    with tempfile.TemporaryDirectory() as directory, \
            concurrent.futures.ThreadPoolExecutor(AT_ONCE) as executor:
        cases = [case for case in CASES if only in (None, case.__name__)]
        futures = [executor.submit(told_with, case, program, directory, random.Random(seed), http_server)
                   for case in cases]
        for future in concurrent.futures.as_completed(futures):
            if future.result():
                wrong += 1
                print(future.result(), file=sys.stderr)
    print(f'{len(cases)} cases: {wrong} wrong')
    return wrong > 0


if __name__ == '__main__':
    sys.exit(main())
