#!/usr/bin/env python3
"""Runs the pipeline hundreds of times, stopped at any moment in any way: nothing may be lost.

usage: pipeline.py PROGRAM [RUNS]

DUET_TEST_SEED=N replays the same options, DUET_TEST_ROUNDS=N makes it N percent as long. No time is
asserted, except one that only a hang would pass.
"""
import concurrent.futures
import functools
import json
import os
import pty
import random
import re
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time

HANG = 100  # seconds
AT_ONCE = 3
FOREVER = '100000'  # a duration that does not end a run here
FAST = '1000000000'  # a speed that leaves no delays


class Failure(Exception):
    pass


class HeldBack(Exception):
    """ThreadSanitizer keeps a signal for the coroutine in which it came until that runs again, which may be
    never, and then a run goes on. So there such a case is tried again; elsewhere it is a hang."""


HELD_BACK_AFTER, TRIES = 10, 5  # seconds; how often


def check(ok, what):
    if not ok:
        raise Failure(what)


# ---- What is fed to it, and what must come out ----

def fnv1a(data):
    value = 0xcbf29ce484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001b3 & 0xffffffffffffffff
    return value


@functools.lru_cache(maxsize=None)
def totals(data):
    lines = data.split(b'\n')
    lines = [line + b'\n' for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
    checksum = sum(fnv1a(line) for line in lines) & 0xffffffffffffffff
    return {'lines': len(lines), 'words': sum(len(line.split()) for line in lines), 'bytes': len(data),
            'checksum': f'{checksum:016x}'}


def some_lines(rng, count):
    def line():
        return bytes(rng.choice(b'abc  \t\r\v\f\x00\xff') for _ in range(rng.choice([0, 1, 7, 20, 60])))
    data = b''.join(line() + b'\n' for _ in range(count))
    return data[:-1] if rng.random() < 0.3 else data


# ---- One run ----

@functools.lru_cache(maxsize=None)
def has_thread_sanitizer(program):
    with open(program, 'rb') as file:
        return b'__tsan_init' in file.read()


class Run:
    """One process."""

    def __init__(self, program, *options, stdin=subprocess.DEVNULL, terminal=None):
        """terminal: both ends of one, for standard error."""
        self.command = [program, *map(str, options)]
        self.process = subprocess.Popen(self.command, stdin=stdin, stdout=subprocess.PIPE,
                                        stderr=terminal[1] if terminal else subprocess.PIPE)
        self.ear = terminal[0] if terminal else self.process.stderr.fileno()
        self.said = b''
        self.patience = HANG

    def interrupt(self, signo=signal.SIGINT):
        self.process.send_signal(signo)
        if has_thread_sanitizer(self.command[0]):
            self.patience = HELD_BACK_AFTER

    def wait_until_it_says(self, pattern):
        while not re.search(pattern, self.said):
            ready, _, _ = select.select([self.ear], [], [], HANG)
            if not ready:
                self.hung()
            said = os.read(self.ear, 1000)
            check(said, f'ends before it says {pattern}')
            self.said += said

    def wait_until_it_runs(self):
        """The first statistics come from within the loop: from then on SIGINT is expected."""
        self.wait_until_it_says(b'produced')

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

    def answer(self, stopped):
        """It ended well: nothing is lost. stopped: by what it may have been."""
        status = self.end()
        check(status == 0, f'exit status {status}')
        answer = json.loads(self.out)
        counts = {answer[name] for name in ('produced', 'processed', 'consumed', 'lines')}
        check(len(counts) == 1, 'lost an item')
        check(answer['lost'] == 0 and answer['conserved'] is True, 'says that it lost an item')
        check(answer['stopped'] in stopped, f"stopped by {answer['stopped']}, not by {' or '.join(stopped)}")
        return answer

    def told(self):
        return (f'command: {shlex.join(self.command)}\nstandard output: {getattr(self, "out", b"").decode()}\n'
                f'standard error: {getattr(self, "err", "")[-6000:]}')


def told_with(fn, *args):
    """What is wrong in fn(runs, *args), which puts its Run into runs, with the command; else None."""
    for _ in range(TRIES):
        runs = []
        try:
            return fn(runs, *args)
        except HeldBack:
            wrong = f'does not end, in {TRIES} tries'
        except (Failure, ValueError, KeyError, OSError) as error:
            wrong = error
            break
        finally:
            for run in runs:
                run.process.kill()
                run.process.wait()
    return f'{fn.__name__}: {wrong!r}\n' + '\n'.join(run.told() for run in runs)


def check_made_up(answer):
    check(answer['words'] == 6 * answer['consumed'], 'not all words of what was made up')


def check_input(answer, data):
    whole = totals(data)
    if answer['stopped'] == 'input':
        check({name: answer[name] for name in whole} == whole, f'should be {whole}')
    else:
        check(answer['lines'] <= whole['lines'] and answer['bytes'] <= whole['bytes'], 'more than there was')


class Pipe:
    """Standard input that holds data, and is kept open until end()."""

    def __init__(self, data=b''):
        self.read, self.write = os.pipe()
        os.write(self.write, data)  # less than a pipe holds

    def end(self):
        if self.write is not None:
            os.close(self.write)
        self.write = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()
        os.close(self.read)


# ---- Random runs ----

def flat(options):
    return [word for pair in options.items() for word in pair if word is not None]


def random_options(rng):
    """As a dictionary, from the name of an option to its value."""
    counts = rng.choice([[1, 1, 2, 3, 5, 8], [1, 1, 2, 3, 5, 8], [1, 2, 4, 20, 50]])
    return {
        '--producers': rng.choice(counts), '--processors': rng.choice(counts),
        '--consumers': rng.choice(counts),
        '--processors-on': rng.choice(['loop', 'pool']), '--seed': rng.randrange(2**32),
        '--speed': rng.choice([100, 1000, 3333.3, 100000, FAST])}


def random_run(runs, program, directory, seed):
    rng = random.Random(seed)
    options = random_options(rng)
    by, source = rng.choice([
        ('signal', None), ('signal', 'open pipe'), ('duration', None), ('duration', 'open pipe'),
        ('duration', 'file'), ('items', None), ('items', None), ('items', 'file'), ('input', 'file'),
        ('input', 'pipe')])
    data = some_lines(rng, rng.choice([0, 2, 30, 150, 400, 400])) if source else b''
    options['--duration'] = rng.uniform(0, 0.2) if by == 'duration' else FOREVER
    if by == 'items':
        options['--items'] = rng.choice([0, 1, rng.randrange(300), rng.randrange(300), rng.randrange(1000)])
    if by != 'signal' and rng.random() < 0.2:
        options['--quiet'] = None
    rest = [] if not source else ['-']
    if source == 'file':
        rest = [os.path.join(directory, seed)]
        with open(rest[0], 'wb') as file:
            file.write(data)
    with Pipe(b'' if source == 'file' else data) as pipe:
        run = Run(program, *flat(options), *rest, stdin=pipe.read)
        runs.append(run)
        if source == 'pipe':
            pipe.end()
        if by == 'signal':
            run.wait_until_it_runs()
            time.sleep(rng.choice([0, rng.uniform(0, 0.002), rng.uniform(0, 0.2)]))
            run.interrupt()
        answer = run.answer({by, 'input'} if source == 'file' else {by})
    if answer['stopped'] == 'items':
        check(answer['produced'] == options['--items'], 'not as many as asked for')
    if source:
        check_input(answer, data)
    else:
        check_made_up(answer)


# ---- Directed cases: each takes the list for its runs, the program, and a directory ----

def usage_errors(runs, program, directory):
    missing = os.path.join(directory, 'is-not-there')
    for options, says in [
            (['--producers', '0'], "'0' is not a whole number from 1"),
            (['--producers', '1.5'], 'whole'), (['--consumers', 'x'], "'x' is not"), (['--processors', '1001'], 'to 1000'),
            (['--speed', '0'], 'number'), (['--speed', 'nan'], 'number'), (['--duration', '-1'], 'number'),
            (['--duration', '1s'], 'number'), (['--items', ''], 'number'), (['--seed', '4294967296'], 'number'),
            (['--processors-on', 'moon'], 'neither loop nor pool'), (['--colour'], 'colour'),
            ([missing], 'is-not-there: No such file'), (['-', '-'], 'Too many arguments')]:
        run = Run(program, *options)
        runs[:] = [run]
        status = run.end()
        check(status == 2, f'exit status {status}')
        check(says in run.err and not run.out, f'should say: {says}')


def help_is_given(runs, program, directory):
    run = Run(program, '--help')
    runs.append(run)
    check(run.end() == 0 and b'--processors-on' in run.out, 'no help')


def unreadable_input(runs, program, directory):
    run = Run(program, '--speed', FAST, directory)
    runs.append(run)
    check(run.end() == 1 and 'Is a directory' in run.err and json.loads(run.out)['stopped'] == 'failure',
          'a directory is no input')


def inputs_to_their_end(runs, program, directory):
    for name, data in [('empty', b''), ('one line feed', b'\n'), ('no line feed', b'the end'),
                       ('line without a line feed at the end', b'a b\n\nc'), ('zeroes', b'a\0b \0\n\0'),
                       ('very long line', b'a\n' + b'word ' * 200000 + b'\nb\n')]:
        path = os.path.join(directory, name)
        with open(path, 'wb') as file:
            file.write(data)
        for place in ('loop', 'pool'):
            run = Run(program, '--speed', FAST, '--duration', FOREVER, '--processors-on', place, path)
            runs[:] = [run]
            check_input(run.answer({'input'}), data)


def signal_at_once(runs, program, directory):
    """Before it has a handler SIGINT kills it, and it has said nothing; later it has lost nothing."""
    for i in range(24):
        run = Run(program, '--duration', FOREVER, '--quiet', '--speed', 1000)
        runs[:] = [run]
        time.sleep(i / 3000)
        run.interrupt()
        if run.end() == -signal.SIGINT:
            check(not run.out, 'killed by SIGINT after it has answered')
        else:
            run.answer({'signal'})


def either_signal(runs, program, directory):
    for signo in (signal.SIGINT, signal.SIGTERM):
        run = Run(program, '--duration', FOREVER, '--speed', 100)
        runs[:] = [run]
        run.wait_until_it_runs()
        time.sleep(0.05)
        run.interrupt(signo)
        check_made_up(run.answer({'signal'}))


def second_signal(runs, program, directory):
    """To take what was accepted would last minutes: who cannot wait says so once more."""
    run = Run(program, '--speed', 0.01, '--producers', 1000, '--processors', 1, '--duration', FOREVER)
    runs.append(run)
    run.wait_until_it_says(rb'produced [1-9]')
    end = time.monotonic() + HANG
    while run.process.poll() is None and time.monotonic() < end:
        run.process.send_signal(signal.SIGINT)  # again: two at once are taken for one
        time.sleep(0.01)
    check(run.end() == -signal.SIGINT and not run.out, 'not ended by the second SIGINT')


def blocked_in_reading(runs, program, directory):
    """Nothing comes, or half a line: both ways to stop it break the read."""
    for data in (b'', b'one\ntwo\nhalf a li'):
        for by in ('signal', 'duration'):
            with Pipe(data) as pipe:
                run = Run(program, '--speed', FAST, '--duration', FOREVER if by == 'signal' else 0.1, '-',
                          stdin=pipe.read)
                runs[:] = [run]
                run.wait_until_it_runs()
                time.sleep(0.1)
                if by == 'signal':
                    run.interrupt()
                check_input(run.answer({by}), data)


def backpressure(runs, program, directory):
    run = Run(program, '--speed', 1000, '--duration', FOREVER, '--producers', 20, '--processors', 20,
              '--consumers', 1, '--items', 1500)
    runs.append(run)
    answer = run.answer({'items'})
    check(answer['produced'] == 1500 and answer['producer_timeouts'] + answer['processor_timeouts'] > 0,
          'nobody waited for the consumer')


def as_many_of_everything(runs, program, directory):
    for count in (1, 50):
        for place in ('loop', 'pool'):
            run = Run(program, '--speed', 1000, '--duration', FOREVER, '--producers', count,
                      '--processors', count, '--consumers', count, '--items', 300, '--processors-on', place)
            runs[:] = [run]
            check(run.answer({'items'})['consumed'] == 300, 'not as many as asked for')


def on_a_terminal(runs, program, directory):
    """The statistics stand in one line, which is written anew, and end with a line feed."""
    terminal = pty.openpty()
    try:
        run = Run(program, '--speed', 100, '--duration', FOREVER, terminal=terminal)
        runs.append(run)
        run.wait_until_it_says(b'produced [^\r]*\r.*produced')
        run.interrupt()
        run.answer({'signal'})
        said = run.said + os.read(run.ear, 65536)
    finally:
        os.close(terminal[0])
        os.close(terminal[1])
    check(re.fullmatch(rb'(\r\x1b\[K *\d+\.\d s  produced [^\r\n]*)+\r\n', said), f'said {said}')


DIRECTED = [usage_errors, help_is_given, unreadable_input, inputs_to_their_end, signal_at_once,
            either_signal, second_signal, blocked_in_reading, backpressure, as_many_of_everything, on_a_terminal]


def main():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # else a program that ignores it hands that on
    program = os.path.abspath(sys.argv[1])
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 300
    count = count * int(os.environ.get('DUET_TEST_ROUNDS', '100')) // 100
    seed = int(os.environ.get('DUET_TEST_SEED', str(random.randrange(2**32))))
    print(f'seed {seed}', flush=True)
    with tempfile.TemporaryDirectory() as directory, \
            concurrent.futures.ThreadPoolExecutor(AT_ONCE) as executor:
        futures = [executor.submit(told_with, case, program, directory) for case in DIRECTED]
        futures += [executor.submit(told_with, random_run, program, directory, f'{seed}-{i}')
                    for i in range(count)]
        wrong = None
        for future in concurrent.futures.as_completed(futures):
            wrong = future.result()
            if wrong:
                executor.shutdown(wait=False, cancel_futures=True)
                print(wrong, file=sys.stderr)
                break
    print(f'{count} random runs and {len(DIRECTED)} directed cases: {"wrong" if wrong else "nothing lost"}')
    return wrong is not None


if __name__ == '__main__':
    sys.exit(main())
