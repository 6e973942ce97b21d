/* One UDP socket as C uses it: where datagrams go by it, what goes beside them, and what came beside those it gave. It
 * is Python's own, and may be closed or full whenever Python has run: this is asked before each use. */
#include "fastpath.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <string.h>
#include <sys/uio.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

/* --- Mouth --------------------------------------------------------------------------------------------------------- */

static int mouth_init(Mouth *self, PyObject *args, PyObject *Py_UNUSED(keywords)) {
    PyObject *port, *arrivals, *queue;
    if (!PyArg_ParseTuple(args, "iOO!O", &self->fd, &port, &PyDict_Type, &arrivals, &queue)) return -1;
    Py_XSETREF(self->port, Py_NewRef(port));
    Py_XSETREF(self->arrivals, Py_NewRef(arrivals));
    Py_XSETREF(self->queue, Py_NewRef(queue));
    return 0;
}

int mouth_open(Mouth *mouth) {
    static PyObject *is_open_name;
    if (mouth->port == NULL) {
        PyErr_SetString(PyExc_ValueError, "a mouth without a port");
        return -1;
    }
    if (is_open_name == NULL && (is_open_name = PyUnicode_InternFromString("is_open")) == NULL) return -1;
    PyObject *open = PyObject_GetAttr(mouth->port, is_open_name);
    int status = open == NULL ? -1 : open == Py_True;
    Py_XDECREF(open);
    return status;
}

static int mouth_traverse(Mouth *self, visitproc visit, void *arg) {
    Py_VISIT(self->port);
    Py_VISIT(self->arrivals);
    Py_VISIT(self->queue);
    return 0;
}

static int mouth_clear(Mouth *self) {
    Py_CLEAR(self->port);
    Py_CLEAR(self->arrivals);
    Py_CLEAR(self->queue);
    return 0;
}

static void mouth_dealloc(Mouth *self) {
    PyObject_GC_UnTrack(self);
    mouth_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

PyTypeObject MouthType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "ipop._fastpath.Mouth",
    .tp_doc = "Mouth(descriptor, port, arrivals, queue): one UDP socket.",
    .tp_basicsize = sizeof(Mouth),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)mouth_init,
    .tp_traverse = (traverseproc)mouth_traverse,
    .tp_clear = (inquiry)mouth_clear,
    .tp_dealloc = (destructor)mouth_dealloc,
};

/* --- places -------------------------------------------------------------------------------------------------------- */

/* From ("192.0.2.1", 7000): what the kernel wants. 0 with an exception when it is no address. */
static socklen_t socket_address(PyObject *endpoint, struct sockaddr_storage *to) {
    const char *text;
    int port;
    if (!PyArg_ParseTuple(endpoint, "si", &text, &port)) return 0;
    memset(to, 0, sizeof *to);
    struct sockaddr_in *four = (struct sockaddr_in *)to;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)to;
    if (port > 0 && port < 65536) {
        if (inet_pton(AF_INET, text, &four->sin_addr) == 1) {
            four->sin_family = AF_INET;
            four->sin_port = htons((uint16_t)port);
            return sizeof *four;
        }
        if (inet_pton(AF_INET6, text, &six->sin6_addr) == 1) {
            six->sin6_family = AF_INET6;
            six->sin6_port = htons((uint16_t)port);
            return sizeof *six;
        }
    }
    PyErr_Format(PyExc_ValueError, "%R is no endpoint", endpoint);
    return 0;
}

int route_take(Route *route, PyObject *mouth, PyObject *endpoint) {
    if ((route->to_bytes = socket_address(endpoint, &route->to)) == 0) return -1;
    Py_XSETREF(route->mouth, (Mouth *)Py_NewRef(mouth));
    Py_XSETREF(route->endpoint, Py_NewRef(endpoint));
    return 0;
}

int route_open(const Route *route) {
    if (route->mouth == NULL || route->mouth->queue == NULL) return 0;
    Py_ssize_t waiting = PyObject_Size(route->mouth->queue);
    return waiting != 0 ? (waiting < 0 ? -1 : 0) : mouth_open(route->mouth);
}

int route_visit(const Route *route, visitproc visit, void *arg) {
    Py_VISIT(route->mouth);
    Py_VISIT(route->endpoint);
    return 0;
}

void route_clear(Route *route) {
    Py_CLEAR(route->mouth);
    Py_CLEAR(route->endpoint);
}

int source_take(Source *source, PyObject *endpoint) {
    if (socket_address(endpoint, &source->from) == 0) return -1;
    Py_XSETREF(source->endpoint, Py_NewRef(endpoint));
    return 0;
}

int source_visit(const Source *source, visitproc visit, void *arg) {
    Py_VISIT(source->endpoint);
    return 0;
}

void source_clear(Source *source) { Py_CLEAR(source->endpoint); }

int source_sent(const Source *source, const Arrival *arrival) {
    const struct sockaddr_storage *known = &source->from, *from = &arrival->from;
    if (known->ss_family != from->ss_family) return 0;
    if (from->ss_family == AF_INET) {
        const struct sockaddr_in *one = (const struct sockaddr_in *)known, *other = (const struct sockaddr_in *)from;
        return one->sin_port == other->sin_port && one->sin_addr.s_addr == other->sin_addr.s_addr;
    }
    const struct sockaddr_in6 *one = (const struct sockaddr_in6 *)known, *other = (const struct sockaddr_in6 *)from;
    return one->sin6_port == other->sin6_port && memcmp(&one->sin6_addr, &other->sin6_addr, 16) == 0;
}

