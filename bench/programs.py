"""The contestants' programs: where they are, and what one run of one gives: its figures, and what it took."""
import dataclasses
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import plan

SKIP = 77  # a program says so: it has no such case
SERVER_STARTS_S, SERVER_ENDS_S = 10, 5
PYTHON = shutil.which('python3', path='/usr/bin') or 'python3'  # the one that Debian's packages are for
SOURCES = {'tokio': ['tokio.rs'], 'go': ['go.go'], 'asyncio': ['python.py'], 'uvloop': ['python.py'],
           'nginx': ['nginx.conf']}  # of others NAME.c or NAME.cpp


class Skipped(Exception):
    """It has no such case, or is not here; says why."""


class Failed(Exception):
    """It ran and did not do its work; says why."""


# ---- Where they are ----

class Programs:
    def __init__(self, source, build):
        self.source, self.build = source, build
        self.child = os.path.join(build, 'bench', 'bench-child')
        self.client = os.path.join(build, 'bench', 'bench-client')

    def built(self, name):
        """The path of a program, or None."""
        paths = [os.path.join(self.build, folder, name) for folder in ('bench', 'peers')]
        return next((path for path in paths if os.access(path, os.X_OK)), None)

    def has(self, folder, contestant):
        """Whether it takes part: there is a source of it."""
        names = SOURCES.get(contestant, [contestant + '.c', contestant + '.cpp'])
        return any(os.path.exists(os.path.join(self.source, folder, name)) for name in names)

    def command(self, folder, contestant):
        """What starts it, without the arguments of a case."""
        if contestant in plan.IN_PYTHON:
            if contestant == 'uvloop' and not imports('uvloop'):
                raise Skipped('not installed')
            return [PYTHON, os.path.join(self.source, folder, 'python.py'), 'loop=' + contestant]
        program = self.built(f'{folder}-{contestant}')
        if not program:
            raise Skipped('not installed')
        return [program]

    def server(self, folder, contestant):
        if contestant == 'nginx':
            return Nginx(os.path.join(self.source, folder, 'nginx.conf'))
        return Server(self.command(folder, contestant))


def imports(module):
    return subprocess.run([PYTHON, '-c', f'import {module}'], capture_output=True).returncode == 0


def as_arguments(arguments):
    return [f'{key}={value}' for key, value in arguments.items()]


# ---- What a program says ----

def figures(text):
    """Of lines `name value`; others are of no interest."""
    found = re.findall(r'^(\w+) (-?[0-9][-+.e0-9]*)$', text, re.M)
    return {name: float(value) for name, value in found}


def last_words(text):
    lines = text.strip().splitlines()
    return lines[-1].strip()[:200] if lines else 'it said nothing'


def check_status(status, errors):
    if status == SKIP:
        raise Skipped('no such case')
    if status < 0:
        raise Failed(f'{signal.Signals(-status).name}: {last_words(errors)}')
    if status:
        raise Failed(f'exit status {status}: {last_words(errors)}')


# ---- One run of a program that does its work and ends ----

