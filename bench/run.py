#!/usr/bin/env python3
"""Measures duet beside its peers: runs the programs of each case in turn for several rounds; prints a table for each.

usage: run.py BUILD-DIRECTORY [W…] [--quick] [--own] [--rounds N] [--json FILE] [--plots DIRECTORY]

W is a workload (W1, W1s, W2, W2m, W3, W3c, W4, W5, W5m, W6, W7, W8, W9, H, scale) or a case (W2-task-8); without
one, all but `scale` are measured. --quick takes two minutes: smaller, fewer, only the main peers. --own runs duet and
its limits alone. A run during which others took the machine is repeated, and the quietest is kept.
"""
import argparse
import dataclasses
import json
import os
import resource
import sys
import time

import facts
import noise
import plan
import plots
import programs
import results
import scale

ROUNDS, TRIES = 5, 3  # a run is tried again while it is loud
QUICK_S, QUICK_ASKING_S = 105, 0.5  # of --quick: for all cases together; how long a server is asked


@dataclasses.dataclass(frozen=True)
class Options:
    quick: bool = False
    own: bool = False
    rounds: int = ROUNDS
    seconds: float = float('inf')  # for one case: no round begins that would end later


# ---- What happens now ----

class Progress:
    """One line that is written anew, where somebody looks; else a line a case."""

    def __init__(self, stream=sys.stderr):
        self.stream, self.live, self.last = stream, stream.isatty(), None

    def show(self, case, detail):
        if self.live:
            self.stream.write(f'\r\033[K{case}: {detail}')
        elif case != self.last:
            self.stream.write(f'{case} …\n')
        self.last = case
        self.stream.flush()

    def clear(self):
        if self.live:
            self.stream.write('\r\033[K')
            self.stream.flush()


# ---- One case ----

def arguments_of(case, contestant, quick):
    arguments = {**case.arguments, **((case.quick or {}) if quick else {}), **case.others.get(contestant, {})}
    return programs.as_arguments(arguments)


def contestants_of(case, found, options):
    names = [name for name in plan.CONTESTANTS if found.has(case.folder, name) and name not in case.without]
    if case.only:
        names = [name for name in names if name in case.only]
    if options.own:
        names = [name for name in names if name in plan.OURS + plan.LIMITS]
    return [name for name in names if name in plan.QUICK] if options.quick else names


def run_once(case, contestant, found, options):
    if case.client:
        seconds = QUICK_ASKING_S if options.quick else 1
        asking = programs.Asking(case.client, case.connections, case.connections, case.timeout_s, seconds)
        return programs.serve(found.server(case.folder, contestant), asking, found)
    command = [*case.before, *found.command(case.folder, contestant), *arguments_of(case, contestant, options.quick)]
    return programs.run(command, case.timeout_s, found.child)


def run_with_noise(run):
    before = noise.moment()
    figures = run()
    return figures, noise.between(before, noise.moment())


class Patience:
    """How often runs of a case may be repeated: each twice, and half of them in all."""

    def __init__(self, runs, tries=TRIES):
        self.left, self.tries = runs // 2, tries

    def quietest(self, run):
        best = run_with_noise(run)
        for _ in range(self.tries - 1):
            if not best[1].loud() or self.left <= 0:
                break
            self.left -= 1
            best = min(best, run_with_noise(run), key=lambda one: one[1].amount())
        return best


def one_round(case, entries, order, found, options, patience, show):
    for name in order:
        entry = entries[name]
        if entry.skipped or entry.failure:
            continue
        show(name)
        try:
            figures, disturbed = patience.quietest(lambda: run_once(case, name, found, options))
        except programs.Skipped as skipped:
            entry.skipped = str(skipped)
        except programs.Failed as failed:
            entry.failure = str(failed)
        except OSError as error:
            entry.failure = f'it could not be started: {error.strerror}'
        else:
            entry.runs.append(figures)
            entry.noises.append(disturbed)


def rotated(names, by):
    """None always comes after the same."""
    by %= max(len(names), 1)
    return names[by:] + names[:by]


def measure(case, found, options, progress):
    names = contestants_of(case, found, options)
    entries = {name: results.Entry() for name in names}
    patience = Patience(len(names) * options.rounds, 1 if options.quick else TRIES)
    start = time.monotonic()
    for number in range(options.rounds):
        began = time.monotonic()
        one_round(case, entries, rotated(names, number), found, options, patience,
                  lambda name: progress.show(case.name, f'round {number + 1} of {options.rounds}, {name}'))
        now = time.monotonic()
        if now - start + (now - began) > options.seconds:
            break
    progress.clear()
    return results.Result(case, entries)


