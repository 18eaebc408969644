#!/bin/sh
# A program outside the tree builds against an installed copy, by pkg-config, as C and as C++, shared and
# static; every public header stands alone in both languages.
#
# usage: check.sh BUILD-DIRECTORY SOURCE-DIRECTORY
set -eu
build=$1 source=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
DESTDIR="$work/root" meson install -C "$build" --no-rebuild >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }

pc=$(find "$work/root" -name duet.pc)
libdir=$(dirname "$(dirname "$pc")")
prefix=$(sed -n 's/^prefix=//p' "$pc")
export PKG_CONFIG_PATH="$(dirname "$pc")" PKG_CONFIG_SYSROOT_DIR="$work/root"
export LD_LIBRARY_PATH="$libdir${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
[ -d "$work/root$prefix/include/duet" ]
cflags=$(pkg-config --cflags duet) libs=$(pkg-config --libs duet)
strict='-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror'
# What the library was built with may be a sanitizer, which the program then needs too.
sanitize=${DUET_TEST_SANITIZE:-}

for compiler in gcc clang; do
  command -v $compiler >/dev/null || continue
  for header in "$work/root$prefix"/include/duet/*.h; do
    name=duet/$(basename "$header")
    printf '#include <%s>\n' "$name" >"$work/one.c"
    $compiler -std=c11 $strict $cflags -fsyntax-only "$work/one.c"
    cp "$work/one.c" "$work/one.cc"
    $compiler -x c++ -std=c++17 $strict $cflags -fsyntax-only "$work/one.cc"
  done
done

cat >"$work/program.c" <<'END'
#include <duet/duet.h>
#include <stdio.h>
static duet_result answer(void *arg) { (void)arg; return duet_i64(42); }
static duet_result body(void *arg)
{
    duet_result r;
    duet_group group = DUET_GROUP_INIT;
    int rc = duet_group_spawn(&group, NULL, answer, arg, NULL);
    if (rc == 0)
        rc = duet_group_wait(&group, DUET_NEVER, &r);
    duet_group_close(&group);
    if (rc == 0)
        rc = duet_offload(NULL, answer, arg, duet_sec(10), &r);
    return rc < 0 ? duet_err(rc) : r;
}
int main(void)
{
    duet_result r;
    int rc = duet_run(body, NULL, &r);
    printf("%lld\n", (long long)duet_as_i64(r));
    return rc < 0 || duet_sleep(DUET_NOW) < 0;
}
END
cp "$work/program.c" "$work/program.cc"
compiler=${CC:-gcc}
$compiler -std=c11 $strict $sanitize $cflags "$work/program.c" -o "$work/as-c" $libs
${CXX:-g++} -std=c++17 $strict $sanitize $cflags "$work/program.cc" -o "$work/as-cxx" $libs
[ "$("$work/as-c")" = 42 ]
[ "$("$work/as-cxx")" = 42 ]
if [ -z "$sanitize" ]; then
  $compiler -std=c11 $strict $cflags "$work/program.c" -o "$work/static" -static $(pkg-config --static --libs duet)
  [ "$("$work/static")" = 42 ]
  DUET_TRACE="$work/trace.json" "$work/static" >/dev/null
  grep -q coroutine "$work/trace.json"
fi
echo "an installed copy serves C, C++ and static programs"
