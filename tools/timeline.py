#!/usr/bin/env python3
"""Draws a trace that duet wrote (DUET_TRACE=trace.json) as one picture without scripts, for a page or a README.

usage: timeline.py TRACE.json OUT.svg [--title T] [--from MS] [--to MS] [--enlarge]

A lane for each thread: loops first, each with a row for every coroutine under it, then the workers of pools, then
plain threads. What waits is pale, and says for what; arrows lead from who started or woke a work to the step that
followed. Where everything happens within a few microseconds, --enlarge stretches such moments until they can be
told apart, and marks them.
"""
import argparse
import bisect
import collections
import errno
import json
import math
import os
import re
import sys
from xml.sax.saxutils import escape, quoteattr

WIDTH, GUTTER, RIGHT = 1000, 170, 24
PLOT = WIDTH - GUTTER - RIGHT
NARROW = 3.0  # pixels: nothing is drawn narrower
ROWS = 16  # rows of coroutines under a loop, at most; and how many threads of a kind
ARROWS = 120  # at most; from half of that on, they are faint
FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue','DejaVu Sans',Arial,sans-serif"
PAPER, LANE, GRID, INK, FAINT, ARROW = '#ffffff', '#f3f5f8', '#e3e7ec', '#1f2933', '#66727f', '#3d4852'
FAILED, ENLARGED = '#d1242f', '#fdf6e3'
COLOURS = ['#3b74bd', '#d97f24', '#2f9668', '#8a5cb8', '#c4485c', '#1f97a3', '#97772a', '#5d6f86']

Slice = collections.namedtuple('Slice', 'start end name work')  # moments in ms from the start; work: its id, or None


class Work:
    """A coroutine's or callback's life."""

    def __init__(self, number, name, born):
        self.number, self.name, self.born, self.died, self.err = number, name, born, None, 0
        self.steps, self.waits, self.lane = [], [], None


class Lane:
    """A thread and what ran on it."""

    def __init__(self, key):
        self.key, self.name, self.sort = key, f'thread {key[1]}', 0
        self.steps, self.jobs, self.waits, self.submits, self.works = [], [], [], [], []
        self.parts = []  # stretches in which a job runs: what its waits leave
        self.starts, self.job_starts, self.wait_starts = [], [], []

    def kind(self):
        """0 of a loop, 1 of a worker, 2 of another thread."""
        if self.steps or self.name.startswith('loop '):
            return 0
        return 1 if self.jobs or self.waits or self.parts else 2

    def natural(self):
        """To sort: demo-2 comes before demo-10."""
        return self.kind(), [int(p) if p.isdigit() else p for p in re.split(r'(\d+)', self.name)], self.key

    def waits_near(self, t):
        """The first that begins then or later."""
        i = bisect.bisect_left(self.wait_starts, t)
        return self.waits[i:i + 1]

    def empty(self):
        return not (self.steps or self.jobs or self.submits or self.works)


