"""What one operation costs as the number grows: of coroutines, timers, producers, connections, submissions."""
import dataclasses
import statistics

import plan
import programs
from results import short, with_unit

TIMEOUT_S = 60


@dataclasses.dataclass
class Line:
    """One kind: what it cost at each size, in the order of sizes."""
    kind: plan.Scale
    runs: dict = dataclasses.field(default_factory=dict)  # size: the figure of each round
    failure: str = ''

    def points(self):
        return {size: statistics.median(values) for size, values in self.runs.items() if values}

    def ratios(self):
        """To the smallest size."""
        points = self.points()
        first = next(iter(points.values()), None)
        return {size: value / first for size, value in points.items()} if first else {}

    def as_data(self):
        points, ratios = self.points(), self.ratios()
        return {'kind': self.kind.kind, 'title': self.kind.title, 'number of': self.kind.number,
                'figure': self.kind.figure, 'failed': self.failure,
                'points': [{'number': size, 'median': points[size], 'ratio': ratios.get(size), 'runs': self.runs[size]}
                           for size in points]}


def run_once(kind, size, found):
    if kind.connections:
        asking = programs.Asking('echo', size, min(size, 64), TIMEOUT_S)
        return programs.serve(found.server('w9_echo', 'duet'), asking, found)
    program = found.command('scale', 'duet')
    return programs.run([*program, f'kind={kind.kind}', f'n={size}'], TIMEOUT_S, found.child)


def one_round(line, sizes, found, show):
    for size in sizes:
        show(size)
        line.runs.setdefault(size, []).append(run_once(line.kind, size, found)[line.kind.figure])


def measure(found, options, progress):
    lines = [Line(kind) for kind in plan.SCALES]
    for number in range(1 if options.quick else options.rounds):
        for line in lines:
            if line.failure:
                continue
            try:
                one_round(line, line.kind.quick if options.quick else line.kind.sizes, found,
                          lambda size: progress.show('scale', f'round {number + 1}, {line.kind.kind} {size}'))
            except (programs.Failed, programs.Skipped, OSError) as why:
                line.failure = str(why)
    progress.clear()
    return lines


def point(size, value, ratio, figure):
    return f'{size:,}: {with_unit(value, figure)}' + (f' ({short(ratio)} ×)' if ratio != 1 else '')


def words(line):
    """Two lines: what it is, and what it cost at each size."""
    ratios = line.ratios()
    points = [point(size, value, ratios.get(size), line.kind.figure) for size, value in line.points().items()]
    failed = [f'failed: {line.failure}'] if line.failure else []
    return [f'  {line.kind.title}; by the number of {line.kind.number}', '    ' + ', '.join(points + failed)]


def table(lines):
    return ['scale: what one operation costs as the number grows, and its ratio to the smallest number',
            *(text for line in lines for text in words(line))]
