#!/usr/bin/env bash
# Builds the C data path with gcc's sanitizers, beside the usual build, and feeds it good and hostile packets for a
# while, next to Python's: every difference and every fault ends it.   scripts/fuzz.sh [SECONDS [SEED]]
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=.venv/bin/python
OUT=build/sanitized
mkdir -p $OUT
gcc -shared -fPIC -O1 -g -Wall -Wextra -Wno-missing-field-initializers -fno-omit-frame-pointer \
    -fsanitize=address,undefined -fno-sanitize-recover=all \
    -I"$($PYTHON -c 'import sysconfig; print(sysconfig.get_path("include"))')" \
    ipop/native/*.c -o $OUT/_fastpath.so -ldl
# Leaks are not looked for: the interpreter keeps much until its end. Its own allocator would hide what is done to freed
# memory.
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc \
    $PYTHON -m tests.fuzz_native $OUT/_fastpath.so "${1:-120}" ${2:+"$2"}
