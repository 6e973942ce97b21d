"""`p2pvpn up`, but for how often it renews its keys: every second. Says on stderr when it takes new ones into use."""

from __future__ import annotations

import sys

import dht.session
from ipop.daemon import main

REKEY_AFTER_S = 1.0

if __name__ == "__main__":
    dht.session.REKEY_AFTER_S = REKEY_AFTER_S  # type: ignore[misc]
    install = dht.session.Session.install

    def told(session: dht.session.Session, keypair: dht.session.Keypair) -> None:
        print(f"new keys with {session.member.name}", file=sys.stderr, flush=True)
        install(session, keypair)

    dht.session.Session.install = told  # type: ignore[assignment, method-assign]
    main()
