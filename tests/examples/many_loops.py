#!/usr/bin/env python3
"""Runs the example many_loops and checks that each loop has done its share, and the shares add up.

usage: many_loops.py PROGRAM
"""
import math
import re
import subprocess
import sys

HANG = 60
RADIUS = 5000
CLIENTS = 32


class Wrong(Exception):
    pass


def check(true, what):
    if not true:
        raise Wrong(what)


def once(pattern, text):
    found = re.findall(pattern, text, re.MULTILINE)
    check(len(found) == 1, f'{len(found)} lines like: {pattern}')
    return found[0]


def check_call(text):
    """The answer came from another loop's thread than the one that has it."""
    once(r' s  loop-1 +double_it +doubles 21$', text)
    once(r' s  loop-0 +demonstrate +has the answer, 42$', text)


def check_group(text, loops):
    """Each loop has found what is in its columns."""
    shares = re.findall(r' s  loop-(\d+) +measure +has found (\d+) points$', text, re.MULTILINE)
    right = [0] * loops
    for x in range(RADIUS):
        right[x % loops] += math.isqrt(RADIUS * RADIUS - x * x - 1) + 1
    check(sorted((int(loop), int(points)) for loop, points in shares) == list(enumerate(right)), 'wrong shares')
    points, pi = once(r'demonstrate +(\d+) points in all: pi is about (\d\.\d+)$', text)
    check(int(points) == sum(right), f'not all points: {sum(right)}')
    check(pi == f'{4 * sum(right) / RADIUS / RADIUS:.3f}', f'pi is not {pi}')


def check_servers(text, loops):
    """Each client was served by one loop. The kernel deals by hash: all to one would be one in 2^31."""
    served = re.findall(rf'loop-(\d+) has served (\d+) of {CLIENTS}$', text, re.MULTILINE)
    check([int(loop) for loop, _ in served] == list(range(loops)), 'not a line for each loop')
    counts = [int(n) for _, n in served]
    check(sum(counts) == CLIENTS, f'{sum(counts)} connections were served')
    check(sum(n > 0 for n in counts) > 1, 'one loop has served all')


def main():
    done = subprocess.run([sys.argv[1]], capture_output=True, text=True, timeout=HANG)
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    try:
        check(done.returncode == 0, f'exit status {done.returncode}')
        check(not done.stderr, 'nothing is to be said on standard error')
        loops, processors = map(int, once(r'(\d+) loops, (\d+) processors$', done.stdout))
        check(loops == max(2, processors), f'{loops} loops')
        check_call(done.stdout)
        check_group(done.stdout, loops)
        check_servers(done.stdout, loops)
        check(done.stdout.endswith('all loops are closed\n'), 'the loops are not closed')
    except Wrong as wrong:
        print(f'many_loops: {wrong}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
