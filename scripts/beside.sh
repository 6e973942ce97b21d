#!/usr/bin/env bash
# Runs one command quietly and with little claim to the processors, beside another in the foreground; then shows what
# the first one printed. Fails when either does.
#
#   scripts/beside.sh 'QUIET COMMAND' 'COMMAND'
set -uo pipefail

log=$(mktemp)
# A process group of its own, to be ended as a whole, but in this session: where the kernel shares processors out by
# session (sched_autogroup), niceness counts within one only.
set -m
nice -n 15 bash -c "$1" >"$log" 2>&1 </dev/null &
quiet=$!
set +m
end() {
    kill -- -"$quiet" 2>/dev/null
    rm -f "$log"
}
trap end EXIT
trap 'exit 130' INT TERM HUP

bash -c "$2"
status=$?
wait "$quiet"
beside=$?
cat "$log"
[ $status = 0 ] && [ $beside = 0 ]
