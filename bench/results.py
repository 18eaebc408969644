"""From runs to what is told of a case: medians, ratios, whether goals are met, and the table."""
import dataclasses
import re
import statistics

import plan


@dataclasses.dataclass
class Entry:
    """What one contestant did in one case: its runs, each a dictionary of figures, and how noisy each was."""
    runs: list = dataclasses.field(default_factory=list)
    noises: list = dataclasses.field(default_factory=list)
    failure: str = ''
    skipped: str = ''

    def values(self, figure):
        return [run[figure] for run in self.runs if figure in run]

    def median(self, figure):
        values = self.values(figure)
        return statistics.median(values) if values else None


@dataclasses.dataclass
class Result:
    case: plan.Case
    entries: dict  # by contestant

    def median(self, contestant, figure=None):
        entry = self.entries.get(contestant)
        return entry and entry.median(figure or self.case.figure)

    def measured(self):
        """Contestants that have the case's figure: ours, the limits, the peers from the best on."""
        names = [name for name in self.entries if self.median(name) is not None]
        return sorted(names, key=self.place)

    def place(self, name):
        kind = 0 if name == self.case.ours else 1 if name in plan.OURS else 2 if name in plan.LIMITS else 3
        value = self.median(name)
        return kind, -value if self.case.figure in plan.MORE_IS_BETTER else value

    def best_peer(self, figure=None):
        figure = figure or self.case.figure
        peers = [name for name in self.entries
                 if name not in (*plan.OURS, *plan.LIMITS, *self.case.aside) and self.median(name, figure) is not None]
        sign = -1 if figure in plan.MORE_IS_BETTER else 1
        return min(peers, key=lambda name: sign * self.median(name, figure), default=None)

    def ratio(self, contestant, figure=None):
        """Ours to another's; None if one of them is not there."""
        ours, other = self.median(self.case.ours, figure), self.median(contestant, figure) if contestant else None
        return ours / other if ours is not None and other else None

    def judged(self):
        return [judge(self, goal) for goal in self.case.goals]

    def noises(self):
        return [noise for entry in self.entries.values() for noise in entry.noises]


# ---- Goals ----

@dataclasses.dataclass(frozen=True)
class Verdict:
    text: str
    value: float  # ours; None: it is not there
    met: bool  # None: there is nothing to compare

    def words(self):
        if self.met is None:
            return f'{self.text}: not compared'
        return f'{self.text}: {short(self.value)}, {"met" if self.met else "NOT MET"}'


def judge(result, goal):
    sign = '≥' if goal.figure in plan.MORE_IS_BETTER else '≤'
    ours = result.median(result.case.ours, goal.figure)
    if not goal.of:
        return verdict(f'{goal.figure} {sign} {with_unit(goal.value, goal.figure)}', ours, goal.value, goal.figure)
    other = result.best_peer(goal.figure) if goal.of == plan.PEER else goal.of
    theirs = result.median(other, goal.figure) if other else None
    name = f'{goal.of}, {other},' if goal.of == plan.PEER and other else goal.of
    if theirs is None:
        return Verdict(f'{goal.figure} {sign} {goal.value:g} × {name}', ours, None)
    bound = goal.value * theirs
    return verdict(f'{goal.figure} {sign} {goal.value:g} × {name} = {short(bound)}', ours, bound, goal.figure)


def verdict(text, ours, bound, figure):
    return Verdict(text, ours, None if ours is None else ours == bound or plan.better(figure, ours, bound))


# ---- Words ----

def short(value):
    """Three digits that count."""
    if value is None:
        return ''
    return f'{value:,.0f}' if abs(value) >= 1000 else f'{value:.3g}'


def with_unit(value, figure):
    return '' if value is None else f'{short(value)} {plan.unit(figure)}'.strip()


def heading(figure):
    return f'{plan.NAMES.get(figure, re.sub("_(us|ns|ms|s|mib|bytes)$", "", figure))} {plan.unit(figure)}'.strip()


def other_figures(result):
    """Those beside the case's own, in the order in which programs tell them; time and memory last."""
    names = list(dict.fromkeys(name for entry in result.entries.values() for run in entry.runs for name in run))
    last = ['cpu_s', 'peak_mib']
    names = [name for name in names if name not in last] + [name for name in last if name in names]
    return [name for name in names if name not in (result.case.figure, 'requests')]


def spread(values):
    return f'{short(min(values))} – {short(max(values))}'


