"""Pictures of what was measured, by gnuplot: one overview, one of the scale."""
import os
import shutil
import subprocess

import plan
import results

COLOURS = ['#3b74bd', '#d97f24', '#2f9668', '#8a5cb8', '#c4485c', '#1f97a3', '#97772a', '#5d6f86', '#1f2933', '#b0532f',
           '#6b8e23']
PAPER = ("set terminal svg size {width},{height} font 'DejaVu Sans,12' background '#ffffff' enhanced\n"
         "set output '{path}'\n")
INK = "set border lc rgb '#66727f'\nset tics textcolor rgb '#1f2933'\nset grid ytics xtics lc rgb '#e3e7ec' lt 1 lw 1\n"


def draw(directory, measured, scaled):
    """What there is to draw, if there is gnuplot."""
    if not shutil.which('gnuplot'):
        return
    os.makedirs(directory, exist_ok=True)  # else gnuplot writes to the terminal
    measured = [result for result in measured if costs(result)]
    if measured:
        plot(overview(os.path.join(directory, 'bench.svg'), measured))
    scaled = [line for line in scaled if len(line.ratios()) > 1]
    if scaled:
        plot(scale(os.path.join(directory, 'bench-scale.svg'), scaled))


def plot(script):
    subprocess.run(['gnuplot'], input=script, text=True, check=True)


def block(name, points):
    """A data block of gnuplot's: x, y, and what to write beside it."""
    return f'${name} << END\n' + ''.join(f'{x} {y:.6g}\n' for x, y in points) + 'END\n'


def quoted(text):
    return "'" + text.replace("'", "''").replace('_', '\\_') + "'"


# ---- One picture of all cases: what each peer costs, where duet costs 1 ----

def costs(result):
    """Contestant: how many times as much as ours it costs, in time or in the inverse of speed."""
    names = [name for name in result.measured() if name not in (result.case.ours, *result.case.aside)]
    ratios = {name: result.ratio(name) for name in names}
    more = result.case.figure in plan.MORE_IS_BETTER
    return {name: ratio if more else 1 / ratio for name, ratio in ratios.items() if ratio}


def overview(path, measured):
    names = [name for name in plan.CONTESTANTS if any(name in costs(result) for result in measured)]
    blocks = [block(name, [(i, costs(result)[name]) for i, result in enumerate(measured) if name in costs(result)])
              for name in names]
    labels = ', '.join(f'{quoted(result.case.name)} {i}' for i, result in enumerate(measured))
    curves = [f'1 with lines lw 3 lc rgb \'{COLOURS[0]}\' title \'duet\'']
    curves += [f'${name} using 1:2 with points {style(name)} title {quoted(name)}' for name in names]
    return (PAPER.format(width=max(700, 170 + 30 * len(measured)), height=560, path=path) + INK + ''.join(blocks) +
            f"set title 'Time or memory, as a multiple of duet''s: above the line a peer needs more'\n"
            f'set logscale y\nset xrange [-0.5:{len(measured) - 0.5}]\nset xtics rotate by 55 right ({labels})\n'
            f'set key outside right top\nset format y \'%g ×\'\nplot ' + ', '.join(curves) + '\n')


def style(name):
    """Limits are crosses, others have a colour of their own, the same in every picture."""
    if name in plan.LIMITS:
        return "pt 2 ps 0.9 lw 2 lc rgb '#1f2933'" if name == 'limit' else "pt 1 ps 0.9 lw 2 lc rgb '#66727f'"
    i = plan.CONTESTANTS.index(name)
    return f"pt {[7, 5, 9, 11, 13][i % 5]} ps 0.8 lc rgb '{COLOURS[1 + i % (len(COLOURS) - 1)]}'"


# ---- One picture of the scale ----

def scale(path, lines):
    blocks = [block(line.kind.kind, line.ratios().items()) for line in lines]
    curves = [f"${line.kind.kind} using 1:2 with linespoints pt 7 ps 0.5 lw 2 lc rgb '{COLOURS[i % len(COLOURS)]}' "
              f'title {quoted(f"{line.kind.title}; {line.kind.number}")}' for i, line in enumerate(lines)]
    return (PAPER.format(width=800, height=640, path=path) + INK + ''.join(blocks) +
            "set title 'What one operation costs as the number grows, as a multiple of its cost at the smallest'\n"
            'set rmargin 6\n'
            "set logscale xy\nset xtics format '%.0f'\nset format y '%g ×'\nset xlabel 'how many there are'\n"
            'set key below Left reverse maxcols 2\nplot ' +
            ', '.join(curves) + '\n')
