#!/usr/bin/env python3
"""duet's programs of every workload do what bench/README.md promises: with tiny sizes, they print exactly its figures.

usage: programs.py SOURCE-DIRECTORY BUILD-DIRECTORY
"""
import os
import re
import sys

FIGURE = re.compile(r'\w+_(?:us|ns|ms)|mps|bytes|early')
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
    ('w5_memory-duet', 'sleepers=1000', ()),
    ('w6_timers-duet', 'kind=callback timers=200 span_ms=20', ()),
    ('w6_timers-duet', 'kind=sleep timers=200 span_ms=20', ()),
    ('w7_pipeline-duet', 'items=2000 room=10', ()),
    ('w8_jobs-duet', 'producers=2 jobs=2000 workers=2', ()),
]
SERVERS = {'w9_echo': 'echo', 'h_http': 'http'}
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
                    if value < 0 and figure not in ('bytes',))


def unknown_workloads(plan, table):
    """The plan, the table and the runs above have the same workloads."""
    planned, run = {case.folder for case in plan.CASES}, {name.split('-')[0] for name, _, _ in RUNS} | set(SERVERS)
    if not set(table) == planned == run:
        yield f'the README has {sorted(table)}, the plan {sorted(planned)}, this test {sorted(run)}'


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
             *wrong_scales(programs, plan, found)]
    print('\n'.join(wrong) or f'{len(RUNS)} runs say what they should')
    return bool(wrong)


if __name__ == '__main__':
    sys.exit(main())
