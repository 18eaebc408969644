#!/usr/bin/env python3
"""Runs programs with DUET_TRACE and reads what they wrote: strict JSON whatever happens to the program, slices that
nest, lives that balance, arrows that begin and end in slices, and everything that the program says it did.

usage: trace.py THREAD_SAFETY TRACE_CRASH [EXAMPLE…]

DUET_TEST_SEED=N kills after the same times again, DUET_TEST_ROUNDS=N so many percent as often. DUET_TEST_ONLY=many runs
only the cases whose names hold that.

The rules for slices and arrows are those of who reads such traces (ui.perfetto.dev), which goes through all events
by their moments, and, where these are equal, in the order of the file.
"""
import collections
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import xml.etree.ElementTree

HANG = 100  # seconds
SEED = int(os.environ.get('DUET_TEST_SEED', random.randrange(2**32)))
KILLED = max(1, 30 * int(os.environ.get('DUET_TEST_ROUNDS', '100')) // 100)  # how often
STOPPED = 10
TIMELINE = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'tools', 'timeline.py')
FIELDS = {  # besides ph: what the event must have, and of which type
    'M': {'name': str, 'pid': int, 'tid': int, 'args': dict},
    'X': {'name': str, 'cat': str, 'ts': (int, float), 'dur': (int, float), 'pid': int, 'tid': int},
    'b': {'name': str, 'cat': str, 'id': str, 'ts': (int, float), 'pid': int, 'tid': int},
    'e': {'name': str, 'cat': str, 'id': str, 'ts': (int, float), 'pid': int, 'tid': int},
    's': {'name': str, 'cat': str, 'id': int, 'ts': (int, float), 'pid': int, 'tid': int},
    'f': {'name': str, 'cat': str, 'id': int, 'ts': (int, float), 'pid': int, 'tid': int, 'bp': str},
    'C': {'name': str, 'ts': (int, float), 'pid': int, 'args': dict},
}
UNFINISHED = ['shutdown']  # leaves work behind, to show that it can


class Failure(Exception):
    pass


def check(ok, what):
    if not ok:
        raise Failure(what)


# ---- Reading ----

def no_such_number(text):
    raise Failure(f'{text} is no JSON')


def parsed(data, what):
    try:
        events = json.loads(data.decode('utf-8'), parse_constant=no_such_number)
    except ValueError as error:
        raise Failure(f'{what}: {error}; its end: {data[-300:]!r}') from error
    check(isinstance(events, list), f'{what}: it is an array')
    return events


def load(path):
    check(os.path.exists(path), f'{os.path.basename(path)} was written; there are {os.listdir(os.path.dirname(path))}')
    with open(path, 'rb') as file:
        return parsed(file.read(), os.path.basename(path))


def ns(event, field='ts'):
    return round(event[field] * 1000)


def lane(event):
    return event['pid'], event['tid']


def of(events, ph, cat=None, name=None):
    return [e for e in events if e['ph'] == ph and (cat is None or e.get('cat') == cat)
            and (name is None or e['name'] == name)]


def in_order(events):
    """As who reads the trace goes through it."""
    return sorted((e for e in events if e['ph'] != 'M'), key=ns)


def lane_names(events):
    return {lane(e): e['args']['name'] for e in of(events, 'M', name='thread_name')}


# ---- What holds of every trace ----

def check_fields(events):
    for e in events:
        check(isinstance(e, dict) and e.get('ph') in FIELDS, f'a phase that is known: {e}')
        for field, kind in FIELDS[e['ph']].items():
            check(isinstance(e.get(field), kind) and not isinstance(e.get(field), bool), f'{field} of {e}')
        check(e['ph'] == 'M' or e['ts'] >= 0, f'ts of {e}')
        check(e['ph'] != 'M' or ('sort_index' if e['name'].endswith('sort_index') else 'name') in e['args'],
              f'args of {e}')
        check(e['ph'] != 'C' or e['args'] and all(type(v) in (int, float) and v >= 0 for v in e['args'].values()),
              f'the values of {e}')