class Trace:
    def __init__(self, events):
        events = [e for e in events if isinstance(e, dict)]
        timed = [e for e in events if e.get('ph') in ('X', 'b', 'e', 's', 'f', 'C')]
        self.zero = min((e['ts'] for e in timed), default=0.0)
        self.end = max((self.ms(e['ts'] + e.get('dur', 0)) for e in timed), default=0.0)
        self.process, self.lanes, self.works, self.arrows = None, {}, {}, []
        self.read_metadata(events)
        self.read_slices(events)
        self.read_lives(events)
        self.read_arrows(events)
        for work in self.works.values():
            if work.lane is not None:
                work.lane.works.append(work)

    def ms(self, ts):
        return (ts - self.zero) / 1000

    def lane(self, event):
        key = event.get('pid', 0), event.get('tid', 0)
        return self.lanes.setdefault(key, Lane(key))

    def read_metadata(self, events):
        for e in events:
            if e.get('ph') == 'M' and e['name'] == 'process_name':
                self.process = e['args']['name']
            elif e.get('ph') == 'M' and e['name'] == 'thread_name':
                self.lane(e).name = e['args']['name']

    def read_slices(self, events):
        for e in events:
            if e.get('ph') != 'X':
                continue
            lane, number = self.lane(e), e.get('args', {}).get('id')
            piece = Slice(self.ms(e['ts']), self.ms(e['ts'] + e['dur']), e['name'], number)
            if e.get('cat') == 'step' and e.get('args', {}).get('kind') == 'job':
                lane.parts.append(piece)
            else:
                {'step': lane.steps, 'job': lane.jobs, 'wait': lane.waits}.get(e.get('cat'), lane.submits).append(piece)
        for lane in self.lanes.values():
            for pieces in (lane.steps, lane.jobs, lane.waits, lane.submits):
                pieces.sort(key=lambda s: (s.start, -s.end))
            lane.starts, lane.job_starts, lane.wait_starts = (
                [s.start for s in pieces] for pieces in (lane.steps, lane.jobs, lane.waits))

    def read_lives(self, events):
        """What begins first with an id is the life; what begins within it, a wait."""
        jobs = {s.work for lane in self.lanes.values() for s in lane.jobs}
        born_on, inside = {}, {}
        for e in sorted((e for e in events if e.get('ph') in ('b', 'e') and e.get('cat') == 'work'),
                        key=lambda e: e['ts']):
            number, now = self.number(e), self.ms(e['ts'])
            work = self.works.get(number)
            if e['ph'] == 'b' and work is None:
                self.works[number] = Work(number, e['name'], now)
                born_on[number] = self.lane(e)
            elif work is None:
                continue
            elif e['ph'] == 'b':
                inside[number] = now, e['name']
            elif number in inside:
                start, name = inside.pop(number)
                work.waits.append(Slice(start, now, name, number))
            else:
                work.died, work.err = now, e.get('args', {}).get('err', 0)
        for number, (start, name) in inside.items():  # it waited to the end of the trace
            self.works[number].waits.append(Slice(start, self.end, name, number))
        self.give_lanes(jobs, born_on)

    @staticmethod
    def number(event):
        """Of a work: what is told, or else its id, "w7" or "0x7"."""
        told = event.get('args', {}).get('id')
        if isinstance(told, int):
            return told
        text = str(event['id'])
        digits = re.search('[0-9]+$', text)
        return int(text, 16) if text.startswith('0x') else int(digits[0]) if digits else text

    def give_lanes(self, jobs, born_on):
        """A coroutine belongs to the loop that ran it; one that never ran, to the loop on which it was born."""
        for lane in self.lanes.values():
            for step in lane.steps:
                work = self.works.get(step.work)
                if work is not None:
                    work.steps.append(step)
                    work.lane = lane
        for number, lane in born_on.items():
            if number in jobs:
                del self.works[number]
            elif self.works[number].lane is None and lane.kind() == 0:
                self.works[number].lane = lane

    def read_arrows(self, events):
        starts = {(e.get('cat'), e['id']): e for e in events if e.get('ph') == 's'}
        for e in events:
            start = starts.get((e.get('cat'), e['id'])) if e.get('ph') == 'f' else None
            if start is not None:
                self.arrows.append((self.lane(start), self.ms(start['ts']), self.lane(e), self.ms(e['ts'])))

    def moments(self):
        """When something begins or ends on a thread, in their order."""
        found = set()
        for lane in self.lanes.values():
            for pieces in (lane.steps, lane.jobs, lane.waits):
                for s in pieces:
                    found.update((s.start, s.end))
            if lane.kind() == 2:
                found.update(s.start for s in lane.submits)
        return sorted(found)


