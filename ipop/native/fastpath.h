/* The fast path: what `ipop.datapath` and `dht.sessions` do with a packet in the steady state, in C.
 *
 *     TAP -> frame -> outlet of its destination -> cut, sealed -> one sendmsg a batch
 *     UDP -> batch -> inlet of its session      -> opened, joined -> one writev a super-packet
 *     UDP -> batch -> transit of its label      -> marked -> one sendmsg to the circuit's other end
 *
 * It decides nothing. Python prepares an *outlet* for a destination, an *inlet* for a session's index, a *transit* for
 * each way through a circuit, all with *guards*: attributes of Python's objects that must still be what they were when
 * it was prepared (the path in use, the current keys, ...). Whatever has none of them, fails a guard, or is in any way
 * unusual goes to Python as it came, before anything was changed; counters and replay window are Python's own, read and
 * written in its objects. So there is one truth, and without this file everything works, only slower.
 *
 * Never allocates by what a peer says; every read from a datagram is checked against its length first. No threads: the
 * caller holds the interpreter's lock throughout.
 */
#ifndef FASTPATH_H
#define FASTPATH_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <time.h>

enum {
    TRANSPORT = 0x14,
    TUNNELLED = 0x17,
    TUNNEL_HEADER_BYTES = 8,
    RELAYED_AT = 1,            /* where a tunnel's header says that a relay passed it on */
    HEAD_BYTES = 8,            /* kind, zeros and the receiver's index */
    HEADER_BYTES = 16,         /* head and counter */
    TAG_BYTES = 16,
    VNET_BYTES = 10,
    ETHERNET_BYTES = 14,
    BEFORE_PACKET = VNET_BYTES + ETHERNET_BYTES,
    SEGMENT_BYTES = 5,         /* kind, index and size in front of a segment's IP header */
    PARTIAL_BYTES = 3,         /* kind and two offsets */
    MAX_RUN = 64,              /* UDP_MAX_SEGMENTS of kernels before 6.11 */
    MAX_RUN_BYTES = 65507,     /* what one IPv4 datagram can hold */
    MAX_PIECES = 128,          /* of one super-packet */
    MAX_UDP_PIECES = 64,
    LEAST_PIECE_BYTES = 8,
    FRAME_BYTES = VNET_BYTES + 65536 + 18,
    DATAGRAM_BYTES = 65535,
    MAX_FRONT = TUNNEL_HEADER_BYTES + HEAD_BYTES,
    MAX_TOUCHED = 16,          /* outlets or inlets that one wake-up uses before Python is told */
    MAX_GUARDS = 12,
    NOTE_BYTES = 20,           /* of the longest IP(V6)_PKTINFO */
    LOOK_AGAIN = 8,            /* as in `dht.udp_intake` and `ipop.device`: whether there is another is asked so */
    SMALL_BYTES = 2048,        /* seldom, where small ones come one at a time */
};

enum { KIND_PACKET = 3, KIND_SEGMENT = 5, KIND_PARTIAL = 6 }; /* dht.envelope.Inner */
enum { PROTO_ICMP6 = 58, PROTO_TCP = 6, PROTO_UDP = 17 };
enum { NEEDS_CHECKSUM = 1, GSO_TCP4 = 1, GSO_TCP6 = 4, GSO_UDP_L4 = 5, GSO_ECN = 0x80 };
enum { ECN_MAY_CHANGE = 1 };   /* ipop.ecn: the bit of an outer class that could change the inner one */

static inline unsigned get16(const uint8_t *at) { return (unsigned)at[0] << 8 | at[1]; }
static inline void put16(uint8_t *at, unsigned value) { at[0] = (uint8_t)(value >> 8); at[1] = (uint8_t)value; }
static inline uint64_t get64(const uint8_t *at) {
    uint64_t value = 0;
    for (int i = 0; i < 8; i++) value = value << 8 | at[i];
    return value;
}
static inline void put64(uint8_t *at, uint64_t value) {
    for (int i = 7; i >= 0; i--, value >>= 8) at[i] = (uint8_t)value;
}

