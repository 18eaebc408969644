#!/usr/bin/env python3
"""The runner of the benchmarks, with contestants that only say figures: medians, ratios, goals, tables, what is left
out, what fails, noise, servers, choosing. No time is asserted.

usage: runner.py SOURCE-DIRECTORY BUILD-DIRECTORY
"""
import contextlib
import dataclasses
import io
import json
import os
import shutil
import sys
import tempfile
import unittest
from unittest import mock

SOURCE, BUILD = sys.argv[1:3]
sys.path.insert(0, os.path.join(SOURCE, 'bench'))
import noise  # noqa: E402
import plan  # noqa: E402
import plots  # noqa: E402
import programs  # noqa: E402
import results  # noqa: E402
import run  # noqa: E402
import scale  # noqa: E402

QUIET, LOUD = noise.Noise(0, 0), noise.Noise(0.5, 0.2)
SPEED = plan.Case('X1', 'X', 'x_speed', 'so much a second', 'mps', {'work': 7},
                  (plan.Goal('mps', 20), plan.Goal('mps', 2, plan.PEER), plan.Goal('mps', 1, 'limit'),
                   plan.Goal('mps', 1, 'go'), plan.Goal('peak_mib', 10000)))
COST = plan.Case('Y1', 'Y', 'y_cost', 'so much for each', 'spawn_ns', {}, (plan.Goal('spawn_ns', 0.5, plan.PEER),),
                 quick={'a': 1})

# Says the next of its lines each time it runs.
SAYS = '''#!/bin/sh
n=$(($(cat "$0.n" 2>/dev/null || echo 0) + 1))
echo $n >"$0.n"
echo "$*" >>"$0.arguments"
sed -n "${n}p" "$0.lines" | tr ';' '\\n'
'''


class Place:
    """A source and a build directory with contestants that were made up."""

    def __init__(self, path):
        self.path, self.source, self.build = path, os.path.join(path, 'source'), os.path.join(path, 'build')
        os.makedirs(os.path.join(self.build, 'bench'))
        os.symlink(os.path.abspath(os.path.join(BUILD, 'bench', 'bench-child')),
                   os.path.join(self.build, 'bench', 'bench-child'))
        self.found = programs.Programs(self.source, self.build)

    def source_of(self, folder, contestant):
        os.makedirs(os.path.join(self.source, folder), exist_ok=True)
        open(os.path.join(self.source, folder, contestant + '.c'), 'w').close()

    def script(self, folder, contestant, text):
        """Returns its path."""
        self.source_of(folder, contestant)
        path = os.path.join(self.build, 'bench', f'{folder}-{contestant}')
        with open(path, 'w') as out:
            out.write(text)
        os.chmod(path, 0o755)
        return path

    def says(self, folder, contestant, *lines):
        path = self.script(folder, contestant, SAYS)
        with open(path + '.lines', 'w') as out:
            out.write('\n'.join(lines) + '\n')
        return path


class Test(unittest.TestCase):
    def setUp(self):
        path = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, path)
        self.place = Place(path)

    def measure(self, case, between=QUIET, **options):
        with mock.patch.object(noise, 'between', lambda *_: between):
            return run.measure(case, self.place.found, run.Options(**options), run.Progress(io.StringIO()))