class Axis:
    """From milliseconds to pixels: straight, or bent so that moments stay apart."""

    def __init__(self, start, end, moments=None):
        self.start, self.end = start, max(end, start + 1e-6)
        self.times, self.xs, self.stretched = [self.start, self.end], [GUTTER, GUTTER + PLOT], []
        if moments is not None:
            self.bend(moments)

    def bend(self, moments):
        times, apart = [self.start], (self.end - self.start) * 4e-7
        for t in moments:
            if times[-1] + apart < t < self.end - apart:
                times.append(t)
        times.append(self.end)
        spans = [b - a for a, b in zip(times, times[1:])]
        least = min(13.0, 0.66 * PLOT / len(spans))
        if least < 2:  # too many to tell apart
            return
        low, high = 0.0, PLOT / (self.end - self.start)
        for _ in range(80):  # the scale at which all that is left fills the width
            scale = (low + high) / 2
            low, high = (scale, high) if sum(max(least, scale * s) for s in spans) < PLOT else (low, scale)
        widths = [max(least, low * s) for s in spans]
        fill = PLOT / sum(widths)
        self.times, self.xs = times, [GUTTER]
        for width in widths:
            self.xs.append(self.xs[-1] + width * fill)
        self.find_stretched(spans, low)

    def find_stretched(self, spans, scale):
        """Where a millisecond is much wider than elsewhere, as (from, to) in ms."""
        for i, span in enumerate(spans):
            if self.xs[i + 1] - self.xs[i] > 3 * scale * span:
                if self.stretched and self.stretched[-1][1] == self.times[i]:
                    self.stretched[-1][1] = self.times[i + 1]
                else:
                    self.stretched.append([self.times[i], self.times[i + 1]])

    def x(self, t):
        t = min(max(t, self.start), self.end)
        i = min(max(bisect.bisect_right(self.times, t) - 1, 0), len(self.times) - 2)
        a, b = self.times[i], self.times[i + 1]
        part = (t - a) / (b - a) if b > a else 0.0
        return self.xs[i] + part * (self.xs[i + 1] - self.xs[i])

    def ticks(self):
        rough = (self.end - self.start) / 9
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= rough * 0.999)
        first = math.ceil(self.start / step - 1e-9)
        return step, [i * step for i in range(first, math.floor(self.end / step + 1e-9) + 1)]


class Box:
    """Slices that share one rectangle, since they would be too narrow alone."""

    def __init__(self, x0, x1, piece):
        self.x0, self.x1, self.pieces = x0, x1, [piece]


def boxes(pieces, axis):
    """Rectangles for slices that do not overlap: as wide as they last, but none narrower than can be seen."""
    result = []
    for piece in pieces:
        if piece.end < axis.start or piece.start > axis.end:
            continue
        x0, x1 = axis.x(piece.start), axis.x(piece.end)
        last = result[-1] if result else None
        if last is not None and x0 < last.x1:
            if x1 - last.x1 < NARROW:
                last.pieces.append(piece)
                last.x1 = max(last.x1, x1)
                continue
            x0 = last.x1
        x0 = min(x0, GUTTER + PLOT - NARROW)
        result.append(Box(x0, max(x1, x0 + NARROW), piece))
    return result


def widen(found, want):
    """Gives boxes of several slices more width, where nothing follows."""
    for i, box in enumerate(found):
        limit = found[i + 1].x0 if i + 1 < len(found) else GUTTER + PLOT
        box.x1 = max(box.x1, min(box.x0 + want(box), limit))
    return found


def clean(text):
    """Without what XML cannot hold, in no escape either."""
    return re.sub('[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]', '\ufffd', str(text))


def plain(text):
    return escape(clean(text))


def fit(text, pixels, size):
    """As much of the text as has room there; a character is about 0.55 of its size wide."""
    room = int(pixels / (size * 0.55))
    return text if len(text) <= room else text[:room - 1].rstrip() + '…' if room > 16 else ''


def duration(ms):
    if ms >= 1000:
        return f'{ms / 1000:.3g} s'
    return f'{ms:.3g} ms' if ms >= 1 else f'{ms * 1000:.3g} µs'


def paler(colour, part):
    return '#' + ''.join(f'{round(int(colour[i:i + 2], 16) * (1 - part) + 255 * part):02x}' for i in (1, 3, 5))


def several(names, most=5):
    counts = collections.Counter(names).most_common()
    said = [n if k == 1 else f'{n} ×{k}' for n, k in counts[:most]]
    return ', '.join(said) + (f' and {len(counts) - most} more' if len(counts) > most else '')


