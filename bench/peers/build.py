#!/usr/bin/env python3
"""Builds what is not meson's, WORKLOAD-tokio and WORKLOAD-go, into a directory.

usage: build.py OUTDIR

A peer whose tools or packages are missing is left out, with a word. What is newer than its sources is left as it is.
"""

import glob
import os
import shutil
import subprocess
import sys

PEERS = os.path.dirname(os.path.abspath(__file__))
BENCH = os.path.dirname(PEERS)
CRATES = '/usr/share/cargo/registry'


def workloads(source):
    found = glob.glob(os.path.join(BENCH, '*', source))
    return sorted(os.path.basename(os.path.dirname(path)) for path in found)


def is_newer(program, sources):
    if not os.path.exists(program):
        return False
    return all(os.path.getmtime(program) > os.path.getmtime(source) for source in sources)


def run(command, **options):
    """What it says is shown only if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode != 0:
        sys.exit(f'{done.stdout}build.py: failed: {" ".join(command)}')


def skip(peer, reason):
    print(f'build.py: leaves out {peer}: {reason}', file=sys.stderr)


def build_tokio(out):
    if not shutil.which('cargo'):
        return skip('tokio', 'cargo is missing')
    for crate in 'tokio', 'httparse':
        if not glob.glob(os.path.join(CRATES, crate + '-[0-9]*')):
            return skip('tokio', f'librust-{crate}-dev is missing')
    shared = [os.path.join(PEERS, name) for name in ('Cargo.toml', '.cargo/config.toml', 'bench.rs')]
    programs = {os.path.join(out, name + '-tokio'): os.path.join(BENCH, name, 'tokio.rs')
                for name in workloads('tokio.rs')}
    if all(is_newer(program, shared + [source]) for program, source in programs.items()):
        return
    target = os.path.join(out, 'cargo')
    run(['cargo', 'build', '--offline', '--release'], cwd=PEERS, env={**os.environ, 'CARGO_TARGET_DIR': target})
    for program in programs:
        shutil.copyfile(os.path.join(target, 'release', os.path.basename(program)), program)
        os.chmod(program, 0o755)


def build_go(out):
    if not shutil.which('go'):
        return skip('go', 'go is missing')
    env = {**os.environ, 'GO111MODULE': 'off', 'GOFLAGS': '', 'GOTOOLCHAIN': 'local',
           'GOCACHE': os.path.join(out, 'go-cache')}
    for name in workloads('go.go'):
        program = os.path.join(out, name + '-go')
        sources = [os.path.join(PEERS, 'bench.go'), os.path.join(BENCH, name, 'go.go')]
        if is_newer(program, sources):
            continue
        # Go wants the files of a package in one directory.
        together = os.path.join(out, 'go', name)
        os.makedirs(together, exist_ok=True)
        copies = [shutil.copy(source, together) for source in sources]
        run(['go', 'build', '-o', program] + copies, env=env)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__.strip())
    out = os.path.abspath(sys.argv[1])
    os.makedirs(out, exist_ok=True)
    build_tokio(out)
    build_go(out)


if __name__ == '__main__':
    main()
