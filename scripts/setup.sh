#!/usr/bin/env bash
# Makes .venv ready: Python 3.11 or newer, the locked dependencies, this project (editable), and the system
# tools named as arguments; the data path in C too, where that can be built. Installs what the system lacks when it may
# (root and apt); otherwise it names that in one line and stops. Running it again costs nothing when nothing has changed.
#
#   scripts/setup.sh [TOOL...]      TOOL is a command, for example ip, ping, sshd
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=.venv
STAMP=$VENV/.ready
LOG=$VENV/setup.log
export PATH=$PATH:/usr/sbin:/sbin
export PIP_DISABLE_PIP_VERSION_CHECK=1

fail() {
    echo "setup: $*" >&2
    exit 1
}

package_of() { # the Debian package that holds a command
    case $1 in
        ip | bridge | ss) echo iproute2 ;;
        ping) echo iputils-ping ;;
        ssh | ssh-keygen) echo openssh-client ;;
        sshd) echo openssh-server ;;
        nft) echo nftables ;;
        miniupnpd) echo miniupnpd-nftables ;;
        avahi-browse | avahi-publish) echo avahi-utils ;;
        nsenter | unshare | setpriv) echo util-linux ;;
        *) echo "$1" ;;
    esac
}

updated=no
install() { # PACKAGE... ; why they are needed has been said before
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        fail "needs these system packages, please install them: $*"
    fi
    echo "setup: installing $*"
    if [ $updated = no ]; then
        apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 update -qq || fail "'apt-get update' failed"
        updated=yes
    fi
    # A policy that refuses keeps packages such as openssh-server from starting a service on this machine.
    local policy=/usr/sbin/policy-rc.d made=no status=0
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && made=yes
    fi
    # Another apt may be at work, as on a machine that has just started.
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 install -y -qq --no-install-recommends "$@" >/dev/null || status=$?
    [ $made = no ] || rm -f $policy
    [ $status = 0 ] || fail "'apt-get install $*' failed"
}

modern_python() { # prints the first Python of at least 3.11
    local python
    for python in python3 python3.14 python3.13 python3.12 python3.11; do
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$python"
            return
        fi
    done
    return 1
}

tools() {
    local tool missing=()
    for tool in "$@"; do
        command -v "$tool" >/dev/null || missing+=("$(package_of "$tool")")
    done
    [ ${#missing[@]} = 0 ] || install $(printf '%s\n' "${missing[@]}" | sort -u)
}

dependencies() {
    # setuptools is in the lock; without isolation, pip fetches nothing that the lock doesn't name.
    $VENV/bin/pip install --require-hashes -r requirements.lock >$LOG 2>&1 &&
        $VENV/bin/pip install --no-deps --no-build-isolation -e . >>$LOG 2>&1
}

compiles() { # PYTHON ; whether extensions for it can be built here
    command -v cc >/dev/null && [ -e "$("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ]
}

built() {
    $VENV/bin/python -c 'import ipop._fastpath' 2>/dev/null
}

environment() {
    local python
    python=$(modern_python) || fail "needs Python 3.11 or newer (python3 is $(python3 --version 2>&1 || echo missing))"
    if [ "$STAMP" -nt requirements.lock ] && [ "$STAMP" -nt pyproject.toml ] && $VENV/bin/python -c '' 2>/dev/null &&
        [ -z "$(find ipop/native -newer $STAMP)" ]; then
        return
    fi
    "$python" -c 'import ensurepip, venv' 2>/dev/null || install python3-venv
    echo "setup: making $VENV with $("$python" --version)"
    $VENV/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear $VENV
    if ! dependencies; then
        # Most dependencies come as wheels; where one doesn't for this Python or machine, it must be compiled.
        if compiles "$python"; then
            tail -n 15 $LOG >&2
            fail "pip failed, see above and $LOG"
        fi
        install gcc libc6-dev "$(basename "$(readlink -f "$python")")-dev"
        dependencies || { tail -n 15 $LOG >&2; fail "pip failed, see above and $LOG"; }
    fi
    if ! built; then
        # Everything works without the data path in C, only slower. Tests of it need it.
        if ! compiles "$python" && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            install gcc libc6-dev "$(basename "$(readlink -f "$python")")-dev"
            dependencies || { tail -n 15 $LOG >&2; fail "pip failed, see above and $LOG"; }
        fi
        built || echo "setup: the data path in C was not built (see $LOG); Python moves all packets" >&2
    fi
    touch $STAMP
}

environment
tools "$@"