class Picture:
    def __init__(self, trace, axis, title):
        self.trace, self.axis, self.title = trace, axis, title
        self.back, self.grids, self.body, self.paths, self.over = [], [], [], [], []  # one over the other
        self.patterns, self.colours, self.rows = {}, {}, {}
        self.y = 0

    # ---- Pieces of SVG ----

    def colour(self, name):
        return self.colours.setdefault(name, COLOURS[len(self.colours) % len(COLOURS)])

    def hatched(self, colour):
        if colour not in self.patterns:
            self.patterns[colour] = f'h{len(self.patterns)}'
        return f'url(#{self.patterns[colour]})'

    def rect(self, x0, y, width, height, fill, tip=None, more='', to=None):
        tip = f'<title>{plain(tip)}</title>' if tip else ''
        size = f'width="{max(width, 0.4):.1f}" height="{height:.1f}"'
        (self.body if to is None else to).append(
            f'<rect x="{x0:.1f}" y="{y:.1f}" {size} fill="{fill}"{more}' + (f'>{tip}</rect>' if tip else '/>'))

    def text(self, x, y, text, size=11, fill=INK, more='', to=None):
        (self.body if to is None else to).append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}"{more}>{plain(text)}</text>')

    def tip(self, piece, doing):
        number = '' if piece.work is None else f' (#{piece.work})'
        return f'{piece.name}{number}: {doing} {duration(piece.end - piece.start)}, from {piece.start:.3f} ms on'

    def box_tip(self, box, doing):
        if len(box.pieces) == 1:
            return self.tip(box.pieces[0], doing)
        spent = sum(p.end - p.start for p in box.pieces)
        return f'{len(box.pieces)} slices from {box.pieces[0].start:.3f} ms on, {duration(spent)} in all: ' + \
            several(p.name for p in box.pieces)

    # ---- Lanes ----

    def label(self, text, y, bold=False):
        self.text(16, y, fit(text, GUTTER - 26, 12.5), 12.5, INK, ' font-weight="600"' if bold else '')

    def stripes(self, box, y, height, tip):
        """One box in the colours of all that are in it, in their order."""
        names = list(dict.fromkeys((p.name, p.work) for p in box.pieces))[:6]
        wide = (box.x1 - box.x0) / len(names)
        for i, (name, _) in enumerate(names):
            self.rect(box.x0 + i * wide, y, wide - (0.6 if len(names) > 1 and wide > 2 else 0), height,
                      self.colour(name), tip)

    def run_lane(self, pieces, y, height, doing):
        def want(box):
            return min(4, len({p.work for p in box.pieces})) * 3.0 if len(box.pieces) > 1 else NARROW
        for box in widen(boxes(pieces, self.axis), want):
            self.stripes(box, y, height, self.box_tip(box, doing))

    def loop(self, lane):
        self.y += 12
        self.rect(GUTTER, self.y, PLOT, 24, LANE, to=self.back)
        self.label(lane.name, self.y + 16.5, True)
        for step in lane.steps:  # colours in the order in which works first ran
            self.colour(step.name)
        self.run_lane(lane.steps, self.y + 3, 18, 'runs')
        self.rows[lane.key] = {None: (self.y + 3, self.y + 21)}
        self.y += 28
        self.coroutines(lane)

    def coroutines(self, lane):
        seen = [w for w in lane.works if w.born <= self.axis.end and (w.died is None or w.died >= self.axis.start)]
        seen.sort(key=lambda w: (w.born, w.number))
        rows, left = [[w] for w in seen], 0
        if len(rows) > ROWS:
            rows, left = self.pack(seen)
        often = collections.Counter(w.name for w in seen)
        for row in rows:
            name = row[0].name
            if len(row) > 1:
                name, number = f'{len(row)} coroutines', ''
            else:
                number = f'#{row[0].number}' if often[name] > 1 else ''
            self.row_label(name, number, self.y + 12, self.colour(row[0].name) if len(row) == 1 else FAINT)
            for work in row:
                self.life(work, self.y)
                self.rows[lane.key][work.number] = self.y + 2, self.y + 15
            self.y += 18
        if left:
            self.text(GUTTER, self.y + 11, f'… and {left} further coroutines', 10.5, FAINT, ' font-style="italic"')
            self.y += 18

    def pack(self, works):
        """The longest lives, in few rows: (rows, how many are left out)."""
        long = sorted(works, key=lambda w: w.born - (self.trace.end if w.died is None else w.died))[:ROWS * 40]
        rows, ends = [], []
        for work in sorted(long, key=lambda w: (w.born, w.number)):
            x0 = self.axis.x(work.born)
            x1 = max(self.axis.x(self.trace.end if work.died is None else work.died), x0 + NARROW)
            free = next((i for i, end in enumerate(ends) if end <= x0), None)
            if free is not None:
                rows[free].append(work)
                ends[free] = x1 + 1
            elif len(rows) < ROWS:
                rows.append([work])
                ends.append(x1 + 1)
        return rows, len(works) - sum(map(len, rows))

    def row_label(self, name, number, y, colour):
        self.rect(26, y - 8, 8, 8, colour, more=' rx="2"')
        name = fit(name, GUTTER - 60 - 6 * len(number), 11)
        self.body.append(f'<text x="40" y="{y}" font-size="11" fill="{INK}">{plain(name)}'
                         f'<tspan dx="3" fill="{FAINT}" font-size="9.5">{plain(number)}</tspan></text>')

    def life(self, work, y):
        colour, end = self.colour(work.name), self.trace.end if work.died is None else work.died
        x0, x1 = self.axis.x(work.born), self.axis.x(end)
        life = f'{work.name} (#{work.number}): lives {duration(end - work.born)}, from {work.born:.3f} ms on'
        if work.err:
            life += f'; ended with -{errno.errorcode.get(-work.err, -work.err)}'
        settled = work.died is not None and work.steps and 0 <= end - work.steps[-1].end < 0.05
        shown = self.axis.x(work.steps[-1].end) if settled else x1  # not the moment in which its waiters are told
        self.rect(x0, y + 6, max(shown - x0, NARROW), 5, paler(colour, 0.55), life)
        for box in boxes(work.waits, self.axis):
            self.wait(box, y + 2.5, 12, paler(colour, 0.84), 9.5, paler(colour, 0.6))
        for box in boxes(work.steps, self.axis):
            self.rect(box.x0, y + 2, box.x1 - box.x0, 13, colour, self.box_tip(box, 'runs'), ' rx="1"')
        if work.err and self.axis.start <= end <= self.axis.end:
            self.rect(x1 - 1, y + 1, 3, 15, FAILED, life)

    def wait(self, box, y, height, fill, size, edge=None, who=''):
        stroke = f' stroke="{edge}" stroke-width="0.7"' if edge else ''
        self.rect(box.x0, y, box.x1 - box.x0, height, fill, self.box_tip(box, 'for'), stroke)
        name = fit(who + box.pieces[0].name, box.x1 - box.x0 - 12, size) if len(box.pieces) == 1 else ''
        if name:
            self.text((box.x0 + box.x1) / 2, y + height / 2 + size * 0.36, name, size, INK,
                      ' text-anchor="middle" class="halo"', self.over)

    def worker(self, lane):
        self.rect(GUTTER, self.y, PLOT, 22, LANE, to=self.back)
        self.label(lane.name, self.y + 15.5)
        found = boxes(lane.jobs, self.axis)
        for box in found:
            self.stripes(box, self.y + 2, 18, self.box_tip(box, 'takes'))
        wide = [b for b in boxes(lane.waits, self.axis) if b.x1 - b.x0 > NARROW]
        for box in wide:
            job = next((s for s in lane.jobs if s.work == box.pieces[0].work), None)
            colour = self.colour(job.name if job else box.pieces[0].name)
            self.wait(box, self.y + 2, 18, self.hatched(colour), 10.5, who=f'{job.name} ' if job else '')
        for box in found:
            name = fit(box.pieces[0].name, box.x1 - box.x0 - 8, 10.5) if len(box.pieces) == 1 else ''
            if name and not any(w.x0 < box.x1 and w.x1 > box.x0 for w in wide):
                self.text((box.x0 + box.x1) / 2, self.y + 15, name, 10.5, PAPER, ' text-anchor="middle"', self.over)
        self.rows[lane.key] = {None: (self.y + 2, self.y + 20)}
        self.y += 26

    def thread(self, lane):
        self.rect(GUTTER, self.y, PLOT, 16, LANE, to=self.back)
        self.label(lane.name, self.y + 12)
        for box in boxes(lane.submits, self.axis):
            self.rect(box.x0, self.y + 2, box.x1 - box.x0, 12, FAINT, self.box_tip(box, 'takes'), ' rx="1"')
        self.rows[lane.key] = {None: (self.y + 2, self.y + 14)}
        self.y += 20

    def lanes(self):
        lanes = sorted((lane for lane in self.trace.lanes.values() if not lane.empty()), key=Lane.natural)
        for kind, draw in enumerate((self.loop, self.worker, self.thread)):
            found = [lane for lane in lanes if lane.kind() == kind]
            for lane in found[:ROWS * 2]:
                draw(lane)
            if found[ROWS * 2:]:
                self.text(GUTTER, self.y + 11, f'… and {len(found) - ROWS * 2} further threads', 10.5, FAINT,
                          ' font-style="italic"')
                self.y += 18
            if found:
                self.y += 8

    # ---- What lies over the lanes ----

    def place(self, lane, t):
        """(Top and bottom of the coroutine that ran there then, or else of the lane, moment); None: it is not shown.
        What a work wakes by its end, comes a moment after its last step."""
        rows = self.rows.get(lane.key)
        if rows is None or not self.axis.start <= t <= self.axis.end:
            return None
        pieces, starts = (lane.jobs, lane.job_starts) if lane.kind() == 1 else (lane.steps, lane.starts)
        i = bisect.bisect_right(starts, t + 1e-6) - 1
        if i < 0 or t > pieces[i].end + 1e-6 and not self.settles(pieces[i], t):
            return rows[None], t
        return rows.get(pieces[i].work, rows[None]), min(t, pieces[i].end)

    def arrival(self, lane, t):
        """Likewise, of an arrow's end: what starts a job ends at its start, though its function may begin later."""
        if lane.kind() == 1:
            i = bisect.bisect_right(lane.job_starts, t + 1e-6) - 1
            if i >= 0 and not any(lane.jobs[i].start <= s.start < t for s in lane.waits_near(lane.jobs[i].start)):
                t = lane.jobs[i].start
        return self.place(lane, t)

    def settles(self, piece, t):
        work = self.trace.works.get(piece.work)
        died = piece.end if work is None else work.died
        return died is not None and abs(died - t) < 0.02 and t - piece.end < 0.05

    def arrows(self):
        drawn = {}
        for lane, t, to_lane, to_t in self.trace.arrows:
            a, b = self.place(lane, t), self.arrival(to_lane, to_t)
            if a is not None and b is not None and a[0] != b[0]:
                (a, t), (b, to_t) = a, b
                x, to_x = self.axis.x(t), self.axis.x(to_t)
                drawn.setdefault((a, b, round(x / 4), round(to_x / 4)), (x, to_x))
        every = max(1, math.ceil(len(drawn) / ARROWS))
        faint = ' stroke-opacity="0.35"' if len(drawn) > ARROWS / 2 else ''
        self.paths.append(f'<g{faint}>')
        for i, ((a, b, _, _), (x, to_x)) in enumerate(drawn.items()):
            if i % every == 0:
                self.arrow(x, a, to_x, b)
        self.paths.append('</g>')
        return every

    def arrow(self, x, a, to_x, b):
        """Leaves the edge that faces the other, and comes in from the left."""
        y, to_y = (a[1], b[0]) if b[0] > a[0] else (a[0], b[1])
        way = 1 if to_y > y else -1
        reach = min(16, 5 + abs(to_y - y) / 4)
        self.paths.append(f'<path class="a" d="M{x:.1f} {y:.1f}C{x:.1f} {y + way * reach:.1f} {to_x:.1f} '
                         f'{to_y - way * reach:.1f} {to_x:.1f} {to_y - way * 1.5:.1f}"/>')

    def grid(self, top):
        step, ticks = self.axis.ticks()
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        for start, end in self.axis.stretched:
            x0, x1 = self.axis.x(start), self.axis.x(end)
            self.rect(x0, top, x1 - x0, self.y - top, ENLARGED, to=self.grids)
            if x1 - x0 > 36:
                self.text((x0 + x1) / 2, top - 5, duration(end - start), 9.5, '#9a6700',
                          ' text-anchor="middle" font-style="italic"', self.grids)
        last = -100.0
        for t in ticks:
            x = self.axis.x(t)
            inside = any(a < t < b for a, b in self.axis.stretched)
            self.grids.append(f'<path d="M{x:.1f} {top}V{self.y}" stroke="{GRID}" stroke-width="1"/>')
            if x - last > 46 and not inside:
                said = f'{t:.{digits}f}' + (' ms' if last < 0 else '')
                self.text(x, top - 20 if self.axis.stretched else top - 6, said, 10.5, FAINT, ' text-anchor="middle"',
                          self.grids)
                last = x

    def legend(self, every):
        y, x = self.y + 22, float(GUTTER)
        colour = COLOURS[0]
        for kind, said in (('runs', 'runs'), ('ready', 'ready, not yet its turn'), ('waits', 'waits'),
                           ('blocked', 'blocks its thread'), ('arrow', 'starts or wakes'),
                           ('stretched', 'enlarged')):
            if kind == 'stretched' and not self.axis.stretched:
                continue
            if kind == 'runs':
                self.rect(x, y - 10, 18, 12, colour, more=' rx="1"')
            elif kind == 'ready':
                self.rect(x, y - 6.5, 18, 5, paler(colour, 0.55))
            elif kind == 'waits':
                edge = f' stroke="{paler(colour, 0.6)}" stroke-width="0.7"'
                self.rect(x, y - 10, 18, 12, paler(colour, 0.84), more=edge)
            elif kind == 'blocked':
                self.rect(x, y - 10, 18, 12, self.hatched(colour))
            elif kind == 'stretched':
                self.rect(x, y - 10, 18, 12, ENLARGED, more=' stroke="#e8d9a8" stroke-width="0.7"')
            else:
                self.body.append(f'<path class="a" d="M{x} {y - 4}H{x + 16}"/>')
                said += f' (one of {every} is drawn)' if every > 1 else ''
            self.text(x + 24, y, said, 10.5, FAINT)
            x += 24 + len(said) * 5.4 + 20
        self.y += 38

    def draw(self):
        threads = collections.Counter(lane.kind() for lane in self.trace.lanes.values() if not lane.empty())
        steps = sum(len(lane.steps) for lane in self.trace.lanes.values())
        jobs = sum(len(lane.jobs) for lane in self.trace.lanes.values())
        said = [duration(self.axis.end - self.axis.start)]
        for n, what in ((threads[0], 'loop'), (len(self.trace.works), 'coroutine'), (steps, 'step'),
                        (threads[1], 'worker'), (jobs, 'job')):
            if n:
                said.append(f'{n:,} {what}' + ('s' if n > 1 else ''))
        self.text(16, 30, fit(self.title, WIDTH - 40, 17), 17, INK, ' font-weight="600"')
        self.text(16, 49, ' · '.join(said), 11.5, FAINT)
        top = self.y = 92 if self.axis.stretched else 80
        self.lanes()
        self.grid(top)
        every = self.arrows()
        self.legend(every)
        return self.finished()

    def finished(self):
        height = math.ceil(self.y)
        patterns = ''.join(
            f'<pattern id="{name}" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
            f'<rect width="6" height="6" fill="{paler(colour, 0.86)}"/>'
            f'<rect width="2" height="6" fill="{paler(colour, 0.6)}"/></pattern>'
            for colour, name in self.patterns.items())
        return '\n'.join([
            '<?xml version="1.0" encoding="UTF-8"?>',
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
            f'font-family={quoteattr(FONT)} role="img" aria-label={quoteattr(clean(self.title))}>',
            f'<style>.a{{fill:none;stroke:{ARROW};stroke-width:1;marker-end:url(#tip)}}'
            f'.halo{{paint-order:stroke;stroke:{PAPER};stroke-width:2.5px;stroke-opacity:.85}}</style>',
            f'<defs>{patterns}<marker id="tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="6" markerHeight="6" '
            f'orient="auto"><path d="M0 0.8L7 4L0 7.2Z" fill="{ARROW}"/></marker></defs>',
            f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8" fill="{PAPER}" stroke="#d0d7de"/>',
            *self.back, *self.grids, *self.body, *self.paths, *self.over, '</svg>', ''])


def main():
    parser = argparse.ArgumentParser(description='Draws a trace of duet as SVG.')
    parser.add_argument('trace')
    parser.add_argument('svg')
    parser.add_argument('--title')
    parser.add_argument('--from', dest='start', type=float, metavar='MS', help='where the picture begins')
    parser.add_argument('--to', dest='end', type=float, metavar='MS', help='where it ends')
    parser.add_argument('--enlarge', action='store_true', help='stretch moments in which much happens')
    given = parser.parse_args()
    with open(given.trace, encoding='utf-8') as file:
        trace = Trace(json.load(file))
    start = 0.0 if given.start is None else given.start
    end = trace.end if given.end is None else given.end
    if end < start:
        parser.error('--to is before --from')
    title = given.title or trace.process or os.path.basename(given.trace)
    picture = Picture(trace, Axis(start, end, trace.moments() if given.enlarge else None), title)
    with open(given.svg, 'w', encoding='utf-8') as file:
        file.write(picture.draw())
    return 0


if __name__ == '__main__':
    sys.exit(main())