def check_works(events):
    """Of steps, jobs and waits."""
    for e in of(events, 'X', 'step') + of(events, 'X', 'job'):
        args = e.get('args', {})
        check(isinstance(args.get('id'), int) and args['id'] > 0, f'an id in {e}')
        kinds = ['job'] if e['cat'] == 'job' else ['coroutine', 'callback', 'job']
        check(args.get('kind') in kinds and isinstance(args.get('place'), str), f'kind and place in {e}')
    for e in of(events, 'X', 'wait'):
        check(isinstance(e.get('args', {}).get('id'), int) and e['name'].startswith('waits for '), f'a wait: {e}')


def check_lanes(events):
    names, slices = lane_names(events), of(events, 'X')
    check(of(events, 'M', name='process_name'), 'the process has a name')
    for e in slices:
        check(names.get(lane(e)), f'a name for the lane of {e}')
        if e['cat'] == 'step' and e['args']['kind'] != 'job':
            check(names[lane(e)].startswith('loop '), f'a step is on the lane of a loop, not {names[lane(e)]!r}: {e}')


def check_slices(events, complete):
    """They nest or are disjoint, and what is outside comes first. A wait is inside its job, if that has ended."""
    lanes = collections.defaultdict(list)
    for e in in_order(of(events, 'X')):
        check(e['dur'] >= 0, f'dur of {e}')
        lanes[lane(e)].append(e)
    for slices in lanes.values():
        outside = []
        for e in slices:
            start, end = ns(e), ns(e) + ns(e, 'dur')
            while outside and ns(outside[-1]) + ns(outside[-1], 'dur') <= start:
                outside.pop()
            check(not outside or end <= ns(outside[-1]) + ns(outside[-1], 'dur'), f'{e} overlaps {outside[-1:]}')
            if e['cat'] == 'wait' and complete:
                check(any(o['cat'] == 'job' and o['args']['id'] == e['args']['id'] for o in outside),
                      f'a wait is within its job: {e} is in {outside}')
            outside.append(e)


def check_lives(events, complete):
    """What begins, ends, by the same name, and the last first."""
    inside = collections.defaultdict(list)
    for e in in_order(of(events, 'b') + of(events, 'e')):
        key = e['pid'], e['cat'], e['id']
        if e['ph'] == 'b':
            check(not inside[key] or e['name'].startswith('waits for '), f'{e} within {inside[key]}')
            inside[key].append(e['name'])
        else:
            check(inside[key] and inside[key].pop() == e['name'], f'{e} ends what has begun')
    left = {key: names for key, names in inside.items() if names}
    check(not complete or not left, f'all lives have ended but {list(left.items())[:5]}')


def check_verdicts(events):
    """The end of a life says what it came to."""
    for e in of(events, 'e', 'work'):
        if not e['name'].startswith('waits for '):
            err = e.get('args', {}).get('err')
            check(isinstance(err, int) and err <= 0, f'an err, 0 or less, in {e}')


def check_one_slice(slices, e, complete):
    """Within a slice of its lane, in the order in which a reader goes: that has begun, and has not ended."""
    at = ns(e)
    inside = [s for s in slices[lane(e)] if ns(s) <= at < ns(s) + max(ns(s, 'dur'), 1)]
    if not inside and not complete:
        return  # that slice never ended
    check(inside, f'in a slice of its lane: {e}; that has {slices[lane(e)]}')
    if e['ph'] == 'f' and inside[-1]['cat'] == 'step':
        check(at - ns(inside[-1]) <= 1000, f'at the beginning of the step that followed: {e} is in {inside[-1]}')
    check(e['ph'] == 's' or inside[-1]['cat'] != 'wait', f'what made it go on does not end in the wait: {e}')


