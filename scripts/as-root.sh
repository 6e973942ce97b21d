#!/usr/bin/env bash
# Runs a command with the right to make network namespaces: as it is for root; for anybody else as the root of
# an unprivileged user namespace, which has no power over the machine itself.
#
#   scripts/as-root.sh COMMAND...
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin

if [ "$(id -u)" = 0 ]; then
    exec "$@"
fi
# The trial shows more than whether unshare works: some systems allow the namespace, but no power inside it.
if ! unshare -Urnm ip link set lo up 2>/dev/null; then
    echo "needs root, or a system that allows unprivileged user namespaces (on Ubuntu:" \
        "sysctl kernel.apparmor_restrict_unprivileged_userns=0)" >&2
    exit 1
fi
if ! { : <>/dev/net/tun; } 2>/dev/null; then
    echo "needs root, or the right to open /dev/net/tun (as root: modprobe tun; chmod 666 /dev/net/tun)" >&2
    exit 1
fi
exec unshare -Urnm "$@"
