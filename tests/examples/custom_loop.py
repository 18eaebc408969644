#!/usr/bin/env python3
"""Runs the example custom_loop and checks its table against what is known of the works in it.

usage: custom_loop.py PROGRAM

Sleeps and spins are never shorter than asked for, so the sums have lower bounds on any machine. But a
work may be held up between asking for a moment and waiting for it: then it waits for less, or, if the
moment has passed, takes a step less. Such a run is repeated; what is wrong otherwise is wrong at once.
"""
import collections
import re
import subprocess
import sys

HANG = 60
TRIES = 5

# What is known of each work, in ms; steps None: as it comes.
Known = collections.namedtuple('Known', 'kind steps spins sleeps')
WORKS = {
    'main': Known('coroutine', None, 0, 120),  # waits for the blocker, and longer
    'sleeper': Known('coroutine', 4, 0, 150),
    'spinner': Known('coroutine', 1, 60, 0),
    'both': Known('coroutine', 3, 40, 100),
    'yielder': Known('coroutine', 101, 0, 0),
    'blocker': Known('job', 2, 80, 40),
}

# Of the program: what is printed is rounded to 0.001 ms; a processor's clock and the monotonic one may
# differ by as much as a clock may be slewed, 0.05 %.
ROUNDED = 0.001
SLEWED = 0.999

Row = collections.namedtuple('Row', 'name kind steps run waited ready life')
TIMES = ['run', 'waited', 'ready', 'life']


class Wrong(Exception):
    pass


class HeldUp(Exception):
    pass


def check(true, what, failure=Wrong):
    if not true:
        raise failure(what)


def read_table(text):
    """The rows by name; the last one is the total."""
    lines = text.splitlines()
    check(re.fullmatch(r'name +kind +steps +run ms +waited ms +ready ms +life ms', lines[0]), 'no heading')
    rows = {}
    for line in lines[1:]:
        found = re.fullmatch(r'(\S+) +(\S*) +(\d+)((?: +\d+\.\d{3}){4})', line)
        check(found, f'not a row, or something negative: {line}')
        name, kind, steps, times = found.groups()
        check(name not in rows, f'{name} is there twice')
        rows[name] = Row(name, kind, int(steps), *map(float, times.split()))
    check(set(rows) == set(WORKS) | {'total'}, 'not these works')
    check(list(rows)[-2:] == ['main', 'total'], 'main settles last, then comes the total')
    return rows


def check_work(row, known):
    check(row.kind == known.kind, f'{row.name} is no {known.kind}')
    accounted = row.run + row.waited + row.ready
    check(abs(accounted - row.life) <= 3 * ROUNDED, f'{row.name}: of its life {accounted - row.life} ms too much')
    check(row.run >= known.spins * SLEWED, f'{row.name} ran for less than it has spun')
    check(row.run + row.waited >= (known.spins + known.sleeps) * SLEWED, f'{row.name} was busy or asleep for longer')
    check(row.waited >= known.sleeps * 0.8, f'{row.name} waited for less than it has slept', HeldUp)
    if known.steps is not None:
        check(row.steps <= known.steps, f'{row.name} has taken more than {known.steps} steps')
        check(row.steps == known.steps, f'{row.name} has taken less than {known.steps} steps',
              HeldUp if known.sleeps else Wrong)


def check_together(rows):
    works = [rows[name] for name in WORKS]
    check(rows['total'].steps == sum(row.steps for row in works), 'the total of steps is not their sum')
    for what in TIMES:
        total, rounded = getattr(rows['total'], what), sum(getattr(row, what) for row in works)
        check(abs(total - rounded) <= (len(works) + 1) * ROUNDED, f'the total of {what} is not its sum')
    # One at a time runs on a loop, and who only yields is in nobody's debt: it stood ready meanwhile.
    check(rows['yielder'].ready >= WORKS['spinner'].spins * SLEWED, 'the yielder was ready while the spinner ran')
    check(rows['yielder'].waited == 0, 'the yielder never waits')
    on_loop = sum(row.run for row in works if row.kind == 'coroutine')
    check(on_loop <= rows['main'].life + len(works) * ROUNDED, 'more than one has run at the same time on the loop')
    check(rows['main'].life >= max(row.life for row in works) - ROUNDED, 'main outlives all others')
    check(rows['main'].life <= HANG * 1000, 'longer than it can have been')


def run_once(program):
    done = subprocess.run([program], capture_output=True, text=True, timeout=HANG)
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    check(done.returncode == 0, f'exit status {done.returncode}')
    check(not done.stderr, 'nothing is to be said on standard error')
    rows = read_table(done.stdout)
    check_together(rows)
    for name, known in WORKS.items():
        check_work(rows[name], known)


def main():
    for _ in range(TRIES):
        try:
            run_once(sys.argv[1])
            return 0
        except HeldUp as held:
            print(f'held up: {held}', file=sys.stderr)
        except Wrong as wrong:
            print(f'custom_loop: {wrong}', file=sys.stderr)
            return 1
    print(f'custom_loop: always held up, in {TRIES} tries', file=sys.stderr)
    return 1


if __name__ == '__main__':
    sys.exit(main())