def check_arrows(events, complete):
    """One start for each end, not after it, both in slices. Slices are kept as long as they are open."""
    for ph in 'sf':
        ids = collections.Counter((e['pid'], e['id']) for e in of(events, ph, 'ready'))
        check(not ids or max(ids.values()) == 1, f'an id of ph {ph} twice: {ids.most_common(3)}')
    starts = {(e['pid'], e['id']): e for e in of(events, 's', 'ready')}
    for e in of(events, 'f', 'ready'):
        start = starts.get((e['pid'], e['id']))
        check(start is not None, f'the start of {e}')
        check(start['name'] == e['name'] and ns(start) <= ns(e), f'{start} before {e}')
        check(e['bp'] == 'e', f'bp of {e}')
    open_on = collections.defaultdict(list)
    for e in in_order(events):
        if e['ph'] == 'X':
            open_on[lane(e)] = [s for s in open_on[lane(e)] if ns(s) + ns(s, 'dur') > ns(e)] + [e]
        elif e['ph'] in 'sf':
            check_one_slice(open_on, e, complete)


def check_trace(events, complete=True):
    """All of it, to say all that is wrong."""
    check_fields(events)
    wrong = []
    for rule, args in ((check_works, ()), (check_lanes, ()), (check_slices, (complete,)), (check_lives, (complete,)),
                       (check_verdicts, ()), (check_arrows, (complete,))):
        try:
            rule(events, *args)
        except Failure as failure:
            wrong.append(f'{rule.__name__}: {str(failure)[:600]}')
    check(not wrong, '\n    '.join(wrong))


def check_picture(path, *options):
    svg = path + '.svg'
    done = subprocess.run([sys.executable, TIMELINE, path, svg, *options], capture_output=True, text=True, timeout=HANG)
    check(done.returncode == 0 and not done.stderr, f'timeline.py: {done.stderr}')
    root = xml.etree.ElementTree.parse(svg).getroot()
    check(root.tag.endswith('svg') and len(root), 'a picture')
    check(os.path.getsize(svg) < 2_000_000, f'a picture of {os.path.getsize(svg)} bytes')


# ---- Running ----

def environment(trace):
    env = {name: value for name, value in os.environ.items() if name != 'DUET_TRACE'}
    if trace is not None:
        env['DUET_TRACE'] = trace
    for name, more in (('ASAN_OPTIONS', 'handle_segv=0:handle_abort=0:detect_leaks=0'),
                       ('TSAN_OPTIONS', 'handle_segv=0:handle_abort=0:report_thread_leaks=0:die_after_fork=0')):
        env[name] = f'{env.get(name, "")}:{more}'
    return env


def run(program, trace, *args, status=0, quiet=True, cwd=None):
    """What it has printed, as "word number" each: {word: number}."""
    done = subprocess.run([program, *args], capture_output=True, text=True, errors='replace', timeout=HANG,
                          env=environment(trace), cwd=cwd)
    check(done.returncode == status, f'exit status {done.returncode}, not {status}: {done.stdout}{done.stderr}')
    check(not quiet or not done.stderr, f'nothing is to be said on standard error: {done.stderr}')
    run.stderr = done.stderr
    return {m[1]: int(m[2]) for m in re.finditer(r'^([\w-]+) (\d+)$', done.stdout, re.M)}


def check_told(events, told):
    """As many steps by that name as the program counted; and a job by its name, if it is a marker."""
    for name, number in told.items():
        steps = len(of(events, 'X', 'step', name))
        check(steps == number, f'{steps} steps of {name!r}, not {number}')
        if name in ('before', 'after'):
            check_marker(events, name)


def check_marker(events, name):
    """A coroutine and a job that have ended are there, from birth to end."""
    for what in (name, 'job-' + name):
        check(what == name or len(of(events, 'X', 'job', what)) == 1, f'one job {what!r}')
    check(len(of(events, 'b', 'work', name)) == 1 == len(of(events, 'e', 'work', name)), f'the life of {name!r}')


# ---- The cases ----