/* --- aead.c: AES-256-GCM and ChaCha20-Poly1305 of libcrypto, which is loaded when the first key is set ------------- */

typedef struct cipher Cipher;
int aead_load(void);                                    /* -1 with an exception when there is no libcrypto to use */
Cipher *aead_key(const uint8_t key[32], int aes, int sealing);
void aead_free(Cipher *cipher);
/* In place; writes the tag behind. 0, or -1 if libcrypto failed. */
int aead_seal(Cipher *cipher, uint64_t counter, uint8_t *text, size_t bytes);
/* `text` includes the tag. 0, or -1 if it does not authenticate: what is in `plain` then must not be used. */
int aead_open(Cipher *cipher, uint64_t counter, const uint8_t *text, size_t bytes, uint8_t *plain);

/* --- sockets.c: one UDP socket, and the places it is used for ------------------------------------------------------ */

typedef struct {                                        /* one UDP socket: its descriptor and what Python knows of it */
    PyObject_HEAD
    int fd;
    int busy;                                           /* several were waiting when it was last read to its end */
    unsigned wake_ups;
    PyObject *port;                                     /* whose `is_open` says whether the descriptor may be used */
    PyObject *arrivals;                                 /* dict: endpoint -> (content, [(level, kind, answer)]) */
    PyObject *queue;                                    /* deque: not empty while the socket is full */
} Mouth;

typedef struct {                                        /* where datagrams go */
    Mouth *mouth;
    PyObject *endpoint;
    struct sockaddr_storage to;
    socklen_t to_bytes;
} Route;

typedef struct {                                        /* where datagrams come from */
    PyObject *endpoint;
    struct sockaddr_storage from;
} Source;

typedef struct {                                        /* what one recvmsg gave, a datagram or several together */
    struct sockaddr_storage from;
    Py_ssize_t length;
    int size, traffic_class;
    struct msghdr message;
    const uint8_t *note;                                /* what is in IP(V6)_PKTINFO */
    size_t note_bytes;
} Arrival;

int mouth_open(Mouth *mouth);                           /* 1, 0, or -1 with an exception */
int route_take(Route *route, PyObject *mouth, PyObject *endpoint);     /* -1 with an exception */
int route_open(const Route *route);                     /* whether it may be sent to at once: 1, 0, or -1, likewise */
int route_visit(const Route *route, visitproc visit, void *arg);
void route_clear(Route *route);
int source_take(Source *source, PyObject *endpoint);    /* -1 with an exception */
int source_sent(const Source *source, const Arrival *arrival);         /* whether it came from there */
/* Whether it came to the address that Python has noted for its sender. 1, 0, or -1 with an exception. */
int source_wrote_here(const Source *source, Mouth *mouth, const Arrival *arrival);
int source_visit(const Source *source, visitproc visit, void *arg);
void source_clear(Source *source);
void read_notes(Arrival *arrival);                      /* sets all but what recvmsg set */

/* --- prepared.c: what Python prepares ------------------------------------------------------------------------------ */

typedef struct {
    PyObject *object, *name, *expected;                 /* `object.name is expected` */
} Guard;

typedef struct {
    Guard each[MAX_GUARDS];
    int count;
} Guards;

int guards_hold(const Guards *guards);                  /* 1, 0, or -1 with an exception */

typedef struct {
    PyObject_HEAD
    Guards guards;
    Cipher *cipher;                                     /* NULL for what is passed on unopened */
    PyObject *owner;                                    /* Python's own, given back with the account; NULL: unfinished */
    double dies_at;                                     /* on CLOCK_BOOTTIME */
} Prepared;