class Measuring(Test):
    def test_medians_ratios_and_goals(self):
        path = self.place.says('x_speed', 'duet', 'mps 10', 'mps 30', 'mps 20')
        self.place.says('x_speed', 'limit', *['mps 40'] * 3)
        self.place.says('x_speed', 'libuv', *['mps 5'] * 3)
        self.place.says('x_speed', 'asio', *['mps 8;p50_us 3'] * 3)
        result = self.measure(SPEED, rounds=3)
        self.assertEqual(result.median('duet'), 20)
        self.assertEqual(result.best_peer(), 'asio')
        self.assertEqual(result.ratio('asio'), 2.5)
        self.assertEqual(result.ratio('limit'), 0.5)
        self.assertEqual(result.measured(), ['duet', 'limit', 'asio', 'libuv'])
        self.assertEqual([verdict.met for verdict in result.judged()], [True, True, False, None, True])
        with open(path + '.arguments') as arguments:
            self.assertEqual(arguments.read(), 'work=7\n' * 3)

    def test_less_is_better(self):
        self.place.says('y_cost', 'duet', 'spawn_ns 10')
        self.place.says('y_cost', 'libuv', 'spawn_ns 30')
        self.place.says('y_cost', 'asio', 'spawn_ns 20')
        result = self.measure(COST, rounds=1)
        self.assertEqual(result.best_peer(), 'asio')
        self.assertEqual([verdict.met for verdict in result.judged()], [True])
        self.assertEqual(plots.costs(result), {'asio': 2, 'libuv': 3})

    def test_who_does_not_do_the_same_is_no_peer(self):
        for name, value in ('duet', 10), ('asio', 30), ('fiber', 1):
            self.place.says('y_cost', name, f'spawn_ns {value}')
        result = self.measure(dataclasses.replace(COST, aside=('fiber',)), rounds=1)
        self.assertEqual(result.best_peer(), 'asio')
        self.assertIn('not compared with fiber', '\n'.join(results.table(result)))

    def test_time_and_memory_are_measured(self):
        self.place.says('y_cost', 'duet', 'spawn_ns 10')
        figures = self.measure(COST, rounds=1).entries['duet'].runs[0]
        self.assertGreaterEqual(figures['cpu_s'], 0)
        self.assertGreater(figures['peak_mib'], 0)

    def test_order_changes_every_round(self):
        self.assertEqual([run.rotated(['a', 'b', 'c'], i) for i in range(4)],
                         [['a', 'b', 'c'], ['b', 'c', 'a'], ['c', 'a', 'b'], ['a', 'b', 'c']])
        self.assertEqual(run.rotated([], 2), [])

    def test_quick_has_fewer_contestants_and_its_own_arguments(self):
        path = self.place.says('y_cost', 'duet', 'spawn_ns 10')
        self.place.says('y_cost', 'fiber', 'spawn_ns 10')
        result = self.measure(COST, rounds=1, quick=True)
        self.assertEqual(list(result.entries), ['duet'])
        with open(path + '.arguments') as arguments:
            self.assertEqual(arguments.read(), 'a=1\n')

    def test_own_leaves_the_peers_out(self):
        for name in 'duet', 'limit', 'libuv':
            self.place.says('y_cost', name, 'spawn_ns 10')
        self.assertEqual(list(self.measure(COST, rounds=1, own=True).entries), ['duet', 'limit'])

    def test_no_round_begins_that_would_end_too_late(self):
        self.place.says('y_cost', 'duet', *['spawn_ns 10'] * 9)
        self.assertEqual(len(self.measure(COST, rounds=9, seconds=0).entries['duet'].runs), 1)


class Failing(Test):
    def entry_of(self, script, case=COST):
        self.place.script(case.folder, 'duet', '#!/bin/sh\n' + script)
        self.place.says(case.folder, 'asio', *['spawn_ns 20'] * 2)
        result = self.measure(case, rounds=2)
        self.assertEqual(len(result.entries['asio'].runs), 2)  # whatever became of the other
        return result.entries['duet'], '\n'.join(results.table(result))

    def test_a_failure_is_told_with_its_message(self):
        entry, table = self.entry_of('echo spawn_ns 1; echo "it lost count" >&2; exit 3')
        self.assertEqual(entry.failure, 'exit status 3: it lost count')
        self.assertIn('duet failed: exit status 3: it lost count', table)

    def test_a_signal_is_told(self):
        entry, _ = self.entry_of('kill -SEGV $$')
        self.assertEqual(entry.failure, 'SIGSEGV: it said nothing')

    def test_a_hang_is_ended(self):
        case = plan.Case('Z', 'Z', 'z_hang', 'a hang', 'spawn_ns', timeout_s=0.5)
        entry, table = self.entry_of('sleep 1000 & wait', case)
        self.assertEqual(entry.failure, 'no end after 0.5 s')

    def test_no_figures_are_a_failure(self):
        self.assertEqual(self.entry_of('echo so far so good')[0].failure, 'no figures: so far so good')

    def test_who_has_no_such_case_is_left_out(self):
        entry, table = self.entry_of('exit 77')
        self.assertEqual((entry.skipped, entry.failure), ('no such case', ''))
        self.assertIn('left out: duet (no such case)', table)
        self.assertIn('not compared', table)

    def test_who_is_not_installed_is_left_out(self):
        self.place.says('y_cost', 'duet', 'spawn_ns 10')
        self.place.source_of('y_cost', 'libuv')
        result = self.measure(COST, rounds=1)
        self.assertIn('left out: libuv (not installed)', '\n'.join(results.table(result)))
        self.assertNotIn('asio', result.entries)

    def test_ours_failing_is_known(self):
        self.place.script('y_cost', 'duet', '#!/bin/sh\nexit 1\n')
        self.assertEqual(run.ours_failed([self.measure(COST, rounds=1)]), ['Y1'])