def run(command, timeout_s, child):
    """Its figures, with cpu_s and peak_mib, which `child` (bench-child) measures."""
    read_end, write_end = os.pipe()
    process = subprocess.Popen([child, str(write_end), *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, pass_fds=[write_end], start_new_session=True, text=True,
                               errors='replace')
    os.close(write_end)
    with open(read_end) as told:
        output, errors = communicate(process, timeout_s)
        took = told.read().split()
    if process.returncode or len(took) != 3:
        raise Failed(f'it could not be started: {last_words(errors)}')
    check_status(os.waitstatus_to_exitcode(int(took[2])), errors)
    found = figures(output)
    if not found:
        raise Failed(f'no figures: {last_words(output + errors)}')
    return {**found, 'cpu_s': float(took[0]), 'peak_mib': int(took[1]) / 1024}


def communicate(process, timeout_s):
    try:
        return process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        end_group(process)
        raise Failed(f'no end after {timeout_s:g} s') from None
    except BaseException:  # an interruption, say: nothing stays behind
        end_group(process)
        raise


def end_group(process):
    """Ends a process that leads a session, and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.communicate()


# ---- A server, and who asks it ----

class Server:
    """Runs while the `with` statement does."""

    def __init__(self, command):
        self.command = command

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, start_new_session=True)
        try:
            self.port = self.read_port()
        except BaseException:
            self.end()
            raise
        self.pids = session_of(self.process.pid)
        return self

    def __exit__(self, *_):
        self.end()

    def read_port(self):
        text, by = b'', time.monotonic() + SERVER_STARTS_S
        while not (found := re.search(rb'^port (\d+)\n', text, re.M)):
            ready, _, _ = select.select([self.process.stdout], [], [], max(by - time.monotonic(), 0))
            more = os.read(self.process.stdout.fileno(), 4096) if ready else b''
            if not more:
                raise self.why_not(f'no port after {SERVER_STARTS_S} s' if not ready else 'it told no port')
            text += more
        return int(found[1])

    def why_not(self, otherwise):
        """What to raise if it does not serve."""
        try:
            status = self.process.wait(0.5)
        except subprocess.TimeoutExpired:
            return Failed(otherwise)
        if status == SKIP:
            return Skipped('no such case')
        return Failed(f'exit status {status}: {last_words(self.process.stderr.read().decode(errors="replace"))}')

    def cpu_us(self):
        """Processor time that its threads have taken."""
        return sum(task_cpu_ns(pid) for pid in self.pids) / 1000

    def peak_mib(self):
        return sum(peak_kib(pid) for pid in self.pids) / 1024

    def end(self):
        """By the end of its input; by force if that does not help."""
        try:
            self.process.communicate(timeout=SERVER_ENDS_S)
        except subprocess.TimeoutExpired:
            end_group(self.process)


class Nginx(Server):
    """It is told its port, does not say when it listens, and ends by a signal."""

    def __init__(self, template):
        nginx = shutil.which('nginx') or shutil.which('nginx', path='/usr/sbin')
        if not nginx:
            raise Skipped('not installed')
        self.template, self.nginx = template, nginx

    def __enter__(self):
        self.directory = tempfile.TemporaryDirectory()
        self.free_port = free_port()
        path = os.path.join(self.directory.name, 'nginx.conf')
        with open(self.template) as template, open(path, 'w') as out:
            values = {'DIRECTORY': self.directory.name, 'PORT': str(self.free_port)}
            out.write(re.sub('DIRECTORY|PORT', lambda found: values[found[0]], template.read()))
        self.command = [self.nginx, '-e', 'stderr', '-c', path]
        return super().__enter__()

    def read_port(self):
        by = time.monotonic() + SERVER_STARTS_S
        while not listens(self.free_port):
            if time.monotonic() > by or self.process.poll() is not None:
                raise self.why_not('it does not listen')
            time.sleep(0.01)
        return self.free_port

    def end(self):
        self.process.terminate()
        super().end()
        self.directory.cleanup()


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as server:
        return server.getsockname()[1]


def listens(port):
    try:
        socket.create_connection(('127.0.0.1', port), 1).close()
    except OSError:
        return False
    return True


def session_of(leader):
    """The processes of a session: a server may have children."""
    found = []
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{pid}/stat') as stat:
                fields = stat.read().rpartition(')')[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[3]) == leader:
            found.append(int(pid))
    return found


def task_cpu_ns(pid):
    total = 0
    for task in os.listdir(f'/proc/{pid}/task'):
        with open(f'/proc/{pid}/task/{task}/schedstat') as stat:
            total += int(stat.read().split()[0])
    return total


def peak_kib(pid):
    with open(f'/proc/{pid}/status') as status:
        found = re.search(r'^VmHWM:\s*(\d+)', status.read(), re.M)
    return int(found[1]) if found else 0


@dataclasses.dataclass(frozen=True)
class Asking:
    """How a server is asked: `active` of its connections have a request outstanding, the others are idle."""
    client: str
    connections: int
    active: int
    timeout_s: float
    seconds: float = 1


def serve(server, asking, found):
    """The figures of one server while a client asks it; with cpu_us of a request, and peak_mib."""
    with server:
        said, cpu_us = (ask_by_wrk if asking.client == 'wrk' else ask_by_client)(server, asking, found)
        if not said.get('requests'):
            raise Failed('it answered no request')
        return {**said, 'cpu_us': cpu_us / said['requests'], 'peak_mib': server.peak_mib()}


def ask_by_client(server, asking, found):
    """bench-client writes `begin` and `end` around what it counts."""
    arguments = {'port': server.port, 'connections': asking.connections, 'active': asking.active,
                 'seconds': asking.seconds}
    return listen(server, [found.client, *as_arguments(arguments)], asking.timeout_s)


def listen(server, command, timeout_s):
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               start_new_session=True, text=True)
    hangs = threading.Timer(timeout_s, os.killpg, (process.pid, signal.SIGKILL))
    hangs.start()
    text, moments = [], {}
    try:
        for line in process.stdout:
            text.append(line)
            if line in ('begin\n', 'end\n'):
                moments[line.strip()] = server.cpu_us()
        _, errors = process.communicate()
    finally:
        hangs.cancel()
        end_group(process)
    check_status(process.returncode, 'the client: ' + errors)
    if len(moments) != 2:
        raise Failed('the client told no begin and end')
    return figures(''.join(text)), moments['end'] - moments['begin']


def ask_by_wrk(server, asking, _):
    """A short run first, in which the connections' memory and the server's caches are made."""
    if not shutil.which('wrk'):
        raise Skipped('wrk is not installed')
    command = ['wrk', '-t1', f'-c{asking.connections}', '-d1', '--latency', f'http://127.0.0.1:{server.port}/']
    if asking.seconds >= 1:
        said_by_wrk(wrk(command, asking.timeout_s))
    before = server.cpu_us()
    said = said_by_wrk(wrk(command, asking.timeout_s))
    return said, server.cpu_us() - before


def wrk(command, timeout_s):
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               start_new_session=True, text=True)
    return communicate(process, timeout_s)[0]


def said_by_wrk(text):
    """Answers that are not 200, and connections that break, are a failure."""
    wrong = re.search(r'^.*(?:Non-2xx|Socket errors).*$|^unable to connect.*$', text, re.M)
    requests = re.search(r'(\d+) requests in ([\d.]+)s', text)
    if wrong or not requests:
        raise Failed(f'wrk: {wrong[0].strip() if wrong else last_words(text)}')
    found = {'requests': float(requests[1]), 'krps': float(requests[1]) / float(requests[2]) / 1000}
    to_us = {'us': 1, 'ms': 1e3, 's': 1e6}
    for share, value, scale in re.findall(r'^ +(\d+)% +([\d.]+)(us|ms|s)$', text, re.M):
        found[f'p{share}_us'] = float(value) * to_us[scale]
    return {name: value for name, value in found.items() if name not in ('p75_us', 'p90_us')}
