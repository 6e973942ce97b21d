"""Direct paths and proxy tunnels between nodes that talk: demand, candidates, checks, proxies, switching.

`shortcuts.node.Shortcuts` is the whole of it, attached to one `dht.node.Node`.
"""
