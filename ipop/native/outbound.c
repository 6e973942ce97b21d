/* From the TAP to the socket. Frames are read, cut where they are super-packets, sealed where they will be sent from,
 * and sent together as long as they are for one peer, of one class and one size. TCP data waits, bounded, while the TAP
 * has anything else (`ipop.datapath`, BULK_BYTES). */
#include "fastpath.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static PyObject *sent_name; /* interned "sent" */

static int outlet_usable(FastPath *path, Outlet *outlet) {
    if (path->now >= outlet->base.dies_at) return 0;
    int open = route_open(&outlet->route);
    return open != 1 ? open : guards_hold(&outlet->base.guards);
}

/* Take `count` counters from the keypair: the first, or -1 with or without an exception when there are not so many. */
static int take_counters(Outlet *outlet, unsigned count, uint64_t *first) {
    if (sent_name == NULL && (sent_name = PyUnicode_InternFromString("sent")) == NULL) return -1;
    PyObject *sent = PyObject_GetAttr(outlet->keypair, sent_name);
    if (sent == NULL) return -1;
    uint64_t value = PyLong_AsUnsignedLongLong(sent);
    Py_DECREF(sent);
    if (value == (uint64_t)-1 && PyErr_Occurred()) return -1;
    if (value > outlet->limit || outlet->limit - value < count) return -1;
    PyObject *after = PyLong_FromUnsignedLongLong(value + count);
    if (after == NULL) return -1;
    int status = PyObject_SetAttr(outlet->keypair, sent_name, after);
    Py_DECREF(after);
    *first = value;
    return status;
}

static int touch(FastPath *path, Outlet *outlet, Py_ssize_t packets, Py_ssize_t octets) {
    if (outlet->packets == 0) {
        if (path->sent_count == MAX_TOUCHED && account_sent(path) < 0) return -1;
        path->sent_by[path->sent_count++] = (Outlet *)Py_NewRef((PyObject *)outlet);
    }
    outlet->packets += packets;
    outlet->octets += octets;
    return 0;
}

int account_sent(FastPath *path) {
    while (path->sent_count > 0) {
        Outlet *outlet = path->sent_by[--path->sent_count];
        Py_ssize_t packets = outlet->packets, octets = outlet->octets, sealed = outlet->sealed_octets;
        outlet->packets = outlet->octets = outlet->sealed_octets = 0;
        PyObject *done = PyObject_CallFunction(path->on_sent, "Onnn", outlet->base.owner, packets, octets, sealed);
        Py_DECREF(outlet);
        if (done == NULL) return -1;
        Py_DECREF(done);
    }
    return 0;
}

