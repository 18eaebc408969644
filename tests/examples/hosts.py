#!/usr/bin/env python3
"""Runs the examples of event loops within each other: what each says must be complete, and in order.

usage: hosts.py [PROGRAM...]

The programs are known by their names: host_epoll, host_glib, drive_libuv. One that is not given is skipped.
No time is asserted, except one that only a hang would pass; of the idle stretch, that it is not all used.
"""
import os
import re
import subprocess
import sys

HANG = 60  # seconds
SKIPPED = 77  # says so to meson

LINE = re.compile(r' *\d+\.\d{3} s  (\S+) +(\S+) +(.*)')
WORKER = r'duet-w/\S+'


class Failure(Exception):
    pass


def check(ok, what):
    if not ok:
        raise Failure(what)


class Story:
    """What a program said: who (thread and name) and what."""

    def __init__(self, program):
        self.name = os.path.basename(program)
        try:
            done = subprocess.run([program], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=HANG)
        except subprocess.TimeoutExpired as hung:
            print((hung.stdout or b'').decode(errors='replace'), end='')
            raise Failure(f'hangs: still there after {HANG} s') from None
        print(done.stdout, end='')
        print(done.stderr, end='', file=sys.stderr)
        check(done.returncode == 0, f'exit status {done.returncode}')
        check(not done.stderr, 'nothing is to be said on standard error')
        self.lines = [LINE.fullmatch(line) for line in done.stdout.splitlines()]
        check(all(self.lines), 'a line that is none')
        self.lines = [line.groups() for line in self.lines]

    def find(self, who, what):
        """The number of the one line in which this coroutine (or thread) says this."""
        found = [i for i, (_, name, text) in enumerate(self.lines)
                 if re.fullmatch(who, name) and re.fullmatch(what, text)]
        check(len(found) == 1, f'{who} says {len(found)} times, not once: {what}')
        return found[0]

    def in_order(self, *told):
        """Each, as (who, what), is said once, after the one before it."""
        places = [self.find(*one) for one in told]
        for before, after, one in zip(places, places[1:], told[1:]):
            check(before < after, f'comes too early: {one[0]}: {one[1]}')

    def last(self, who, what):
        check(self.find(who, what) == len(self.lines) - 1, f'is not the last line: {what}')

    def on_one_thread(self, *but):
        """All but these speak on the main thread, whose name is the program's."""
        main = self.name[:15]
        for thread, name, text in self.lines:
            if not any(re.fullmatch(one, name) for one in but):
                check(thread == main, f'speaks on {thread}: {name} {text}')

    def says_as_one(self, name, thread):
        check(any(re.fullmatch(thread, t) for t, n, _ in self.lines if n == name), f'{name} is not on {thread}')

    def number(self, what):
        found = [match for _, _, text in self.lines for match in [re.fullmatch(what, text)] if match]
        check(len(found) == 1, f'says {len(found)} times, not once: {what}')
        return [float(group) for group in found[0].groups()]

    def idles(self):
        """Spinning would use the whole stretch, and turn thousands of times."""
        wall_ms, cpu_ms, turns = self.number(r'idle for (\d+) ms: (\d+\.\d+) ms of processor time, (\d+) turns')
        check(cpu_ms < wall_ms / 2, f'does not idle: {cpu_ms} ms of {wall_ms}')
        check(turns < wall_ms, f'does not idle: {turns} turns')


def thread_calls(story, all_done):
    story.in_order(('double_it', 'is called by a thread'), ('legacy', 'called a coroutine: 42'), all_done)
    story.says_as_one('legacy', 'legacy')
    story.says_as_one('job', WORKER)