def line(result, name, figures):
    entry = result.entries[name]
    ratio = result.ratio(name) if name != result.case.ours else None
    return [name, short(entry.median(result.case.figure)), spread(entry.values(result.case.figure)),
            *(short(entry.median(figure)) for figure in figures), times(ratio)]


def aligned(rows):
    """The first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ['  '.join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]


def table(result):
    """All that is told of a case, as lines."""
    case, figures = result.case, other_figures(result)
    rows = [['', heading(case.figure), 'min – max', *map(heading, figures), f'{case.ours} : it']]
    rows += [line(result, name, figures) for name in result.measured()]
    which = 'more' if case.figure in plan.MORE_IS_BETTER else 'less'
    rounds = max((len(entry.runs) for entry in result.entries.values()), default=0)
    title = f'{case.name}: {case.title} ({which} is better; medians of {rounds})'
    body = aligned(rows) if len(rows) > 1 else []
    return [title, *('  ' + text for text in body + list(foot(result)))]


def foot(result):
    yield from compared(result)
    yield from ('goal: ' + verdict.words() for verdict in result.judged())
    aside = [name for name in result.case.aside if result.median(name) is not None]
    if aside:
        yield f'not compared with {", ".join(aside)}, which does not do the same'
    failed = [f'{name} failed: {entry.failure}' for name, entry in result.entries.items() if entry.failure]
    yield from failed
    left_out = [f'{name} ({entry.skipped})' for name, entry in result.entries.items() if entry.skipped]
    if left_out:
        yield 'left out: ' + ', '.join(left_out)
    if result.noises():
        yield noise_words(result.noises())


def compared(result):
    peer, limits = result.best_peer(), [name for name in plan.LIMITS if result.ratio(name)]
    parts = [f'{times(result.ratio(peer))} the best peer, {peer}'] if peer and result.ratio(peer) else []
    parts += [f'{times(result.ratio(name))} {name if name != "limit" else "the limit"}' for name in limits]
    if parts:
        yield f'{result.case.ours}: {"; ".join(parts)}'


def noise_words(noises):
    stolen, others = [n.stolen * 100 for n in noises], [n.others * 100 for n in noises]
    loud = sum(n.loud() for n in noises)
    return (f'noise: others took {statistics.median(others):.1f} % (at most {max(others):.1f} %), the hypervisor '
            f'{statistics.median(stolen):.1f} % (at most {max(stolen):.1f} %); {loud} of {len(noises)} runs were loud')


# ---- All cases in one table ----

def overview(measured):
    rows = [['', 'duet', 'the limit', 'duet : it', 'the best peer', '', 'duet : it', 'goals met']]
    return aligned(rows + [overview_line(result) for result in measured])


def overview_line(result):
    figure, peer, met = result.case.figure, result.best_peer(), [verdict.met for verdict in result.judged()]
    ours, limit, theirs = (with_unit(result.median(name), figure) for name in (result.case.ours, 'limit', peer))
    return [result.case.name, ours, limit, times(result.ratio('limit')), peer or '', theirs, times(result.ratio(peer)),
            f'{met.count(True)} of {len(met)}']


def times(ratio):
    return f'{short(ratio)} ×' if ratio is not None else ''


def markdown(measured):
    """The same for a README."""
    rows = [['case', 'what', 'duet', 'the limit', 'the best peer'], ['---'] * 5]
    for result in measured:
        case, ours, limit, _, peer, theirs, _, _ = overview_line(result)
        rows.append([case, result.case.title, ours, limit, f'{peer} {theirs}'.strip()])
    return ''.join(f'| {" | ".join(row)} |\n' for row in rows)


# ---- For the files ----

def as_data(result):
    case = result.case
    return {'case': case.name, 'workload': case.workload, 'title': case.title, 'figure': case.figure,
            'unit': plan.unit(case.figure), 'more is better': case.figure in plan.MORE_IS_BETTER, 'ours': case.ours,
            'contestants': {name: entry_as_data(result, name) for name in result.entries},
            'best peer': result.best_peer(), 'ratio to the best peer': result.ratio(result.best_peer()),
            'ratio to the limit': result.ratio('limit'),
            'goals': [dataclasses.asdict(verdict) for verdict in result.judged()]}


def entry_as_data(result, name):
    entry = result.entries[name]
    if entry.skipped:
        return {'left out': entry.skipped}
    figures = list(dict.fromkeys(figure for run in entry.runs for figure in run))
    data = {'medians': {figure: entry.median(figure) for figure in figures}, 'runs': entry.runs,
            'noise': [dataclasses.asdict(noise) for noise in entry.noises]}
    return {**data, 'failed': entry.failure} if entry.failure else data
