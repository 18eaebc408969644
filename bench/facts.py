"""What a measurement depends on: the processor, the kernel, the compiler, the peers' versions. Nothing else."""
import os
import re
import subprocess

PACKAGES = ['liburing-dev', 'libuv1-dev', 'libasio-dev', 'libboost-fiber-dev', 'libtbb-dev', 'librust-tokio-dev',
            'golang-go', 'python3', 'python3-uvloop', 'nginx-light', 'wrk']


def output_of(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout
    except OSError:
        return ''


def processor():
    with open('/proc/cpuinfo') as info:
        found = re.search(r'^model name\s*:\s*(.*)$', info.read(), re.M)
    return found[1] if found else os.uname().machine


def versions():
    """Of Debian's packages, without epoch and revision: 1:1.22.1-1 is 1.22.1."""
    told = output_of('dpkg-query', '-W', '-f', '${Package} ${db:Status-Status} ${Version}\n', *PACKAGES)
    found = re.findall(r'^(\S+) installed (?:\d+:)?([^\s+~-]*)', told, re.M)
    return {re.sub('-dev$', '', name): version for name, version in found}


def facts():
    uname = os.uname()
    return {'processor': processor(), 'processors': len(os.sched_getaffinity(0)), 'machine': uname.machine,
            'kernel': re.match(r'[\d.]*', uname.release)[0], 'gcc': output_of('gcc', '-dumpfullversion').strip(),
            'versions': versions()}


def words(known):
    return (f'{known["processors"]} × {known["processor"]}, Linux {known["kernel"]}, gcc {known["gcc"]}; ' +
            ', '.join(f'{name} {version}' for name, version in known['versions'].items()))