def case_demo(demo, crash, place):
    """A loop and three workers, whose jobs wait for coroutines; arrows to and fro."""
    path = os.path.join(place, 'demo.json')
    run(demo, path)
    events = load(path)
    check_trace(events)
    names = lane_names(events)
    loops = {key for key, name in names.items() if name.startswith('loop ')}
    workers = {key for key, name in names.items() if re.fullmatch(r'duet-w/demo-\d', name)}
    check(len(loops) == 1 and len(workers) == 3, f'one loop, three workers: {names}')
    jobs = {e['args']['id']: lane(e) for e in of(events, 'X', 'job', 'worker')}
    check(set(jobs.values()) == workers, 'each worker has a job')
    waits = of(events, 'X', 'wait', "waits for coroutine 'answer'")
    check({e['args']['id']: lane(e) for e in waits} == jobs, f'each job waits for its coroutine: {waits}')
    check(len(of(events, 'X', 'step', 'answer')) == 6, 'an answer has two steps: before its sleep and after')
    check(len(of(events, 'b', 'work', 'answer')) == 3, 'three answers live')
    for_workers = re.compile(r"waits for (job 'worker' \(pool demo\)|all of 3\b.*)")
    check(any(for_workers.fullmatch(e['name']) for e in of(events, 'b', 'work')), 'the main coroutine waits for them')
    ways = arrows_between(events)
    to_loop = sum(n for (a, b), n in ways.items() if a in workers and b in loops)
    to_workers = collections.Counter(b for (a, b), n in ways.items() for _ in range(n) if a in loops and b in workers)
    check(to_loop >= 4, f'arrows from workers to the loop: three calls, and the end of one at least: {ways}')
    check(all(to_workers[w] >= 2 for w in workers), f'arrows to each worker, of its job and of its answer: {ways}')
    counters = {e['name'] for e in of(events, 'C')}
    check(any(c.startswith('loop ') for c in counters) and 'pool demo' in counters, f'queue depths: {counters}')
    check_picture(path)
    check_picture(path, '--enlarge', '--title', 'a <title> & "more"')
    check_picture(path, '--from', '400', '--to', '600')


def arrows_between(events):
    starts = {e['id']: lane(e) for e in of(events, 's', 'ready')}
    return collections.Counter((starts[e['id']], lane(e)) for e in of(events, 'f', 'ready'))


def case_plain_thread(demo, crash, place):
    """Who submits without being anybody's worker has a lane, where the arrow to the loop begins."""
    path = os.path.join(place, 'names.json')
    run(crash, path, 'names')
    events = load(path)
    steps = of(events, 'X', 'step', 'from-named-thread')
    check(len(steps) == 1, 'its coroutine has run')
    ends = [e for e in of(events, 'f', 'ready') if lane(e) == lane(steps[0]) and
            ns(steps[0]) <= ns(e) <= ns(steps[0]) + ns(steps[0], 'dur')]
    starts = [s for s in of(events, 's', 'ready') if any(s['id'] == e['id'] for e in ends)]
    check(len(starts) == 1, f'an arrow to it: {ends}')
    check(lane_names(events)[lane(starts[0])].startswith('grüß "\\'), f'from the thread: {starts}')
    check(of(events, 'X', 'submit', 'starts from-named-thread'), 'which has started it')


def case_clean_end(demo, crash, place):
    path = os.path.join(place, 'end.json')
    told = run(crash, path, 'end')
    events = load(path)
    check_trace(events)
    check(set(told) == {'before', 'after'}, f'told {told}')
    check_told(events, told)
    check_picture(path)


def case_crashes(demo, crash, place):
    """All that had ended is there."""
    for how, status in (('abort', -signal.SIGABRT), ('trap', -signal.SIGTRAP), ('segv', -signal.SIGSEGV), ('overflow', -signal.SIGSEGV),
                        ('exit', 0)):
        path = os.path.join(place, how + '.json')
        told = run(crash, path, how, status=status, quiet=False)
        check(set(told) == {'before', 'busy'}, f'told {told}')
        check(how != 'overflow' or "'falling'" in run.stderr, f'who ran over the stack is still said: {run.stderr!r}')
        events = load(path)
        check_trace(events, complete=False)
        check_told(events, told)
        check(len(of(events, 'X', 'step')) > 1000 and of(events, 'X', 'job'), f'the work until {how} is there')
        check_picture(path)