int account_dropped(FastPath *path) {
    if (path->bulk_dropped == 0) return 0;
    Py_ssize_t dropped = path->bulk_dropped;
    path->bulk_dropped = 0;
    PyObject *done = PyObject_CallFunction(path->on_dropped, "n", dropped);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

int flush(FastPath *path) {
    Outlet *outlet = path->outlet;
    if (outlet == NULL) return 0;
    path->outlet = NULL;
    if (path->count == 0) { /* It could not be sealed. */
        Py_DECREF(outlet);
        return 0;
    }
    outlet->sealed_octets += path->length;
    int status = transmit(path, &outlet->route, path->out, path->length, path->size, path->traffic_class);
    Py_DECREF(outlet);
    return status;
}

/* Seal head and body as one datagram behind `at`; its length, or -1. The counter must be had before. */
static Py_ssize_t seal(Outlet *outlet, uint64_t counter, uint8_t *at, const uint8_t *head, int head_bytes,
                       const uint8_t *body, Py_ssize_t body_bytes) {
    uint8_t *text = at + outlet->front_bytes + 8;
    memcpy(at, outlet->front, (size_t)outlet->front_bytes);
    put64(at + outlet->front_bytes, counter);
    memcpy(text, head, (size_t)head_bytes);
    memcpy(text + head_bytes, body, (size_t)body_bytes);
    if (aead_seal(outlet->base.cipher, counter, text, (size_t)(head_bytes + body_bytes)) < 0) {
        PyErr_SetString(PyExc_RuntimeError, "libcrypto does not seal");
        return -1;
    }
    return outlet->front_bytes + 8 + head_bytes + body_bytes + TAG_BYTES;
}

/* Gather one plaintext. 1 when taken, 0 when Python must take it, -1 with an exception. */
static int gather(FastPath *path, Outlet *outlet, int traffic_class, const uint8_t *head, int head_bytes,
                  const uint8_t *body, Py_ssize_t body_bytes) {
    if (head_bytes + body_bytes > outlet->room_bytes) return 0;
    Py_ssize_t bytes = outlet->front_bytes + 8 + head_bytes + body_bytes + TAG_BYTES;
    if (path->outlet != NULL &&
        (path->outlet != outlet || path->traffic_class != traffic_class || path->ended || bytes > path->size ||
         path->count == MAX_RUN || path->length + bytes > MAX_RUN_BYTES) &&
        flush(path) < 0)
        return -1;
    uint64_t counter;
    if (take_counters(outlet, 1, &counter) < 0) return PyErr_Occurred() ? -1 : 0;
    if (path->outlet == NULL) {
        path->outlet = (Outlet *)Py_NewRef((PyObject *)outlet);
        path->traffic_class = traffic_class;
        path->size = (int)bytes;
        path->count = 0, path->length = 0, path->ended = 0;
    }
    if (seal(outlet, counter, path->out + path->length, head, head_bytes, body, body_bytes) < 0) return -1;
    path->length += bytes;
    path->count++;
    path->ended = bytes < path->size;
    return touch(path, outlet, 1, head_bytes + body_bytes) < 0 ? -1 : 1;
}

/* The header of a super-packet, as `ipop.superpacket.Head` reads it. */
typedef struct {
    int header_bytes, transport, tcp;
    Py_ssize_t payload_bytes;
} Head;

static int read_head(const uint8_t *packet, Py_ssize_t bytes, Head *head) {
    Py_ssize_t total;
    int protocol;
    if (bytes > 40 && packet[0] >> 4 == 6) {
        head->transport = 40, protocol = packet[6];
        total = 40 + get16(packet + 4);
    } else if (bytes > 20 && packet[0] == 0x45) {
        if (packet[6] & 0x3F || packet[7]) return 0; /* a fragment */
        head->transport = 20, protocol = packet[9];
        total = get16(packet + 2);
    } else {
        return 0;
    }
    head->tcp = protocol == PROTO_TCP;
    if (head->tcp) {
        if (bytes < head->transport + 20 || packet[head->transport + 12] >> 4 < 5) return 0;
        head->header_bytes = head->transport + (packet[head->transport + 12] >> 4) * 4;
    } else if (protocol == PROTO_UDP) {
        head->header_bytes = head->transport + 8;
    } else {
        return 0;
    }
    head->payload_bytes = total - head->header_bytes;
    return head->payload_bytes > 0 && bytes >= head->header_bytes;
}

/* Cut a super-packet and send its segments. As `gather` returns. */
static int cut(FastPath *path, Outlet *outlet, int traffic_class, const uint8_t *frame, Py_ssize_t bytes) {
    const uint8_t *packet = frame + BEFORE_PACKET;
    Head head;
    uint16_t asked;
    if (!outlet->segments || !read_head(packet, bytes - BEFORE_PACKET, &head)) return 0;
    int expected = !head.tcp ? GSO_UDP_L4 : head.transport == 20 ? GSO_TCP4 : GSO_TCP6;
    if ((frame[1] & ~GSO_ECN) != expected || bytes != BEFORE_PACKET + head.header_bytes + head.payload_bytes) return 0;
    memcpy(&asked, frame + 4, sizeof asked);
    Py_ssize_t size = asked, room = outlet->room_bytes - SEGMENT_BYTES - head.header_bytes;
    if (size > room) {
        if (!head.tcp) return 0;
        size = room;
    }
    if (size < LEAST_PIECE_BYTES || head.payload_bytes > size * MAX_PIECES) return 0;
    unsigned count = (unsigned)((head.payload_bytes + size - 1) / size);
    uint64_t counter;
    if (flush(path) < 0) return -1;
    if (take_counters(outlet, count, &counter) < 0) return PyErr_Occurred() ? -1 : 0;
    uint8_t lead[SEGMENT_BYTES + 60 + 60];
    int lead_bytes = SEGMENT_BYTES + head.header_bytes;
    lead[0] = KIND_SEGMENT;
    put16(lead + 3, (unsigned)size);
    memcpy(lead + SEGMENT_BYTES, packet, (size_t)head.header_bytes);
    const uint8_t *payload = packet + head.header_bytes;
    Py_ssize_t left = head.payload_bytes, datagram = outlet->front_bytes + 8 + lead_bytes + size + TAG_BYTES;
    Py_ssize_t most = MAX_RUN_BYTES / datagram < MAX_RUN ? MAX_RUN_BYTES / datagram : MAX_RUN, length = 0, run = 0;
    if (touch(path, outlet, count, (Py_ssize_t)count * lead_bytes + left) < 0) return -1;
    for (unsigned index = 0; index < count; index++) {
        Py_ssize_t piece = left < size ? left : size;
        put16(lead + 1, index);
        Py_ssize_t sealed = seal(outlet, counter + index, path->out + length, lead, lead_bytes, payload, piece);
        if (sealed < 0) return -1;
        length += sealed, payload += piece, left -= piece;
        if (++run == most || index + 1 == count) {
            outlet->sealed_octets += length;
            if (transmit(path, &outlet->route, path->out, length, (int)datagram, traffic_class) < 0) return -1;
            length = 0, run = 0;
        }
    }
    return 1;
}

/* Where the packet of a frame goes, if by here: borrowed. NULL: not, or an exception. */
static Outlet *outlet_of(FastPath *path, const uint8_t *ethernet, Py_ssize_t bytes, int *traffic_class) {
    const uint8_t *packet = ethernet + ETHERNET_BYTES, *to;
    Py_ssize_t to_bytes;
    if (bytes >= ETHERNET_BYTES + 20 && get16(ethernet + 12) == 0x0800) {
        if (memcmp(packet + 12, path->own4, 4) != 0) return NULL;
        to = packet + 16, to_bytes = 4, *traffic_class = packet[1];
    } else if (bytes > ETHERNET_BYTES + 40 && get16(ethernet + 12) == 0x86DD) {
        if (memcmp(packet + 8, path->own6, 16) != 0) return NULL;
        /* Neighbour discovery stays on its link; of ICMPv6 only echoes go by here. */
        if (packet[6] == PROTO_ICMP6 && packet[40] != 128 && packet[40] != 129) return NULL;
        to = packet + 24, to_bytes = 16, *traffic_class = (packet[0] & 15) << 4 | packet[1] >> 4;
    } else {
        return NULL;
    }
    PyObject *found = find(path->outlets, to, to_bytes);
    if (found == NULL || !Py_IS_TYPE(found, &OutletType) || ((Outlet *)found)->base.cipher == NULL) return NULL;
    Outlet *outlet = (Outlet *)found;
    int usable = outlet_usable(path, outlet);
    if (usable == 1) {
        *traffic_class &= outlet->class_mask;
        return outlet;
    }
    if (usable == 0 && PyObject_Size(outlet->route.mouth->queue) == 0) {
        PyObject *key = PyBytes_FromStringAndSize((const char *)to, to_bytes);
        if (key != NULL && PyDict_DelItem(path->outlets, key) < 0) PyErr_Clear();
        Py_XDECREF(key);
    }
    return NULL;
}

static int give(FastPath *path, PyObject *callback, const uint8_t *frame, Py_ssize_t bytes) {
    /* In order: what has been gathered goes first. */
    if (flush(path) < 0 || account_sent(path) < 0) return -1;
    path->gave = 1;
    PyObject *done = PyObject_CallFunction(callback, "y#", frame, bytes);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* Python gathers too: what it was given before must go first. */
static int take_turn(FastPath *path) {
    if (!path->gave) return 0;
    path->gave = 0;
    PyObject *done = PyObject_CallNoArgs(path->on_turn);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* One frame with its virtio_net header: sent, gathered, or given to Python. */
static int send_frame(FastPath *path, const uint8_t *frame, Py_ssize_t bytes) {
    int traffic_class = 0, taken = 0, incomplete = frame[0] & NEEDS_CHECKSUM || frame[1];
    Outlet *outlet = outlet_of(path, frame + VNET_BYTES, bytes - VNET_BYTES, &traffic_class);
    if (outlet == NULL && PyErr_Occurred()) return -1;
    if (outlet != NULL) {
        Py_INCREF(outlet); /* Python may drop it meanwhile. */
        const uint8_t *packet = frame + BEFORE_PACKET;
        if (take_turn(path) < 0) {
            taken = -1;
        } else if (!incomplete) {
            const uint8_t head[1] = {KIND_PACKET};
            taken = gather(path, outlet, traffic_class, head, 1, packet, bytes - BEFORE_PACKET);
        } else if (frame[1]) {
            taken = cut(path, outlet, traffic_class, frame, bytes);
        } else {
            uint16_t from, at;
            memcpy(&from, frame + 6, sizeof from);
            memcpy(&at, frame + 8, sizeof at);
            if (outlet->segments && from > ETHERNET_BYTES && from - ETHERNET_BYTES < 256 && at < 256) {
                const uint8_t head[PARTIAL_BYTES] = {KIND_PARTIAL, (uint8_t)(from - ETHERNET_BYTES), (uint8_t)at};
                taken = gather(path, outlet, traffic_class, head, PARTIAL_BYTES, packet, bytes - BEFORE_PACKET);
            }
        }
        Py_DECREF(outlet);
    }
    if (taken != 0) return taken < 0 ? -1 : 0;
    return incomplete ? give(path, path->on_virtual, frame, bytes)
                      : give(path, path->on_frame, frame + VNET_BYTES, bytes - VNET_BYTES);
}

/* As `ipop.superpacket.is_bulk`: TCP, and more than an acknowledgement. */
static int is_bulk(const uint8_t *frame, Py_ssize_t bytes) {
    Py_ssize_t transport;
    int protocol;
    if (bytes <= BEFORE_PACKET + 20) return 0;
    if (get16(frame + 22) == 0x0800) {
        transport = BEFORE_PACKET + (frame[24] & 15) * 4, protocol = frame[33];
    } else {
        transport = BEFORE_PACKET + 40, protocol = frame[30];
    }
    if (protocol != PROTO_TCP || bytes < transport + 20) {
        int kind = frame[1] & ~GSO_ECN;
        return kind == GSO_TCP4 || kind == GSO_TCP6;
    }
    return frame[transport + 13] != 0x10 || bytes > transport + (frame[transport + 12] >> 4) * 4;
}

static uint8_t *fresh(FastPath *path) {
    uint8_t *bytes = path->spares > 0 ? path->spare[--path->spares] : PyMem_Malloc(FRAME_BYTES);
    if (bytes == NULL) PyErr_NoMemory();
    return bytes;
}

static void used(FastPath *path, uint8_t *bytes) {
    if (path->spares < (int)(sizeof path->spare / sizeof *path->spare))
        path->spare[path->spares++] = bytes;
    else
        PyMem_Free(bytes);
}

/* Read what the TAP has, within bounds. 0, or -1 with an exception. */
int take_frames(FastPath *path, int frames, Py_ssize_t octets) {
    path->tap_wake_ups++;
    path->gave = 0;
    for (int number = 0; number < frames && path->fd >= 0; number++) {
        if (path->frame == NULL && (path->frame = fresh(path)) == NULL) return -1;
        ssize_t bytes = read(path->fd, path->frame, FRAME_BYTES);
        if (bytes < 0) {
            if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) {
                path->tap_busy = number > 1;
                break;
            }
            int error = errno;
            if (flush(path) < 0) return -1;
            PyObject *done = PyObject_CallFunction(path->on_gone, "i", error);
            Py_XDECREF(done);
            return done == NULL ? -1 : 0;
        }
        uint8_t *frame = path->frame;
        if (bytes < BEFORE_PACKET) continue; /* The kernel gives no such frame. */
        if ((frame[0] & NEEDS_CHECKSUM || frame[1]) && is_bulk(frame, bytes)) {
            if (path->bulk_octets + bytes > MAX_BULK_OCTETS || path->bulk_count == BULK_SLOTS) {
                path->bulk_dropped++; /* The newest goes: its connection sends less from now on. */
            } else {
                /* Short ones would hold 64 KiB each: they are copied to what they need. */
                uint8_t *kept = frame;
                if (bytes < FRAME_BYTES / 4) {
                    if ((kept = PyMem_Malloc((size_t)bytes)) == NULL) {
                        PyErr_NoMemory();
                        return -1;
                    }
                    memcpy(kept, frame, (size_t)bytes);
                } else {
                    path->frame = NULL;
                }
                Slot *slot = &path->bulk[(path->bulk_first + path->bulk_count++) % BULK_SLOTS];
                slot->bytes = kept, slot->length = bytes;
                path->bulk_octets += bytes;
            }
        } else if (send_frame(path, frame, bytes) < 0) {
            return -1;
        }
        octets -= bytes;
        if (octets < 0) break;
        if (!path->tap_busy && bytes < SMALL_BYTES && path->tap_wake_ups % LOOK_AGAIN) break;
    }
    return flush(path);
}

/* Send some of what waits. 1 when some still does, 0, or -1 with an exception. */
int take_bulk(FastPath *path) {
    Py_ssize_t left = BULK_OCTETS;
    while (path->bulk_count > 0 && left > 0 && path->fd >= 0) {
        Slot slot = path->bulk[path->bulk_first];
        path->bulk_first = (path->bulk_first + 1) % BULK_SLOTS;
        path->bulk_count--;
        path->bulk_octets -= slot.length;
        left -= slot.length;
        int status = send_frame(path, slot.bytes, slot.length);
        if (slot.length < FRAME_BYTES / 4)
            PyMem_Free(slot.bytes);
        else
            used(path, slot.bytes);
        if (status < 0) return -1;
    }
    if (flush(path) < 0) return -1;
    return path->bulk_count > 0;
}
