#!/usr/bin/env python3
"""What a machine can check of our own rules, it checks: layering, thread tags, exported names.

usage: check.py SOURCE-DIRECTORY SHARED-LIBRARY
"""
import os
import re
import subprocess
import sys

# May include: the layers whose headers a layer may name. The build's include paths say the same; this
# says it with a sentence.
MAY_INCLUDE = {
    'loop/co': [],
    'base': [],
    'loop': ['base', 'loop/co'],
    'pool': ['base'],
    'bridge/sync': ['base'],
    'bridge/trace': ['base'],
    'bridge/net': ['base', 'loop', 'pool', 'loop/co', 'bridge', 'bridge/sync'],
    'bridge': ['base', 'loop', 'pool', 'loop/co', 'bridge/sync', 'bridge/net'],
}


def layer_of(path):
    for layer in ('loop/co', 'bridge/sync', 'bridge/net', 'bridge/trace'):
        if path.startswith(layer + '/'):
            return layer
    return path.split('/')[0]


def sources(top):
    for layer in ('base', 'loop', 'pool', 'bridge'):
        for folder, _, names in os.walk(os.path.join(top, layer)):
            for name in names:
                if name.endswith(('.c', '.h', '.S')):
                    yield os.path.relpath(os.path.join(folder, name), top)


def headers_by_name(paths):
    found = {}
    for path in paths:
        if path.endswith('.h'):
            name = path.split('/include/')[1] if '/include/' in path else os.path.basename(path)
            found[name] = layer_of(path)
            found['co/' + name] = layer_of(path)
    return found


def check_layers(top, paths):
    headers = headers_by_name(paths)
    for path in paths:
        layer = layer_of(path)
        for name in re.findall(r'#include [<"]([^">]+)[">]', open(os.path.join(top, path)).read()):
            other = headers.get(name)
            if other and other != layer and other not in MAY_INCLUDE[layer]:
                yield f'{path}: layer {layer} must not include {name} of layer {other}'


def check_tags(top, paths):
    """Every public function has a thread tag in the comment before or behind it."""
    for path in paths:
        if '/include/' not in path:
            continue
        comment, tagged = '', False
        for line in open(os.path.join(top, path)):
            if line.startswith('/*'):
                comment = line
                tagged = bool(re.search(r'\[(any|loop|co)', line))
            elif line.startswith('DUET_API'):
                if not tagged and not re.search(r'/\* \[(any|loop|co)', line):
                    yield f'{path}: no thread tag: {line.strip()}'
                if '/*' not in line:
                    tagged = False if line.rstrip().endswith(';') else tagged
            elif line.strip() == '':
                tagged = False


def check_lines(top, paths):
    """Lines fit, and all memory comes from base/alloc.h."""
    for path in paths:
        for number, line in enumerate(open(os.path.join(top, path)), 1):
            if len(line.rstrip('\n')) > 102 and not path.endswith('.S'):
                yield f'{path}:{number}: longer than 100'
            called = re.search(r'(?<![\w>.*])(malloc|calloc|realloc|strdup|aligned_alloc|free)\(', line)
            if called and path not in ('base/alloc.c', 'base/alloc.h') and '/*' not in line and ' * ' not in line:
                yield f'{path}:{number}: memory comes from base/alloc.h, not from {called[1]}()'


def check_atomics(top, paths):
    """No order is implied: outside base/atomic.h no plain atomic_ call without an explicit order."""
    for path in paths:
        if path == 'base/atomic.h':
            continue
        for number, line in enumerate(open(os.path.join(top, path)), 1):
            for call in re.findall(r'\batomic_(?!flag|int|long|bool|uint)\w+(?=\()', line):
                if not call.endswith('_explicit'):
                    yield f'{path}:{number}: {call} has no explicit memory order'


def check_documented_tests(top):
    """Every test that docs/semantics.md names is there."""
    tests = ''
    for folder, _, names in os.walk(os.path.join(top, 'tests')):
        tests += ''.join(open(os.path.join(folder, name)).read() for name in names if name.endswith('.c'))
    for name in re.findall(r'`([a-z_0-9]{20,})`', open(os.path.join(top, 'docs/semantics.md')).read()):
        if not re.search(rf'\b{name}\b', tests):
            yield f'docs/semantics.md: there is no test {name}'


def check_exports(library):
    out = subprocess.run(['nm', '-D', '--defined-only', library], capture_output=True, text=True, check=True)
    for line in out.stdout.splitlines():
        name = line.split()[-1].split('@')[0]
        if name.startswith('duet__') or (not name.startswith('duet_') and not name.startswith('DUET_')):
            yield f'{library}: exports {name}'


def main():
    top, library = sys.argv[1], sys.argv[2]
    paths = sorted(sources(top))
    wrong = [*check_layers(top, paths), *check_tags(top, paths), *check_atomics(top, paths),
             *check_lines(top, paths),
             *check_documented_tests(top), *check_exports(library)]
    print('\n'.join(wrong) or f'{len(paths)} files keep the rules')
    return bool(wrong)


if __name__ == '__main__':
    sys.exit(main())