def started(program, trace, how):
    return subprocess.Popen([program, how], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment(trace))


def wait_for_round(process, number):
    for line in process.stdout:
        word, value = line.split()
        if word == b'rounds' and int(value) >= number:
            return
    raise Failure(f'it has ended by itself, with {process.wait(HANG)}')


def case_killed(demo, crash, place):
    """Strict JSON, whenever it is killed, also in the middle of a write: so it must happen often."""
    chance, wrong = random.Random(SEED), []
    for _ in range(KILLED):
        path = os.path.join(place, 'killed.json')
        with started(crash, path, 'kill') as process:
            try:
                wait_for_round(process, 1)
                time.sleep(chance.random() / 20)  # waits for nothing: it is to die at any moment
            finally:
                process.kill()
        try:
            events = load(path)
        except Failure as failure:
            wrong.append(str(failure))
            continue
        check(events[0]['name'] == 'process_name', 'it says who it was')
    check(not wrong, f'{len(wrong)} of {KILLED} files are no JSON (DUET_TEST_SEED={SEED}), the first: {wrong[:1]}')
    if not wrong:
        check_fields(events)
        check_picture(path)


def case_at_any_moment(demo, crash, place):
    """Strict JSON, whenever one looks at it while the program stands still."""
    path = os.path.join(place, 'moments.json')
    with started(crash, path, 'kill') as process:
        try:
            for i in range(STOPPED):
                wait_for_round(process, 1 + i * 2)
                process.send_signal(signal.SIGSTOP)
                check(os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1]), 'it stands still')
                check_fields(load(path))
                process.send_signal(signal.SIGCONT)
        finally:
            process.kill()


def case_unset(demo, crash, place):
    for trace in (None, ''):
        run(crash, trace, 'end', cwd=place)
        check(os.listdir(place) == [], f'nothing was written: {os.listdir(place)}')


def case_no_such_directory(demo, crash, place):
    path = os.path.join(place, 'missing', 'trace.json')
    told = run(crash, path, 'end', quiet=False)
    check(set(told) == {'before', 'after'}, 'the program runs on')
    check('DUET_TRACE' in run.stderr or path in run.stderr, f'a warning: {run.stderr!r}')
    check(len(run.stderr.splitlines()) == 1, f'one line of it: {run.stderr!r}')
    check(os.listdir(place) == [], 'nothing was written')


def case_process_number(demo, crash, place):
    run(crash, os.path.join(place, 'trace-%p.json'), 'end')
    files = os.listdir(place)
    check(len(files) == 1 and re.fullmatch(r'trace-\d+\.json', files[0]), f'one file with a number: {files}')
    events = load(os.path.join(place, files[0]))
    check_trace(events)
    check({str(e['pid']) for e in events} == {files[0][6:-5]}, 'the number is that of the process')


def case_older_file(demo, crash, place):
    """What was in the file before is not."""
    path = os.path.join(place, 'older.json')
    with open(path, 'w', encoding='ascii') as file:
        file.write('x' * 10_000_000)
    run(crash, path, 'end')
    check_trace(load(path))


def case_children(demo, crash, place):
    """Whatever a child does, the parent's file has all of the parent's story."""
    for how in ('fork-exit', 'fork-_exit', 'fork-work', 'fork-exec'):
        path = os.path.join(place, how + '.json')
        told = run(crash, path, how, quiet=False)
        check(set(told) == {'before', 'after'}, f'{how}: told {told}')
        events = load(path)
        parent = next(e['pid'] for e in of(events, 'X', 'step', 'after'))
        own = [e for e in events if e['pid'] == parent]
        check_trace(own)
        check_told(own, told)
        check_fields(events)
        check_picture(path)


