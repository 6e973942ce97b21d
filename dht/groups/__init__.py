"""Groups: rings of their own inside the main ring.

right      what makes a member: a secret, or a certificate that names the group; tags, proofs and seals that follow
notice     the authority's word that a group's members were decided anew
edges      sessions over the main ring, as edges of a group's ring
admission  how two members prove to each other that they are
entries    how members find each other through the DHT
messages   what members tell each other beyond what members of any ring do
subring    one group's ring, composed of these and of `dht.overlay`
memory     what outlives the process
table      all groups of one node: who gets which message
views      what a node shows of them
"""
