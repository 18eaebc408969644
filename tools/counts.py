#!/usr/bin/env python3
"""Counts the instructions of duet's main paths with callgrind, and compares them with what they were.

usage: counts.py PROGRAM COUNTS.json [--update]

PROGRAM is bench-counts, built with -O2. They do not depend on how busy the machine is, but on the compiler and
the C library: with others than those in the file there is nothing to compare. A path that costs 2 % more or less
than the file says is a difference that the commit explains, with --update.
"""
import concurrent.futures
import json
import os
import re
import subprocess
import sys

FEW, MANY = 200, 1200
TOLERANCE = 0.02
SKIPPED = 77  # says so to meson


def instructions(program, path, rounds):
    done = subprocess.run(['valgrind', '--tool=callgrind', '--callgrind-out-file=/dev/null', program, path, str(rounds)],
                          capture_output=True, text=True, timeout=120, env=dict(os.environ, LC_ALL='C'))
    found = re.search(r'Collected : (\d+)', done.stderr)
    if done.returncode or not found:
        sys.exit(f'{path}: {done.stdout}{done.stderr}')
    return int(found[1])


def count(program, path):
    return round((instructions(program, path, MANY) - instructions(program, path, FEW)) / (MANY - FEW))


def made_with():
    """What the figures depend on."""
    return {'compiler': subprocess.run(['gcc', '-dumpfullversion'], capture_output=True, text=True).stdout.strip(),
            'libc': os.confstr('CS_GNU_LIBC_VERSION'), 'machine': os.uname().machine}


def main():
    program, file = sys.argv[1:3]
    paths = subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        counts = dict(zip(paths, pool.map(lambda path: count(program, path), paths)))
    if '--update' in sys.argv:
        with open(file, 'w') as out:
            json.dump({'made with': made_with(), 'instructions': counts}, out, indent=1)
            out.write('\n')
        return 0
    known = json.load(open(file))
    if known['made with'] != made_with():
        print(f'not compared: made with {known["made with"]}, and here is {made_with()}')
        return SKIPPED
    wrong = 0
    for path, now in counts.items():
        before = known['instructions'].get(path, 0)
        differs = not before or abs(now - before) > TOLERANCE * before
        wrong += differs
        print(f'{path:12} {before:6} {now:6}  {(now / before - 1) * 100 if before else 0:+6.1f} %{"  DIFFERS" if differs else ""}')
    if wrong:
        print('a difference above 2 % is explained in its commit: ./dev counts --update')
    return wrong > 0


if __name__ == '__main__':
    sys.exit(main())