def case_children_of_their_own(demo, crash, place):
    """With %p, a program that a child runs writes a file of its own."""
    told = run(crash, os.path.join(place, '%p.json'), 'fork-exec', quiet=False)
    files = sorted(os.listdir(place))
    check(len(files) == 2, f'two files: {files}')
    for name in files:
        events = load(os.path.join(place, name))
        check_trace(events)
        check({e['pid'] for e in events} == {int(name[:-5])}, f'{name} speaks of its process alone')
        check_told(events, told)


def case_names(demo, crash, place):
    path = os.path.join(place, 'names.json')
    run(crash, path, 'names')
    events = load(path)
    check_trace(events)
    steps, jobs = ({e['name'] for e in of(events, 'X', cat)} for cat in ('step', 'job'))
    for found in (steps, jobs):
        for name in ('quote " end', 'back \\ slash \\" end', 'grüß€😀 end', '</title><&>\'%s%n'):
            check(name in found, f'{name!r}, unchanged, in {found}')
        check(any(n.startswith('ctrl ') and n.endswith(' end') for n in found), f'the control characters in {found}')
        check(sum(n.startswith('bad ') for n in found) >= 4, f'what is no text, in {found}')
        check(any(n.startswith('x' * 15) for n in found), f'the long name, in {found}')
    check(not any('\ud800' <= c <= '\udfff' for e in events for c in e.get('name', '')), 'no halves of pairs')
    loops = {name for name in lane_names(events).values() if name.startswith('loop ')}
    check(any(name.startswith('loop lo"op \\ ') for name in loops), f'the strange loop in {loops}')
    check(any(e['name'].startswith('pool tr"\\xüüü') for e in of(events, 'C')), 'the strange pool')
    check_picture(path)


def case_many(demo, crash, place):
    """Nothing is lost: as many steps as were counted."""
    path = os.path.join(place, 'many.json')
    told = run(crash, path, 'many')
    events = load(path)
    check_trace(events)
    check(told['spinner'] >= 100_000, f'told {told}')
    check_told(events, told)
    check(len(of(events, 'X', 'job', 'caller')) == 8, 'eight jobs called')
    check(len({lane(e) for e in of(events, 'X', 'submit')}) >= 8, 'eight threads have lanes')
    check(len(of(events, 'b', 'work', 'called')) == told['called'] == len(of(events, 'e', 'work', 'called')),
          'the life of each that was called')
    check_picture(path)
    check_picture(path, '--enlarge')


CASES = [case_demo, case_plain_thread, case_clean_end, case_crashes, case_killed, case_at_any_moment, case_unset,
         case_no_such_directory, case_process_number, case_older_file, case_children, case_children_of_their_own,
         case_names, case_many]


def case_example(program, place):
    """Any other program."""
    name = os.path.basename(program)
    path = os.path.join(place, name + '.json')
    run(program, path)
    check_trace(load(path), complete=name not in UNFINISHED)
    check_picture(path)


def main():
    demo, crash, *others = (os.path.abspath(program) for program in sys.argv[1:])
    only = os.environ.get('DUET_TEST_ONLY', '')
    tests = [(case.__name__, case, (demo, crash)) for case in CASES] + \
        [(f'example_{os.path.basename(p)}', case_example, (p,)) for p in others]
    failed = 0
    for name, case, args in tests:
        if only not in name:
            continue
        with tempfile.TemporaryDirectory() as place:
            try:
                case(*args, place)
                print(f'ok      {name}')
            except Failure as failure:
                failed += 1
                print(f'FAILED  {name}: {str(failure)[:3000]}')
            except Exception:  # what the checks themselves stumble over
                failed += 1
                print(f'FAILED  {name}:\n{traceback.format_exc()}')
        sys.stdout.flush()
    return failed > 0


if __name__ == '__main__':
    sys.exit(main())