# ---- All ----

def chosen(words, quick, cases=plan.CASES):
    """The cases that the words select; ends the program at a word that selects none."""
    words = {word.lower() for word in words} - {'scale'}
    known = {name.lower() for case in cases for name in (case.workload, case.name)}
    if words - known:
        there = ' '.join([*dict.fromkeys(case.workload for case in cases), 'scale'])
        sys.exit(f'bench: no such workload: {" ".join(sorted(words - known))}; there are: {there}')
    wanted = [case for case in cases if not words or {case.workload.lower(), case.name.lower()} & words]
    return [case for case in wanted if case.quick is not None or not quick]


def options_of(arguments, cases):
    rounds = arguments.rounds or (3 if arguments.quick else ROUNDS)
    seconds = QUICK_S / max(len(cases), 1) if arguments.quick else float('inf')
    return Options(arguments.quick, arguments.own, rounds, seconds)


def tell(lines):
    print('\n'.join(lines), end='\n\n', flush=True)


def write(path, known, options, measured, scaled):
    data = {'machine': known, 'quick': options.quick, 'rounds': options.rounds,
            'cases': [results.as_data(result) for result in measured], 'scale': [line.as_data() for line in scaled]}
    with open(path, 'w') as out:
        json.dump(data, out, indent=1, ensure_ascii=False)
        out.write('\n')


def summary(measured):
    """One line: how many goals are met."""
    verdicts = [verdict for result in measured for verdict in result.judged()]
    met, missed = (sum(verdict.met is state for verdict in verdicts) for state in (True, False))
    return f'goals: {met} met, {missed} not met, {len(verdicts) - met - missed} not compared'


def ours_failed(measured):
    return [result.case.name for result in measured for name, entry in result.entries.items()
            if name in plan.OURS and entry.failure]


def raise_descriptors():
    """What is started inherits it: a server of 10,000 connections needs as many."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def parse(words):
    usage = __doc__.split('usage: ')[1].split('\n')[0]
    parser = argparse.ArgumentParser(usage=usage, description=__doc__.split('\n')[0])
    parser.add_argument('build')
    parser.add_argument('workloads', nargs='*', metavar='W')
    parser.add_argument('--quick', action='store_true')
    parser.add_argument('--own', action='store_true')
    parser.add_argument('--rounds', type=int)
    parser.add_argument('--json')
    parser.add_argument('--plots')
    return parser.parse_intermixed_args(words)


def measure_all(cases, scales, found, options, progress):
    """What was measured until the end, or until somebody interrupted it."""
    measured, scaled = [], []
    try:
        for case in cases:
            measured.append(measure(case, found, options, progress))
            tell(results.table(measured[-1]))
        if scales:
            scaled = scale.measure(found, options, progress)
            tell(scale.table(scaled))
    except KeyboardInterrupt:
        progress.clear()
        print('interrupted: the rest was not measured')
    return measured, scaled


def main():
    arguments = parse(sys.argv[1:])
    found = programs.Programs(os.path.dirname(os.path.abspath(__file__)), arguments.build)
    scales = 'scale' in map(str.lower, arguments.workloads)
    cases = chosen(arguments.workloads, arguments.quick) if not scales or len(arguments.workloads) > 1 else []
    options, known = options_of(arguments, cases), facts.facts()
    raise_descriptors()
    tell([facts.words(known)])
    measured, scaled = measure_all(cases, scales, found, options, Progress())
    if len(measured) > 1:
        tell(results.overview(measured))
    if measured:
        print(summary(measured))
    write(arguments.json or os.path.join(arguments.build, 'bench.json'), known, options, measured, scaled)
    if measured:
        os.makedirs(arguments.plots or arguments.build, exist_ok=True)
        with open(os.path.join(arguments.plots or arguments.build, 'bench.md'), 'w') as out:
            out.write(results.markdown(measured))
    plots.draw(arguments.plots or arguments.build, measured, scaled)
    return bool(ours_failed(measured) or any(line.failure for line in scaled))


if __name__ == '__main__':
    sys.exit(main())