int source_wrote_here(const Source *source, Mouth *mouth, const Arrival *arrival) {
    PyObject *noted = PyDict_GetItemWithError(mouth->arrivals, source->endpoint);
    if (noted == NULL) return PyErr_Occurred() ? -1 : arrival->note == NULL;
    if (!PyTuple_Check(noted) || PyTuple_GET_SIZE(noted) < 1) return 0;
    PyObject *content = PyTuple_GET_ITEM(noted, 0);
    return arrival->note != NULL && PyBytes_Check(content) && PyBytes_GET_SIZE(content) == (Py_ssize_t)arrival->note_bytes &&
           memcmp(PyBytes_AS_STRING(content), arrival->note, arrival->note_bytes) == 0;
}

/* --- what goes and comes beside the data --------------------------------------------------------------------------- */

typedef struct {
    _Alignas(struct cmsghdr) uint8_t
        bytes[CMSG_SPACE(NOTE_BYTES) + CMSG_SPACE(sizeof(uint16_t)) + CMSG_SPACE(sizeof(int))];
    size_t used;
} Notes; /* what goes beside the data of one sendmsg */

static void add_note(Notes *notes, int level, int kind, const void *data, size_t bytes) {
    struct cmsghdr *note = (struct cmsghdr *)(notes->bytes + notes->used);
    memset(note, 0, CMSG_SPACE(bytes));
    note->cmsg_level = level, note->cmsg_type = kind, note->cmsg_len = CMSG_LEN(bytes);
    memcpy(CMSG_DATA(note), data, bytes);
    notes->used += CMSG_SPACE(bytes);
}

int transmit(FastPath *path, const Route *route, uint8_t *from, Py_ssize_t length, int size, int traffic_class) {
    Notes notes = {.used = 0};
    struct iovec all = {from, (size_t)length};
    struct msghdr message = {.msg_name = (void *)&route->to, .msg_namelen = route->to_bytes, .msg_iov = &all, .msg_iovlen = 1};
    /* The address that the peer last wrote to: (content, [(level, kind, answer)]). */
    PyObject *arrival = PyDict_GetItemWithError(route->mouth->arrivals, route->endpoint);
    if (arrival == NULL && PyErr_Occurred()) return -1;
    if (arrival != NULL) {
        PyObject *list, *content;
        int level, kind;
        const char *answer;
        Py_ssize_t bytes;
        if (!PyArg_ParseTuple(arrival, "OO!", &content, &PyList_Type, &list)) return -1;
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
            if (!PyArg_ParseTuple(PyList_GET_ITEM(list, i), "iiy#", &level, &kind, &answer, &bytes)) return -1;
            if (i > 0 || bytes > NOTE_BYTES) goto blocked;
            add_note(&notes, level, kind, answer, (size_t)bytes);
        }
    }
    if (length > size) {
        uint16_t segment = (uint16_t)size;
        add_note(&notes, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof segment);
    }
    if (traffic_class) {
        int six = route->to.ss_family == AF_INET6;
        add_note(&notes, six ? IPPROTO_IPV6 : IPPROTO_IP, six ? IPV6_TCLASS : IP_TOS, &traffic_class, sizeof traffic_class);
    }
    if (notes.used > 0) message.msg_control = notes.bytes, message.msg_controllen = notes.used;
    /* Something that Python was told meanwhile may have closed the socket, and its number be another file's. */
    int open = mouth_open(route->mouth);
    if (open < 0) return -1;
    if (open && sendmsg(route->mouth->fd, &message, MSG_DONTWAIT) >= 0) return 0;
blocked:;
    PyObject *done = PyObject_CallFunction(path->on_blocked, "Oy#ii", route->endpoint, from, length, size, traffic_class);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

void read_notes(Arrival *arrival) {
    arrival->size = (int)arrival->length, arrival->traffic_class = 0, arrival->note = NULL;
    struct msghdr *message = &arrival->message;
    for (struct cmsghdr *note = CMSG_FIRSTHDR(message); note != NULL; note = CMSG_NXTHDR(message, note)) {
        size_t bytes = note->cmsg_len - CMSG_LEN(0);
        int value = 0;
        if (note->cmsg_level == IPPROTO_UDP && note->cmsg_type == UDP_GRO && bytes >= sizeof value) {
            memcpy(&value, CMSG_DATA(note), sizeof value);
            if (value > 0 && value < arrival->length) arrival->size = value;
        } else if ((note->cmsg_level == IPPROTO_IP && note->cmsg_type == IP_TOS) ||
                   (note->cmsg_level == IPPROTO_IPV6 && note->cmsg_type == IPV6_TCLASS)) {
            memcpy(&value, CMSG_DATA(note), bytes < sizeof value ? bytes : sizeof value);
            arrival->traffic_class = value & 0xFF;
        } else if ((note->cmsg_level == IPPROTO_IP && note->cmsg_type == IP_PKTINFO) ||
                   (note->cmsg_level == IPPROTO_IPV6 && note->cmsg_type == IPV6_PKTINFO)) {
            arrival->note = CMSG_DATA(note), arrival->note_bytes = bytes;
        }
    }
}
