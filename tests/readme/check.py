#!/usr/bin/env python3
"""The README is true: every command and every program in it runs, and its output is what it says.

usage: check.py SOURCE-DIRECTORY BUILD-DIRECTORY
"""
import os
import re
import subprocess
import sys
import tempfile

# Commands that a run of the suite cannot run inside itself: .ci/run does, which is checked here.
RUN_BY_CI = {'./dev test': 'for command in test check', './dev check': 'for command in test check'}
# Long ones, in their short form.
SHORTER = {'./dev bench': './dev bench W4 W5 --quick --own'}


def blocks(text):
    """(language, body) of each fenced block, in order."""
    return re.findall(r'^```(\w*)\n(.*?)^```$', text, re.M | re.S)


def run(command, **options):
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=250, **options)
    return done.returncode, done.stdout, done.stdout + done.stderr


def masked(line):
    """A line of output with what differs from run to run taken out."""
    line = re.sub(r'\d+\.\d+', 'N', line)
    line = re.sub(r'(duet-w/demo-|worker |coroutine |job-)\d+', r'\1N', line)
    line = re.sub(r'\d+ ms', 'N ms', line)
    line = re.sub(r'^(\w+ +\w*) +\d+ +N', r'\1 N N', line)  # steps, where work waits more or less often
    return re.sub(r'\s+', ' ', line).strip()


def check_output(shown, real, what):
    real_lines = {masked(line) for line in real.splitlines()}
    for line in shown.splitlines():
        if line.strip() and line.strip() != '…' and masked(line) not in real_lines:
            yield f'{what} does not print: {line}'


def check_program(source, body, build):
    if body != open(os.path.join(source, 'examples/hello.c')).read():
        yield 'the first program differs from examples/hello.c'
    if body.count('\n') >= 30:
        yield 'the first program has 30 lines or more'


def check_install(commands, source, build, program):
    """The lines of "Use it in your program", with the installation moved to a place of our own."""
    with tempfile.TemporaryDirectory() as place:
        root = os.path.join(place, 'root')
        status, _, output = run(f'DESTDIR={root} meson install -C {build} --no-rebuild')
        if status:
            yield f'meson install: {output}'
            return
        pc = subprocess.run(['find', root, '-name', 'duet.pc'], capture_output=True, text=True).stdout.strip()
        libdir = os.path.dirname(os.path.dirname(pc))
        env = dict(os.environ, PKG_CONFIG_PATH=os.path.dirname(pc), PKG_CONFIG_SYSROOT_DIR=root,
                   LD_LIBRARY_PATH=libdir)
        open(os.path.join(place, 'program.c'), 'w').write(program)
        for command in commands:
            if not command.startswith('cc '):
                continue
            status, _, output = run(command, cwd=place, env=env)
            if status:
                yield f'{command}: {output}'
        status, out, _ = run('./program', cwd=place, env=env)
        if status or ': has 42\n' not in out:
            yield f'the installed program prints {out!r}'


def main():
    with tempfile.TemporaryDirectory() as place:
        return check(sys.argv[1], sys.argv[2], place)


def check(source, build, place):
    text = open(os.path.join(source, 'README.md')).read()
    found = blocks(text)
    wrong, demo_output, bench_lines = [], '', []
    program = next(body for language, body in found if language == 'c')
    table = next(body for language, body in found if body.startswith('name '))
    wrong += check_program(source, program, build)
    for language, body in found:
        if language != 'sh':
            continue
        commands = body.strip().splitlines()
        if any('pkg-config' in command for command in commands):
            wrong += check_install(commands, source, build, program)
            continue
        for command in commands:
            if command in RUN_BY_CI:
                if RUN_BY_CI[command] not in open(os.path.join(source, '.ci/run')).read():
                    wrong.append(f'.ci/run does not run {command}')
                continue
            command = SHORTER.get(command, command)
            command = re.sub(r'(^|=\S+ )build/', lambda found: found[1] + build + '/', command)
            command = re.sub(r'\btrace\.', os.path.join(place, 'trace.'), command) # what it writes
            status, out, output = run(command, cwd=source)
            if status:
                wrong.append(f'{command}: exit status {status}\n{output}')
            if command == './dev demo':
                demo_output = out
            if command.endswith('custom_loop'):
                wrong += check_output(table, out, command)
            if command.startswith('./dev bench'):
                bench_lines = out.splitlines()
    shown = [body for language, body in found if language == '']
    wrong += check_output(shown[0], run(os.path.join(build, 'examples/hello'))[1], 'hello')
    wrong += check_output(shown[1], demo_output, './dev demo')
    for line in bench_lines:  # the cases in the table are those that are measured
        case = re.match(r'(\w\S*): .* is better;', line)
        if case and case[1] not in text:
            wrong.append(f'./dev bench measures a case that the README does not show: {case[1]}')
    for link in re.findall(r'\]\(([^)#:]+)\)', text):
        if not os.path.exists(os.path.join(source, link)):
            wrong.append(f'a link leads nowhere: {link}')
    print('\n'.join(wrong) or f'{len(found)} blocks of the README are true')
    return bool(wrong)


if __name__ == '__main__':
    sys.exit(main())
