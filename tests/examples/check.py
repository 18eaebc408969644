#!/usr/bin/env python3
"""Runs one example and checks that it ended well and said what it must, in order.

usage: check.py PROGRAM NAME [ARGUMENT...]
"""
import hashlib
import os
import re
import subprocess
import sys

# Each line must be found after the one before it. Times are only bounded by what a hang would pass.
EXPECTED = {
    'hello': [r'\d+ ms, job-\d+: blocks its thread', r'\d+ ms, hello: has 42'],
    'event_loop': [
        r'main +runs on a loop: yes', r'sleeps for 1 s', r'ticker +tick 1', r'sleeps for 0\.5 s more',
        r'main +returns a value', r'the coroutine returned 42'],
    'concurrent_tasks': [
        r'task 0 +begins', r'task 4 +begins', r'result 0: 0', r'result 1: 100', r'result 2: 200',
        r'result 3: 300', r'result 4: 400', r'all done: the slowest took'],
    'callbacks': [
        r'awaits the first promise', r'background +settles the first promise',
        r'callback for the first promise: succeeded with 42',
        r'callback for the first promise, added late: succeeded with 42',
        r'settles the second promise with a failure',
        r'callback for the second promise: failed: No route to host'],
    'thread_safety': [
        r'duet-w/demo-\d +worker +worker \d calls a coroutine and blocks',
        r'gathered its own; now waits for the workers that wait for this loop',
        r'duet-w/demo-\d +worker +worker \d: success',
        r'worker 0 returned 0', r'worker 1 returned 10', r'worker 2 returned 20', r'done in \d+\.\d s'],
    'deadlock': [
        r"log: deadlock: coroutine 'egg' waits for coroutine 'chicken', which waits for coroutine 'egg'",
        r'egg +got -EDEADLK, and goes on', r'chicken +its wait has ended well',
        r"log: deadlock: job 'report' \(pool db\) waits for coroutine 'fetch', which waits for job 'report'",
        r'report +got -EDEADLK, and goes on', r'fetch +its wait has ended well',
        r"log: deadlock: job 'level-1' .*queued behind job 'level-0'", r'it came to level 1',
        r'forgets to settle it', r"log: deadlock: coroutine 'customer' waits for promise 'parcel'",
        r'customer +got -EDEADLK, and goes on', r'four deadlocks, no hang'],
    'shutdown': [
        r'all is to end within 600 ms', r'short +ends by itself',
        r'reader +its read ends: Interrupted system call; cancelled: yes', r'left behind:',
        r"coroutine 'deaf' on loop 'loop', for \d\.\d s; it waits for a moment",
        r"job 'stuck' on pool 'files', for \d\.\d s; it waits for nothing of duet"],
    'legacy_threads': [
        r'legacy-1 .*met: success, 200', r'slow +is cancelled, and cleans up',
        r'legacy-2 .*missed: the deadline of this wait passed',
        r'legacy-3 .*came back: the late result is there, 700'],
}

# Who is told and the log that says why run beside each other.
UNORDERED = ['deadlock']


def check_offload(program):
    """Real files, one of them missing: the digests are the right ones."""
    missing = program + '.is-not-there'
    done = subprocess.run([program, program, __file__, missing], capture_output=True, text=True, timeout=100)
    for path in (program, __file__):
        digest = hashlib.sha256(open(path, 'rb').read()).hexdigest()
        if f'{digest}  {path}' not in done.stdout:
            return f'wrong digest of {path}'
    if done.returncode != 1 or 'No such file' not in done.stderr:
        return 'a missing file is a message and an exit status'
    if not re.search(r'a tick of the loop was at most \d+\.\d+ ms late', done.stderr):
        return 'the ticker reports'
    return None


def check_lines(program, name):
    env = dict(os.environ)
    if name == 'shutdown':  # leaves threads behind, to show that it can
        env['TSAN_OPTIONS'] = env.get('TSAN_OPTIONS', '') + ':report_thread_leaks=0'
        env['ASAN_OPTIONS'] = env.get('ASAN_OPTIONS', '') + ':detect_leaks=0'
    done = subprocess.run([program], capture_output=True, text=True, timeout=100, env=env)
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    if done.returncode != 0:
        return f'exit status {done.returncode}'
    if done.stderr:
        return 'nothing is to be said on standard error'
    at = 0
    for pattern in EXPECTED[name]:
        found = re.compile(pattern).search(done.stdout, at)
        if not found:
            return f'not found, in this order: {pattern}'
        if name not in UNORDERED:
            at = found.end()
    return None


def main():
    program, name = sys.argv[1], sys.argv[2]
    wrong = check_offload(program) if name == 'offload' else check_lines(program, name)
    if wrong:
        print(f'{name}: {wrong}', file=sys.stderr)
    return wrong is not None


if __name__ == '__main__':
    sys.exit(main())
