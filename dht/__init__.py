"""The ring: identity, sessions, linking, routing and the DHT, without any knowledge of virtual networks.

`node.Node` composes the rest. Everything here is synchronous and reaches the world through `host.Host`; only
`udp`, `timers`, `addresses` and `files` touch the machine.
"""