def host_epoll(story):
    host = 'host_epoll'
    all_done = ('conductor', 'all is done')
    dialogue = []
    for i in (1, 2, 3):
        dialogue += [(host, f'tick {i} of the host'), ('answerer', f"is asked 'Q {i}', and sleeps on it"),
                     (host, f"the host is answered 'A {i}'")]
    for i in (1, 2, 3):  # the next tick need not wait for an answer
        story.in_order(*dialogue[3 * i - 3:3 * i], all_done)
    story.in_order(*dialogue[0::3])
    story.in_order(*[('sleeper', f'has slept, {i} of 3') for i in (1, 2, 3)], all_done)
    story.in_order(('job', "blocks its thread, which is the pool's"), ('offloader', 'has 7 from the job'), all_done)
    thread_calls(story, all_done)
    story.in_order(
        all_done, (host, r'idle for .*'), (host, 'asks the guest to leave'),
        ('answerer', 'its read ends: the work was cancelled'), (host, r'the guest has left after [1-9]\d* turns'))
    check(re.fullmatch(r'tick \d+ of the host', story.lines[-1][2]), 'the host goes on without its guest')
    story.on_one_thread('legacy', 'job')
    story.idles()


def host_glib(story):
    host = 'host_glib'
    all_done = ('conductor', 'all is done')
    for i in (1, 2, 3, 4):
        story.in_order((host, f'tick {i} of the host'), ('reader', f'reads item {i}'))
    story.in_order(*[(host, f'tick {i} of the host') for i in (1, 2, 3, 4)])
    story.in_order(*[('reader', f'reads item {i}') for i in (1, 2, 3, 4)],
                   ('reader', 'reads the end: success'), all_done)
    story.in_order(
        (host, 'tick 1 of the host'), ('fetch', 'is started by a callback of the host'),
        ('job', "blocks its thread, which is the pool's"), ('fetch', 'has 7 from the job'),
        (host, 'the host is told: 7'), all_done)
    thread_calls(story, all_done)
    story.in_order(all_done, ('conductor', 'idle for .*'), ('conductor', 'stops its loop'))
    story.last(host, r'the guest has left after [1-9]\d* turns')
    story.on_one_thread('legacy', 'job')
    story.idles()


def drive_libuv(story):
    writes = [('client', f'writes line {i}') for i in (1, 2, 3)]
    reads = [('client', f"reads 'line {i}'") for i in (1, 2, 3)]
    end = ('libuv', 'libuv closes what it has')
    story.in_order(('libuv', 'libuv accepts a connection'), reads[0])
    story.in_order(*[one for pair in zip(writes, reads) for one in pair],
                   ('libuv', 'libuv reads the end, and closes'), end)
    story.in_order(('libuv', 'libuv reads the end, and closes'), ('client', 'reads the end'), end)
    for write, read in zip(writes, reads):  # between each of these libuv has had its turn
        between = story.lines[story.find(*write):story.find(*read)]
        check(('libuv', 'libuv reads, and writes back, 7 bytes') in [line[1:] for line in between],
              f'nobody has echoed what it {write[1]}')
    story.in_order(*[('libuv', f"libuv's timer, {i} of 4") for i in (1, 2, 3, 4)], end)
    story.in_order(*[('tick', f"tick {i} of duet's own") for i in (1, 2, 3, 4)], end)
    story.in_order(end, ('libuv', 'libuv has nothing left to do'))
    story.last('drive_libuv', r'libuv was turned \d+ times')
    story.on_one_thread()
    (turns,) = story.number(r'libuv was turned (\d+) times')
    check(4 < turns < 1000, f'{turns} turns: it does not wait, or does not turn')


STORIES = {story.__name__: story for story in (host_epoll, host_glib, drive_libuv)}


def main():
    programs = {os.path.basename(program): program for program in sys.argv[1:]}
    unknown = programs.keys() - STORIES.keys()
    if unknown:
        print(f'no such example: {", ".join(sorted(unknown))}', file=sys.stderr)
        return 2
    failed = 0
    for name, story in STORIES.items():
        if name not in programs:
            print(f'{name}: skipped, since it is not given')
            continue
        try:
            story(Story(os.path.abspath(programs[name])))
        except (Failure, OSError) as error:
            print(f'{name}: {error}', file=sys.stderr)
            failed = 1
    return failed if programs else SKIPPED


if __name__ == '__main__':
    sys.exit(main())
