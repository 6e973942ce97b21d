/* From the socket to the TAP. A batch is opened as a whole or not at all: until every datagram in it has authenticated,
 * nothing is marked as used and nothing written, so that Python can still judge it one by one. Plaintexts are then
 * written in order; from the first on that is unusual, all go to Python. */
#include "fastpath.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/uio.h>

enum { MAX_BATCH = 512, CONTROL_BYTES = 256 };

static PyObject *newest_name, *accept_rising_name, *member_name, *header_name;

static int names_ready(void) {
    if (header_name != NULL) return 0;
    newest_name = PyUnicode_InternFromString("newest");
    accept_rising_name = PyUnicode_InternFromString("accept_rising");
    member_name = PyUnicode_InternFromString("member");
    header_name = PyUnicode_InternFromString("header");
    return newest_name && accept_rising_name && member_name && header_name ? 0 : -1;
}

static int touch(FastPath *path, Inlet *inlet, Py_ssize_t octets) {
    if (inlet->octets == 0) {
        if (path->heard_count == MAX_TOUCHED && account_heard(path) < 0) return -1;
        path->heard_by[path->heard_count++] = (Inlet *)Py_NewRef((PyObject *)inlet);
    }
    inlet->octets += octets;
    return 0;
}

int account_heard(FastPath *path) {
    while (path->heard_count > 0) {
        Inlet *inlet = path->heard_by[--path->heard_count];
        Py_ssize_t packets = inlet->packets, octets = inlet->octets;
        inlet->packets = inlet->octets = 0;
        PyObject *done = PyObject_CallFunction(path->on_heard, "Onn", inlet->base.owner, packets, octets);
        Py_DECREF(inlet);
        if (done == NULL) return -1;
        Py_DECREF(done);
    }
    return 0;
}