typedef struct {
    Prepared base;
    Route route;
    PyObject *keypair;
    uint8_t front[MAX_FRONT];                           /* of every datagram: a tunnel's header, the transport's head */
    int front_bytes;
    int room_bytes;                                     /* of a plaintext */
    int segments;                                       /* whether the peer takes them */
    int class_mask;
    uint64_t limit;                                     /* of the counter */
    Py_ssize_t packets, octets, sealed_octets;          /* not accounted for yet */
} Outlet;

typedef struct {
    Prepared base;
    Source source;
    PyObject *window, *member;
    uint8_t lead[TUNNEL_HEADER_BYTES];                  /* in front of every datagram */
    int lead_bytes;
    uint8_t head[HEAD_BYTES];
    int longest_bytes;                                  /* of a datagram */
    Py_ssize_t packets, octets;
} Inlet;

typedef struct {                                        /* one way through a circuit that this node relays */
    Prepared base;
    Route route;
    Source source;
    uint8_t header[TUNNEL_HEADER_BYTES];
    Py_ssize_t octets;
} Transit;

extern PyTypeObject MouthType, OutletType, InletType, TransitType, FastPathType;

/* --- fastpath.c: the object that ties a TAP to sockets ------------------------------------------------------------- */

typedef struct {
    uint8_t *bytes;
    Py_ssize_t length;
} Slot;

typedef struct {
    PyObject_HEAD
    int fd;                                             /* of the TAP; -1 once closed */
    int takes_tcp, takes_udp;                           /* super-packets that the kernel takes */
    int running;                                        /* within a call: not to be entered again */
    uint8_t own4[4], own6[16];
    PyObject *outlets, *inlets, *origins;               /* dicts, by raw address, by index, by raw address */
    PyObject *transits;                                 /* dict: label -> tuple of transits */
    PyObject *on_frame, *on_virtual, *on_datagrams, *on_opened, *on_sent, *on_heard, *on_passed, *on_blocked,
        *on_tap_error, *on_turn, *on_gone, *on_dropped;
    double now;                                         /* CLOCK_BOOTTIME at this wake-up */
    /* from the TAP */
    int tap_busy;
    int gave;                                           /* Python has had a frame since C last sent one */
    unsigned tap_wake_ups;
    uint8_t *frame;                                     /* where the next one is read to */
    Slot *bulk;                                         /* a ring of frames that wait */
    Py_ssize_t bulk_first, bulk_count, bulk_octets, bulk_dropped;
    uint8_t *spare[8];                                  /* buffers to be used again */
    int spares;
    /* being gathered for one sendmsg */
    Outlet *outlet;
    int traffic_class, count, size, ended;
    Py_ssize_t length;
    uint8_t *out;
    Outlet *sent_by[MAX_TOUCHED];
    int sent_count;
    /* from a socket */
    uint8_t *datagrams, *plain;
    Inlet *heard_by[MAX_TOUCHED];
    int heard_count;
    Transit *passed_by[MAX_TOUCHED];
    int passed_count;
} FastPath;

enum { BULK_SLOTS = 4096, MAX_BULK_OCTETS = 4 << 20, BULK_OCTETS = 192 << 10 };

double boottime_s(void);
/* One sendmsg. What the kernel doesn't take goes to Python, which waits for room, or finds out why. */
int transmit(FastPath *path, const Route *route, uint8_t *from, Py_ssize_t length, int size, int traffic_class);
PyObject *find(PyObject *dict, const uint8_t *key, Py_ssize_t bytes);  /* borrowed; NULL: none, or an exception */

int take_frames(FastPath *path, int frames, Py_ssize_t octets);
int take_bulk(FastPath *path);
int flush(FastPath *path);
int account_sent(FastPath *path);
int account_dropped(FastPath *path);
int take_datagrams(FastPath *path, Mouth *mouth, int limit);
int account_heard(FastPath *path);
/* 1 when dealt with, 0 when Python must look, -1 with an exception. */
int pass_on(FastPath *path, Mouth *mouth, const Arrival *arrival);
int account_passed(FastPath *path);

#endif