class Noise(Test):
    def test_a_loud_run_is_repeated_and_the_quietest_kept(self):
        noises = iter([LOUD, noise.Noise(0.04, 0), noise.Noise(0, 0.9)])
        figures = iter(['first', 'second', 'third'])
        with mock.patch.object(noise, 'between', lambda *_: next(noises)):
            kept = run.Patience(runs=100).quietest(lambda: next(figures))
        self.assertEqual(kept, ('second', noise.Noise(0.04, 0)))

    def test_a_quiet_run_is_not_repeated(self):
        with mock.patch.object(noise, 'between', lambda *_: QUIET):
            self.assertEqual(run.Patience(runs=100).quietest(iter(['only']).__next__), ('only', QUIET))

    def test_patience_ends(self):
        self.place.says('y_cost', 'duet', *['spawn_ns 10'] * 9)
        self.measure(COST, between=LOUD, rounds=4)
        with open(os.path.join(self.place.build, 'bench', 'y_cost-duet.n')) as number:
            self.assertEqual(int(number.read()), 4 + 4 // 2)

    def test_shares(self):
        before, after = noise.Moment(1, 0, 10, 0.5), noise.Moment(3, 0.5, 20, 1.5)
        self.assertEqual(noise.between(before, after), noise.Noise(0.05, 0.1))
        self.assertGreater(noise.moment().all, 0)

    def test_the_table_tells(self):
        self.place.says('y_cost', 'duet', 'spawn_ns 10')
        table = '\n'.join(results.table(self.measure(COST, between=noise.Noise(0.01, 0.2), rounds=1)))
        self.assertIn('others took 20.0 % (at most 20.0 %), the hypervisor 1.0 % (at most 1.0 %)', table)
        self.assertIn('1 of 1 runs were loud', table)


class Servers(Test):
    def serve(self, script):
        path = self.place.script('w9_echo', 'duet', '#!/bin/sh\n' + script)
        with programs.Server([path]) as server:
            return server.port, server.cpu_us(), server.peak_mib()

    def test_it_tells_its_port_and_ends_with_its_input(self):
        port, cpu_us, peak_mib = self.serve('echo port 4711; cat')
        self.assertEqual(port, 4711)
        self.assertGreaterEqual(cpu_us, 0)
        self.assertGreater(peak_mib, 0)

    def test_one_that_ends_is_told(self):
        with self.assertRaisesRegex(programs.Failed, 'exit status 2: no socket'):
            self.serve('echo no socket >&2; exit 2')

    def test_one_that_has_no_such_case_is_skipped(self):
        with self.assertRaises(programs.Skipped):
            self.serve('exit 77')

    def test_wrk(self):
        said = programs.said_by_wrk('     50%  500.00us\n     75%    1.00ms\n     99%    2.50ms\n'
                                    '  1000 requests in 2.00s, 1MB read\n')
        self.assertEqual(said, {'requests': 1000, 'krps': 0.5, 'p50_us': 500, 'p99_us': 2500})
        for wrong in '  Non-2xx or 3xx responses: 3', '  Socket errors: connect 0, read 9, write 0, timeout 0':
            with self.assertRaises(programs.Failed):
                programs.said_by_wrk('  1000 requests in 2.00s, 1MB read\n' + wrong)


class Telling(Test):
    def test_choosing(self):
        cases = [SPEED, COST]
        self.assertEqual(run.chosen([], False, cases), cases)
        self.assertEqual(run.chosen(['y'], False, cases), [COST])
        self.assertEqual(run.chosen(['X1'], False, cases), [SPEED])
        self.assertEqual(run.chosen([], True, cases), [COST])
        with self.assertRaisesRegex(SystemExit, 'no such workload: w99'):
            run.chosen(['W99'], False, cases)

    def test_numbers(self):
        self.assertEqual([results.short(value) for value in (0, 0.01234, 1.5, 123.456, 1234.5)],
                         ['0', '0.0123', '1.5', '123', '1,234'])
        figures = 'p50_us', 'spawn_ns', 'cpu_ms', 'mps', 'bytes', 'tables_bytes', 'cpu_s'
        self.assertEqual([results.heading(figure) for figure in figures],
                         ['p50 µs', 'spawn ns', 'CPU ms', 'M/s', 'B', 'tables B', 'CPU s'])

    def test_columns_are_aligned(self):
        self.assertEqual(results.aligned([['', 'a', 'bb'], ['name', '10', 'x']]), ['       a  bb', 'name  10   x'])

    def test_the_file(self):
        self.place.says('y_cost', 'duet', 'spawn_ns 10')
        self.place.source_of('y_cost', 'libuv')
        path = os.path.join(self.place.path, 'bench.json')
        kind = scale.Line(plan.Scale('spawn', 'spawn', 'alive', 'ns', (1, 10), ()), {1: [2, 4, 6], 10: [8]})
        run.write(path, {}, run.Options(), [self.measure(COST, rounds=1)], [kind])
        with open(path) as file:
            data = json.load(file)
        contestants = data['cases'][0]['contestants']
        self.assertEqual(contestants['duet']['medians']['spawn_ns'], 10)
        self.assertEqual(contestants['libuv'], {'left out': 'not installed'})
        self.assertEqual([point['ratio'] for point in data['scale'][0]['points']], [1, 2])

    def test_the_scale(self):
        kind = plan.Scale('spawn', 'spawn it', 'coroutines', 'ns', (1, 1000), ())
        self.assertEqual(scale.table([scale.Line(kind, {1: [2, 4, 6], 1000: [8]}), scale.Line(kind, failure='no')])[1:],
                         ['  spawn it; by the number of coroutines', '    1: 4 ns, 1,000: 8 ns (2 ×)',
                          '  spawn it; by the number of coroutines', '    failed: no'])

    def test_every_goal_can_be_judged(self):
        for case in plan.CASES:
            entry = results.Entry([{case.figure: 1, **{goal.figure: 1 for goal in case.goals}}])
            result = results.Result(case, {name: entry for name in plan.CONTESTANTS})
            self.assertTrue(all(verdict.met is not None for verdict in result.judged()), case.name)
            self.assertTrue(results.table(result))

    def test_names_of_cases_are_their_own(self):
        names = [case.name for case in plan.CASES]
        self.assertEqual(len(names), len(set(names)))

    @unittest.skipUnless(shutil.which('gnuplot'), 'gnuplot is not installed')
    def test_plots(self):
        for name, value in ('duet', 10), ('limit', 9), ('asio', 20):
            self.place.says('y_cost', name, f'spawn_ns {value}')
        kind = scale.Line(plan.SCALES[0], {1: [2], 10: [3]})
        plots.draw(self.place.path, [self.measure(COST, rounds=1)], [kind])
        for name in 'bench.svg', 'bench-scale.svg':
            with open(os.path.join(self.place.path, name)) as picture:
                self.assertIn('</svg>', picture.read())


class All(Test):
    def test_the_whole_program(self):
        self.place.says('y_cost', 'duet', *['spawn_ns 10'] * 9)
        out = io.StringIO()
        with mock.patch.object(plan, 'CASES', [COST]), mock.patch.object(run, 'chosen', lambda *_: [COST]), \
                mock.patch.object(sys, 'argv', ['run.py', self.place.build, 'Y', '--rounds', '2']), \
                mock.patch.object(programs, 'Programs', lambda *_: self.place.found), contextlib.redirect_stdout(out), \
                contextlib.redirect_stderr(io.StringIO()):
            self.assertFalse(run.main())
        self.assertIn('Y1: so much for each (less is better; medians of 2)', out.getvalue())
        self.assertIn('goals: 0 met, 0 not met, 1 not compared', out.getvalue())
        self.assertTrue(os.path.exists(os.path.join(self.place.build, 'bench.json')))


if __name__ == '__main__':
    unittest.main(argv=sys.argv[:1])