static int write_frame(FastPath *path, const struct iovec *pieces, int count) {
    if (path->fd < 0 || writev(path->fd, pieces, count) >= 0) return 0;
    PyObject *done = PyObject_CallFunction(path->on_tap_error, "i", errno);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* The Ethernet header for packets from `source`, when `inlet`'s peer has proved to hold it: a new reference, or NULL. */
static PyObject *ethernet_of(FastPath *path, Inlet *inlet, const uint8_t *source, Py_ssize_t bytes) {
    PyObject *origin = find(path->origins, source, bytes), *header = NULL;
    if (origin == NULL) return NULL;
    PyObject *member = PyObject_GetAttr(origin, member_name);
    if (member == inlet->member) header = PyObject_GetAttr(origin, header_name);
    Py_XDECREF(member);
    if (header != NULL && (!PyBytes_Check(header) || PyBytes_GET_SIZE(header) != ETHERNET_BYTES)) Py_CLEAR(header);
    return header;
}

/* A plain IP packet for us, whole, and its source proved: the Ethernet header, or NULL. `transport`: where its payload
 * begins. Conditions as in `Inbound._take`. */
static PyObject *plain_packet(FastPath *path, Inlet *inlet, const uint8_t *packet, Py_ssize_t bytes, int *transport,
                              int *protocol, Py_ssize_t total) {
    if (bytes >= 20 && packet[0] == 0x45) {
        if (memcmp(packet + 16, path->own4, 4) != 0 || total != get16(packet + 2) || packet[8] == 0) return NULL;
        *transport = 20, *protocol = packet[9];
        return ethernet_of(path, inlet, packet + 12, 4);
    }
    if (bytes >= 40 && packet[0] >> 4 == 6) {
        if (memcmp(packet + 24, path->own6, 16) != 0 || total != 40 + get16(packet + 4) || packet[7] == 0) return NULL;
        if (packet[6] == PROTO_ICMP6 && (bytes <= 40 || (packet[40] != 128 && packet[40] != 129))) return NULL;
        *transport = 40, *protocol = packet[6];
        return ethernet_of(path, inlet, packet + 8, 16);
    }
    return NULL;
}

static void virtual_header(uint8_t *at, int flags, int kind, unsigned header_bytes, unsigned size, unsigned from,
                           unsigned checksum_at) {
    const uint16_t words[4] = {(uint16_t)header_bytes, (uint16_t)size, (uint16_t)from, (uint16_t)checksum_at};
    at[0] = (uint8_t)flags, at[1] = (uint8_t)kind;
    memcpy(at + 2, words, sizeof words);
}

/* The functions below: how many plaintexts were written, 0 when Python must look, -1 with an exception. */

static int write_packet(FastPath *path, Inlet *inlet, uint8_t *text, Py_ssize_t bytes) {
    int transport, protocol;
    PyObject *ethernet = plain_packet(path, inlet, text + 1, bytes - 1, &transport, &protocol, bytes - 1);
    if (ethernet == NULL) return PyErr_Occurred() ? -1 : 0;
    uint8_t front[BEFORE_PACKET] = {0};
    memcpy(front + VNET_BYTES, PyBytes_AS_STRING(ethernet), ETHERNET_BYTES);
    Py_DECREF(ethernet);
    const struct iovec pieces[] = {{front, sizeof front}, {text + 1, (size_t)bytes - 1}};
    return write_frame(path, pieces, 2) < 0 ? -1 : 1;
}

static int write_partial(FastPath *path, Inlet *inlet, uint8_t *text, Py_ssize_t bytes) {
    int transport = 0, protocol = 0;
    if (bytes <= PARTIAL_BYTES) return 0;
    uint8_t *packet = text + PARTIAL_BYTES;
    Py_ssize_t length = bytes - PARTIAL_BYTES;
    int at = text[2];
    PyObject *ethernet = plain_packet(path, inlet, packet, length, &transport, &protocol, length);
    if (ethernet == NULL) return PyErr_Occurred() ? -1 : 0;
    int fits = text[1] == transport && ((protocol == PROTO_TCP && at == 16 && length >= transport + 20) ||
                                        (protocol == PROTO_UDP && at == 6 && length >= transport + 8));
    uint8_t front[BEFORE_PACKET];
    virtual_header(front, NEEDS_CHECKSUM, 0, 0, 0, (unsigned)(ETHERNET_BYTES + transport), (unsigned)at);
    memcpy(front + VNET_BYTES, PyBytes_AS_STRING(ethernet), ETHERNET_BYTES);
    Py_DECREF(ethernet);
    if (!fits) return 0;
    const struct iovec pieces[] = {{front, sizeof front}, {packet, (size_t)length}};
    return write_frame(path, pieces, 2) < 0 ? -1 : 1;
}

/* A whole super-packet, whose first segment is at `text`; each plaintext has `size` bytes, those left `left` in all. */
static int write_segments(FastPath *path, Inlet *inlet, uint8_t *text, Py_ssize_t size, Py_ssize_t left) {
    Py_ssize_t bytes = left < size ? left : size;
    if (bytes <= SEGMENT_BYTES + 20 || get16(text + 1) != 0) return 0;
    uint8_t *packet = text + SEGMENT_BYTES;
    Py_ssize_t total = packet[0] >> 4 == 4 ? get16(packet + 2) : bytes > SEGMENT_BYTES + 40 ? 40 + get16(packet + 4) : 0;
    int transport, protocol;
    if (packet[0] >> 4 == 4 && (packet[6] & 0x3F || packet[7])) return 0;
    PyObject *ethernet = plain_packet(path, inlet, packet, bytes - SEGMENT_BYTES, &transport, &protocol, total);
    if (ethernet == NULL) return PyErr_Occurred() ? -1 : 0;
    int count = 0, tcp = protocol == PROTO_TCP, header_bytes = transport + 8;
    struct iovec pieces[1 + MAX_PIECES];
    uint8_t front[BEFORE_PACKET + 60 + 60];
    if (tcp && bytes >= SEGMENT_BYTES + transport + 20 && packet[transport + 12] >> 4 >= 5)
        header_bytes = transport + (packet[transport + 12] >> 4) * 4;
    else if (tcp || protocol != PROTO_UDP)
        goto unusual;
    if (!(tcp ? path->takes_tcp : path->takes_udp)) goto unusual;
    Py_ssize_t piece = get16(text + 3), payload = total - header_bytes, start = SEGMENT_BYTES + header_bytes;
    if (piece < LEAST_PIECE_BYTES || payload <= 0 || bytes <= start) goto unusual;
    count = (int)((payload + piece - 1) / piece);
    if (count > (tcp ? MAX_PIECES : MAX_UDP_PIECES) || count * 1L > (left + size - 1) / size) goto unusual;
    for (int index = 0; index < count; index++) {
        uint8_t *each = text + index * size;
        Py_ssize_t room = left - index * size < size ? left - index * size : size;
        Py_ssize_t wanted = index + 1 < count ? piece : payload - (count - 1) * piece;
        if (room != start + wanted || each[0] != KIND_SEGMENT || get16(each + 1) != (unsigned)index ||
            memcmp(each + 3, text + 3, (size_t)start - 3) != 0)
            goto unusual;
        pieces[1 + index].iov_base = each + start;
        pieces[1 + index].iov_len = (size_t)wanted;
    }
    int checksum_at = tcp ? 16 : 6;
    if (count == 1) {
        virtual_header(front, NEEDS_CHECKSUM, 0, 0, 0, (unsigned)(ETHERNET_BYTES + transport), (unsigned)checksum_at);
    } else {
        int kind = !tcp ? GSO_UDP_L4 : transport == 20 ? GSO_TCP4 : GSO_TCP6;
        if (tcp && packet[transport + 13] & 0x80) kind |= GSO_ECN; /* CWR, for the first only */
        virtual_header(front, NEEDS_CHECKSUM, kind, (unsigned)(ETHERNET_BYTES + header_bytes), (unsigned)piece,
                       (unsigned)(ETHERNET_BYTES + transport), (unsigned)checksum_at);
    }
    memcpy(front + VNET_BYTES, PyBytes_AS_STRING(ethernet), ETHERNET_BYTES);
    Py_DECREF(ethernet);
    memcpy(front + BEFORE_PACKET, packet, (size_t)header_bytes);
    pieces[0].iov_base = front, pieces[0].iov_len = (size_t)(BEFORE_PACKET + header_bytes);
    return write_frame(path, pieces, 1 + count) < 0 ? -1 : count;
unusual:
    Py_DECREF(ethernet);
    return 0;
}

/* Give Python the plaintexts from `at` on. */
static int give_opened(FastPath *path, Inlet *inlet, int traffic_class, uint8_t *at, Py_ssize_t size, Py_ssize_t left) {
    PyObject *list = PyList_New(0);
    if (list == NULL) return -1;
    for (; left > 0; at += size, left -= size) {
        PyObject *each = PyBytes_FromStringAndSize((const char *)at, left < size ? left : size);
        if (each == NULL || PyList_Append(list, each) < 0) {
            Py_XDECREF(each);
            Py_DECREF(list);
            return -1;
        }
        Py_DECREF(each);
    }
    PyObject *done = account_heard(path) < 0
                         ? NULL
                         : PyObject_CallFunction(path->on_opened, "OOi", inlet->base.owner, list, traffic_class);
    Py_DECREF(list);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* Whether the window lets these rising counters through, which are marked then. 1, 0, or -1 with an exception. */
static int mark(Inlet *inlet, long long last, const uint64_t *counters, int count) {
    uint64_t newest = counters[count - 1];
    if ((long long)counters[0] == last + 1 && newest - counters[0] == (uint64_t)(count - 1) && newest < INT64_MAX) {
        PyObject *value = PyLong_FromUnsignedLongLong(newest);
        int status = value == NULL ? -1 : PyObject_SetAttr(inlet->window, newest_name, value);
        Py_XDECREF(value);
        return status < 0 ? -1 : 1;
    }
    PyObject *all = PyTuple_New(count);
    if (all == NULL) return -1;
    for (int i = 0; i < count; i++) {
        PyObject *each = PyLong_FromUnsignedLongLong(counters[i]);
        if (each == NULL) {
            Py_DECREF(all);
            return -1;
        }
        PyTuple_SET_ITEM(all, i, each);
    }
    PyObject *answer = PyObject_CallMethodOneArg(inlet->window, accept_rising_name, all);
    Py_DECREF(all);
    int status = answer == NULL ? -1 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
    return status;
}

/* What an inlet opens, which is good to use. Returns as `take`. */
static int open_and_write(FastPath *path, Inlet *inlet, const Arrival *arrival, int skip) {
    const uint8_t *datagrams = path->datagrams;
    Py_ssize_t length = arrival->length, size = arrival->size, before = skip + HEADER_BYTES;
    Py_ssize_t whole = length / size, rest = length % size, count = whole + (rest > 0);
    if (count > MAX_BATCH || (rest > 0 && rest <= before + TAG_BYTES)) return 0;
    uint64_t counters[MAX_BATCH];
    for (Py_ssize_t i = 0; i < count; i++) {
        const uint8_t *each = datagrams + i * size;
        if (memcmp(each, inlet->lead, (size_t)skip) != 0 || memcmp(each + skip, inlet->head, HEAD_BYTES) != 0) return 0;
        counters[i] = get64(each + skip + HEAD_BYTES);
        if (i > 0 && counters[i] <= counters[i - 1]) return 0;
    }
    PyObject *last = PyObject_GetAttr(inlet->window, newest_name);
    if (last == NULL) return -1;
    long long newest = PyLong_AsLongLong(last);
    Py_DECREF(last);
    if (newest == -1 && PyErr_Occurred()) {
        PyErr_Clear(); /* Beyond 2^63: Python's numbers have no end. */
        return 0;
    }
    if (counters[count - 1] >= INT64_MAX || (newest >= 0 && counters[0] <= (uint64_t)newest)) return 0;
    Py_ssize_t text_bytes = size - before - TAG_BYTES, left = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_ssize_t bytes = (i < whole ? size : rest) - before;
        if (aead_open(inlet->base.cipher, counters[i], datagrams + i * size + before, (size_t)bytes, path->plain + left) < 0)
            return 0;
        left += bytes - TAG_BYTES;
    }
    int accepted = mark(inlet, newest, counters, (int)count);
    if (accepted != 1) return accepted;
    int status = touch(path, inlet, length) < 0 ? -1 : 1;
    uint8_t *at = path->plain;
    while (status > 0 && left > 0) {
        Py_ssize_t bytes = left < text_bytes ? left : text_bytes;
        int written = 0;
        if (at[0] == KIND_SEGMENT) {
            written = write_segments(path, inlet, at, text_bytes, left);
        } else if (at[0] == KIND_PACKET) {
            written = write_packet(path, inlet, at, bytes);
        } else if (at[0] == KIND_PARTIAL) {
            written = write_partial(path, inlet, at, bytes);
        }
        if (written < 0) {
            status = -1;
        } else if (written == 0) {
            if (give_opened(path, inlet, arrival->traffic_class, at, text_bytes, left) < 0) status = -1;
            break;
        } else {
            inlet->packets += written;
            left -= written * text_bytes < left ? written * text_bytes : left;
            at += written * text_bytes;
        }
    }
    return status;
}

/* One arrival, a datagram or several together. 1 when dealt with, 0 when Python must look, -1 with an exception. */
static int take(FastPath *path, Mouth *mouth, const Arrival *arrival) {
    const uint8_t *datagrams = path->datagrams;
    Py_ssize_t length = arrival->length, size = arrival->size;
    if (length > TUNNEL_HEADER_BYTES && datagrams[0] == TUNNELLED && datagrams[RELAYED_AT] == 0)
        return pass_on(path, mouth, arrival);
    int skip = length > 0 && datagrams[0] == TUNNELLED ? TUNNEL_HEADER_BYTES : 0, before = skip + HEADER_BYTES;
    if (length <= before + TAG_BYTES || size <= before + TAG_BYTES || datagrams[skip] != TRANSPORT ||
        arrival->traffic_class & ECN_MAY_CHANGE)
        return 0;
    PyObject *found = find(path->inlets, datagrams + skip + 4, 4);
    if (found == NULL) return PyErr_Occurred() ? -1 : 0;
    Inlet *inlet = (Inlet *)found;
    if (!Py_IS_TYPE(found, &InletType) || inlet->lead_bytes != skip || path->now >= inlet->base.dies_at ||
        size > inlet->longest_bytes || !source_sent(&inlet->source, arrival))
        return 0;
    int usable = source_wrote_here(&inlet->source, mouth, arrival);
    if (usable == 1) usable = guards_hold(&inlet->base.guards);
    if (usable != 1) return usable;
    Py_INCREF(inlet); /* Python may drop it meanwhile. */
    int status = open_and_write(path, inlet, arrival, skip);
    Py_DECREF(inlet);
    return status;
}

/* To Python, with what it would have had from `recvmsg`. */
static int give(FastPath *path, PyObject *port, const Arrival *arrival) {
    if (account_heard(path) < 0) return -1;
    PyObject *notes = PyList_New(0);
    if (notes == NULL) return -1;
    struct msghdr message = arrival->message;
    for (struct cmsghdr *note = CMSG_FIRSTHDR(&message); note != NULL; note = CMSG_NXTHDR(&message, note)) {
        PyObject *each = Py_BuildValue("iiy#", note->cmsg_level, note->cmsg_type, CMSG_DATA(note),
                                       (Py_ssize_t)(note->cmsg_len - CMSG_LEN(0)));
        if (each == NULL || PyList_Append(notes, each) < 0) {
            Py_XDECREF(each);
            Py_DECREF(notes);
            return -1;
        }
        Py_DECREF(each);
    }
    char text[INET6_ADDRSTRLEN] = "";
    int number = 0;
    if (arrival->from.ss_family == AF_INET) {
        const struct sockaddr_in *four = (const struct sockaddr_in *)&arrival->from;
        inet_ntop(AF_INET, &four->sin_addr, text, sizeof text), number = ntohs(four->sin_port);
    } else {
        const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)&arrival->from;
        inet_ntop(AF_INET6, &six->sin6_addr, text, sizeof text), number = ntohs(six->sin6_port);
    }
    /* A copy that Python may write to: a relay marks what it passes on. */
    PyObject *bytes = PyByteArray_FromStringAndSize((const char *)path->datagrams, arrival->length);
    PyObject *done =
        bytes == NULL ? NULL : PyObject_CallFunction(path->on_datagrams, "OO(si)N", port, bytes, text, number, notes);
    if (bytes == NULL) Py_DECREF(notes);
    Py_XDECREF(bytes);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* Read what a socket has, at most `limit` datagrams. 0, or -1 with an exception. `port` is Python's own. */
int take_datagrams(FastPath *path, Mouth *mouth, int limit) {
    if (names_ready() < 0) return -1;
    uint8_t control[CONTROL_BYTES] __attribute__((aligned(8)));
    int left = limit;
    mouth->wake_ups++;
    while (left > 0 && path->fd >= 0) {
        int open = mouth_open(mouth);
        if (open != 1) return open;
        Arrival arrival;
        struct iovec all = {path->datagrams, DATAGRAM_BYTES};
        memset(&arrival.message, 0, sizeof arrival.message);
        arrival.message.msg_name = &arrival.from, arrival.message.msg_namelen = sizeof arrival.from;
        arrival.message.msg_iov = &all, arrival.message.msg_iovlen = 1;
        arrival.message.msg_control = control, arrival.message.msg_controllen = sizeof control;
        left--;
        arrival.length = recvmsg(mouth->fd, &arrival.message, MSG_DONTWAIT);
        if (arrival.length < 0) {
            if (errno == EAGAIN || errno == EWOULDBLOCK) {
                mouth->busy = left < limit - 2;
                return 0;
            }
            if (errno == EINTR) continue;
            PyObject *done = PyObject_CallFunction(path->on_datagrams, "OOOi", mouth, Py_None, Py_None, errno);
            Py_XDECREF(done);
            if (done == NULL) return -1;
            continue;
        }
        read_notes(&arrival);
        int together = arrival.size < arrival.length;
        if (together) left -= (int)(arrival.length / arrival.size);
        int taken = take(path, mouth, &arrival);
        if (taken == 0) taken = give(path, (PyObject *)mouth, &arrival);
        if (taken < 0) return -1;
        if (!mouth->busy && !together && mouth->wake_ups % LOOK_AGAIN) return 0;
    }
    return 0;
}
