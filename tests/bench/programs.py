#!/usr/bin/env python3
"""duet's programs of every workload do what bench/README.md promises: with tiny sizes, they print exactly its figures,
and its servers answer.

usage: programs.py SOURCE-DIRECTORY BUILD-DIRECTORY
"""
import http.client
import os
import re
import sys

FIGURE = re.compile(r'\w+_(?:us|ns|ms)|mps|(?:tables_)?bytes|early')
QUANTILES = ['p50_us', 'p99_us', 'p999_us']

# (program, arguments, figures that the table promises of other arguments or another program only)
RUNS = [
    ('w1_call-duet', 'calls=50', ()),
    ('w1_call-duet', 'calls=50 spin=0', ()),
    ('w1_call-duet', 'calls=5 gap_us=1000', ()),
    ('w2_submit-duet', 'kind=callback producers=2 work=2000', ()),
    ('w2_submit-duet', 'kind=task producers=2 work=2000', ()),
    ('w3_offload-duet', 'offloads=50', ()),
    ('w3_offload-duet', 'workers=1 at_once=10 offloads=200', QUANTILES),
    ('w4_switch-duet', 'yields=2000', ('switch_ns',)),
    ('w4_switch-switch', 'yields=2000', ('yield_ns',)),
    ('w5_spawn-duet', 'spawns=2000 batch=100', ()),
    ('w5_spawn-duet', 'spawns=2000 at_once=1', ()),
    ('w5_memory-duet', 'sleepers=1000', ()),
    ('w6_timers-duet', 'kind=callback timers=200 span_ms=20', ()),
    ('w6_timers-duet', 'kind=sleep timers=200 span_ms=20', ()),
    ('w7_pipeline-duet', 'items=2000 room=10', ()),
    ('w8_jobs-duet', 'producers=2 jobs=2000 workers=2', ()),
]
SERVERS = ['duet', 'streams', 'limit', 'epoll']
SCALE = 'n=20 operations=2000'


def promised(readme):
    """Folder: the figures in the last column of its line in the table."""
    lines = re.findall(r'^\| `([wh]\d*_\w+)` \|.*\| ([^|]*) \|$', readme, re.M)
    return {folder: list(filter(FIGURE.fullmatch, re.findall(r'`(\w+)`', figures))) for folder, figures in lines}


def differences(programs, found, table):
    for name, arguments, not_here in RUNS:
        command = [found.built(name) or name, *arguments.split()]
        try:
            figures = programs.run(command, 60, found.child)
        except (programs.Failed, OSError) as why:
            yield f'{name} {arguments}: {why}'
            continue
        said = set(figures) - {'cpu_s', 'peak_mib'}
        wanted = set(table[name.split('-')[0]]) - set(not_here)
        if said != wanted:
            yield f'{name} {arguments} says {sorted(said)}, and the README promises {sorted(wanted)}'
        yield from (f'{name} {arguments}: {figure} is {value}' for figure, value in figures.items()
                    if value < 0 and figure not in ('bytes', 'tables_bytes'))


def unknown_workloads(plan, table):
    """The plan, the table and the runs above have the same workloads."""
    planned = {case.folder for case in plan.CASES}
    run = {name.split('-')[0] for name, _, _ in RUNS} | {'w9_echo', 'h_http'}
    if not set(table) == planned == run:
        yield f'the README has {sorted(table)}, the plan {sorted(planned)}, this test {sorted(run)}'


def wrong_servers(programs, found):
    """Each serves two clients, one after the other on the same connection too, and ends with its input."""
    for folder, ask in ('w9_echo', ask_echo), ('h_http', ask_http):
        for name in SERVERS:
            try:
                server = found.server(folder, name)
                ask(programs, server, found)
            except programs.Skipped as why:
                if found.has(folder, name) and (folder, str(why)) != ('h_http', 'not installed'):  # llhttp is missing
                    yield f'{folder}-{name}: {why}'
            except (programs.Failed, OSError, AssertionError) as why:
                yield f'{folder}-{name}: {why!r}'
            else:
                if server.process.returncode != 0:
                    yield f'{folder}-{name} ends with {server.process.returncode}'


def ask_echo(programs, server, found):
    asking = programs.Asking('echo', connections=3, active=2, timeout_s=60, seconds=0.02)
    figures = set(programs.serve(server, asking, found))
    wanted = {'requests', 'krps', 'cpu_us', 'peak_mib', *QUANTILES}
    assert figures == wanted, f'the client says {sorted(figures)}'


def ask_http(programs, server, found):
    with server:
        for _ in range(2):
            client = http.client.HTTPConnection('127.0.0.1', server.port, timeout=60)
            for _ in range(2):
                client.request('GET', '/')
                answer = client.getresponse()
                told = answer.status, answer.read(), answer.headers.get_content_type(), answer.headers['Content-Length']
                assert told == (200, b'Hello, world!', 'text/plain', '13'), told
            client.close()


def wrong_scales(programs, plan, found):
    for kind in plan.SCALES:
        if kind.connections:
            continue
        command = [found.built('scale-duet') or 'scale-duet', f'kind={kind.kind}', *SCALE.split()]
        try:
            said = programs.run(command, 60, found.child)
        except (programs.Failed, programs.Skipped, OSError) as why:
            yield f'scale-duet {kind.kind}: {why}'
            continue
        if kind.figure not in said:
            yield f'scale-duet {kind.kind} does not say {kind.figure}'


def main():
    source, build = sys.argv[1:3]
    sys.path.insert(0, os.path.join(source, 'bench'))
    import plan
    import programs
    found = programs.Programs(os.path.join(source, 'bench'), build)
    with open(os.path.join(source, 'bench', 'README.md')) as readme:
        table = promised(readme.read())
    wrong = [*unknown_workloads(plan, table), *differences(programs, found, table),
             *wrong_scales(programs, plan, found),
             *wrong_servers(programs, found)]
    print('\n'.join(wrong) or f'{len(RUNS)} runs say what they should')
    return bool(wrong)


if __name__ == '__main__':
    sys.exit(main())
