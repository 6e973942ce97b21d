"""The ring's control messages, as typed values. None of these modules sends anything.

control    what a message's body is, and shapes that several have; applications begin here
header     what stands before it
edges      codes 1, 2, 9, 10, 13 to 15: what the two ends of an edge, or of a session, tell each other about it
ring       codes 3 to 8, 11, 12: finding places on the ring, and keeping them
records    codes 16 to 19, 30, 31: storing and fetching
tunnels    codes 20 to 25: agreeing on a relay's label

Codes 32 to 63 are those of `shortcuts.messages`, `dht.branch_messages`, `dht.crawl` and `dht.groups`. All that others
need of these modules is here under one name.
"""

from dht.messages.control import FIRST_APPLICATION_CODE, MAX_CONTACT_BYTES, MAX_CONTACTS, Message
from dht.messages.edges import ConnectToMe, DuplicateIdentity, Lapse, Leave, NoSession, Ping, Pong, remember
from dht.messages.header import Control, Kind, pack_control, split_control
from dht.messages.records import MAX_RECORD_BYTES, MAX_RECORDS, Fetch, Fetched, FetchFor, Store, Stored, StoreFor
from dht.messages.ring import (
    HEAD_BYTES,
    Find,
    FindFor,
    Found,
    Neighbors,
    NeighborsRequest,
    Suspect,
    Unchanged,
    Unreachable,
)
from dht.messages.tunnels import TunnelAccepted, TunnelClosed, TunnelGranted, TunnelOffer, TunnelRefused, TunnelRequest

__all__ = [
    "FIRST_APPLICATION_CODE",
    "HEAD_BYTES",
    "MAX_CONTACTS",
    "MAX_CONTACT_BYTES",
    "MAX_RECORDS",
    "MAX_RECORD_BYTES",
    "ConnectToMe",
    "Control",
    "DuplicateIdentity",
    "Fetch",
    "FetchFor",
    "Fetched",
    "Find",
    "FindFor",
    "Found",
    "Kind",
    "Lapse",
    "Leave",
    "Message",
    "Neighbors",
    "NeighborsRequest",
    "NoSession",
    "Ping",
    "Pong",
    "Store",
    "StoreFor",
    "Stored",
    "Suspect",
    "TunnelAccepted",
    "TunnelClosed",
    "TunnelGranted",
    "TunnelOffer",
    "TunnelRefused",
    "TunnelRequest",
    "Unchanged",
    "Unreachable",
    "pack_control",
    "remember",
    "split_control",
]
