/* What Python prepares: guards, sockets, outlets, inlets. Every length is checked here, once. */
#include "fastpath.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stddef.h>
#include <structmember.h>
#include <string.h>

/* --- guards -------------------------------------------------------------------------------------------------------- */

int guards_take(Guards *guards, PyObject *tuples) {
    if (!PyTuple_Check(tuples) || PyTuple_GET_SIZE(tuples) > MAX_GUARDS) {
        PyErr_SetString(PyExc_ValueError, "guards are a tuple of at most 12");
        return -1;
    }
    guards_clear(guards);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuples); i++) {
        Guard guard;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(tuples, i), "OUO", &guard.object, &guard.name, &guard.expected))
            return -1;
        Py_INCREF(guard.object);
        Py_INCREF(guard.name);
        Py_INCREF(guard.expected);
        PyUnicode_InternInPlace(&guard.name);
        guards->each[guards->count++] = guard;
    }
    return 0;
}

int guards_hold(const Guards *guards) {
    for (int i = 0; i < guards->count; i++) {
        PyObject *found = PyObject_GetAttr(guards->each[i].object, guards->each[i].name);
        if (found == NULL) return -1;
        int same = found == guards->each[i].expected;
        Py_DECREF(found);
        if (!same) return 0;
    }
    return 1;
}

int guards_visit(const Guards *guards, visitproc visit, void *arg) {
    for (int i = 0; i < guards->count; i++) {
        Py_VISIT(guards->each[i].object);
        Py_VISIT(guards->each[i].expected);
    }
    return 0;
}

void guards_clear(Guards *guards) {
    while (guards->count > 0) {
        Guard *guard = &guards->each[--guards->count];
        Py_CLEAR(guard->object);
        Py_CLEAR(guard->name);
        Py_CLEAR(guard->expected);
    }
}

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

/* --- addresses ----------------------------------------------------------------------------------------------------- */

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

static int route_take(Route *route, PyObject *mouth, PyObject *endpoint) {
    if ((route->to_bytes = socket_address(endpoint, &route->to)) == 0) return -1;
    Py_XSETREF(route->mouth, (Mouth *)Py_NewRef(mouth));
    Py_XSETREF(route->endpoint, Py_NewRef(endpoint));
    return 0;
}

static int exactly(const Py_buffer *view, Py_ssize_t bytes, const char *what) {
    if (view->len == bytes) return 1;
    PyErr_Format(PyExc_ValueError, "%s has %zd bytes, not %zd", what, view->len, bytes);
    return 0;
}

/* --- Outlet -------------------------------------------------------------------------------------------------------- */

static int outlet_init(Outlet *self, PyObject *args, PyObject *keywords) {
    static char *names[] = {"owner",    "guards",     "mouth",    "endpoint",   "keypair", "key",     "aes", "front",
                            "room_bytes", "segments", "class_mask", "limit",    "dies_at", NULL};
    PyObject *owner, *guards, *mouth, *endpoint, *keypair;
    Py_buffer key, front;
    int aes, room_bytes, segments, class_mask;
    unsigned long long limit;
    double dies_at;
    if (self->cipher != NULL) {
        PyErr_SetString(PyExc_TypeError, "an outlet is made once");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "$OOO!OOy*py*ipiKd", names, &owner, &guards, &MouthType, &mouth,
                                     &endpoint, &keypair, &key, &aes, &front, &room_bytes, &segments, &class_mask,
                                     &limit, &dies_at))
        return -1;
    int status = -1;
    if (!exactly(&key, 32, "a key")) goto done;
    if (front.len != HEAD_BYTES && front.len != MAX_FRONT) {
        PyErr_Format(PyExc_ValueError, "%zd bytes in front of a datagram", front.len);
        goto done;
    }
    if (room_bytes < 0 || room_bytes > MAX_RUN_BYTES - MAX_FRONT - 8 - TAG_BYTES) {
        PyErr_Format(PyExc_ValueError, "room for %d bytes", room_bytes);
        goto done;
    }
    if (route_take(&self->route, mouth, endpoint) < 0 || guards_take(&self->guards, guards) < 0) goto done;
    if ((self->cipher = aead_key(key.buf, aes, 1)) == NULL) goto done;
    memcpy(self->front, front.buf, (size_t)front.len);
    self->front_bytes = (int)front.len;
    self->room_bytes = room_bytes;
    self->segments = segments;
    self->class_mask = class_mask & 0xFF;
    self->limit = limit;
    self->dies_at = dies_at;
    self->keypair = Py_NewRef(keypair);
    self->owner = Py_NewRef(owner);
    status = 0;
done:
    PyBuffer_Release(&key);
    PyBuffer_Release(&front);
    return status;
}

static int outlet_traverse(Outlet *self, visitproc visit, void *arg) {
    Py_VISIT(self->route.mouth);
    Py_VISIT(self->keypair);
    Py_VISIT(self->route.endpoint);
    Py_VISIT(self->owner);
    return guards_visit(&self->guards, visit, arg);
}

static int outlet_clear(Outlet *self) {
    Py_CLEAR(self->route.mouth);
    Py_CLEAR(self->keypair);
    Py_CLEAR(self->route.endpoint);
    Py_CLEAR(self->owner);
    guards_clear(&self->guards);
    return 0;
}

static void outlet_dealloc(Outlet *self) {
    PyObject_GC_UnTrack(self);
    outlet_clear(self);
    aead_free(self->cipher);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *outlet_holds(Outlet *self, PyObject *Py_UNUSED(ignored)) {
    int held = guards_hold(&self->guards);
    return held < 0 ? NULL : PyBool_FromLong(held && boottime_s() < self->dies_at);
}

static PyMethodDef outlet_methods[] = {
    {"holds", (PyCFunction)outlet_holds, METH_NOARGS, "Whether it may still be used."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef outlet_members[] = {
    {"owner", T_OBJECT_EX, offsetof(Outlet, owner), READONLY, "What it was made for."},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject OutletType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "ipop._fastpath.Outlet",
    .tp_doc = "Where packets for one destination go, and under which keys.",
    .tp_basicsize = sizeof(Outlet),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)outlet_init,
    .tp_traverse = (traverseproc)outlet_traverse,
    .tp_clear = (inquiry)outlet_clear,
    .tp_dealloc = (destructor)outlet_dealloc,
    .tp_methods = outlet_methods,
    .tp_members = outlet_members,
};

/* --- Inlet --------------------------------------------------------------------------------------------------------- */

static int inlet_init(Inlet *self, PyObject *args, PyObject *keywords) {
    static char *names[] = {"owner", "guards", "endpoint",      "member",  "window", "key", "aes",
                            "lead",  "head",   "longest_bytes", "dies_at", NULL};
    PyObject *owner, *guards, *endpoint, *member, *window;
    Py_buffer key, lead, head;
    int aes, longest_bytes;
    double dies_at;
    if (self->cipher != NULL) {
        PyErr_SetString(PyExc_TypeError, "an inlet is made once");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "$OOOOOy*py*y*id", names, &owner, &guards, &endpoint, &member,
                                     &window, &key, &aes, &lead, &head, &longest_bytes, &dies_at))
        return -1;
    int status = -1;
    if (!exactly(&key, 32, "a key") || !exactly(&head, HEAD_BYTES, "a head")) goto done;
    if (lead.len != 0 && lead.len != TUNNEL_HEADER_BYTES) {
        PyErr_Format(PyExc_ValueError, "%zd bytes in front of a datagram", lead.len);
        goto done;
    }
    if ((self->from_bytes = socket_address(endpoint, &self->from)) == 0 || guards_take(&self->guards, guards) < 0)
        goto done;
    if ((self->cipher = aead_key(key.buf, aes, 0)) == NULL) goto done;
    memcpy(self->lead, lead.buf, (size_t)lead.len);
    self->lead_bytes = (int)lead.len;
    memcpy(self->head, head.buf, HEAD_BYTES);
    self->longest_bytes = longest_bytes;
    self->dies_at = dies_at;
    self->window = Py_NewRef(window);
    self->endpoint = Py_NewRef(endpoint);
    self->member = Py_NewRef(member);
    self->owner = Py_NewRef(owner);
    status = 0;
done:
    PyBuffer_Release(&key);
    PyBuffer_Release(&lead);
    PyBuffer_Release(&head);
    return status;
}

static int inlet_traverse(Inlet *self, visitproc visit, void *arg) {
    Py_VISIT(self->window);
    Py_VISIT(self->endpoint);
    Py_VISIT(self->member);
    Py_VISIT(self->owner);
    return guards_visit(&self->guards, visit, arg);
}

static int inlet_clear(Inlet *self) {
    Py_CLEAR(self->window);
    Py_CLEAR(self->endpoint);
    Py_CLEAR(self->member);
    Py_CLEAR(self->owner);
    guards_clear(&self->guards);
    return 0;
}

static void inlet_dealloc(Inlet *self) {
    PyObject_GC_UnTrack(self);
    inlet_clear(self);
    aead_free(self->cipher);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *inlet_holds(Inlet *self, PyObject *Py_UNUSED(ignored)) {
    int held = guards_hold(&self->guards);
    return held < 0 ? NULL : PyBool_FromLong(held && boottime_s() < self->dies_at);
}

static PyMethodDef inlet_methods[] = {
    {"holds", (PyCFunction)inlet_holds, METH_NOARGS, "Whether it may still be used."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef inlet_members[] = {
    {"owner", T_OBJECT_EX, offsetof(Inlet, owner), READONLY, "What it was made for."},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject InletType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "ipop._fastpath.Inlet",
    .tp_doc = "What opens datagrams for one index, from one place.",
    .tp_basicsize = sizeof(Inlet),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)inlet_init,
    .tp_traverse = (traverseproc)inlet_traverse,
    .tp_clear = (inquiry)inlet_clear,
    .tp_dealloc = (destructor)inlet_dealloc,
    .tp_methods = inlet_methods,
    .tp_members = inlet_members,
};

/* --- Transit ------------------------------------------------------------------------------------------------------- */

static int transit_init(Transit *self, PyObject *args, PyObject *keywords) {
    static char *names[] = {"owner", "guards", "endpoint", "mouth", "to", "header", NULL};
    PyObject *owner, *guards, *endpoint, *mouth, *to;
    Py_buffer header;
    if (self->owner != NULL) {
        PyErr_SetString(PyExc_TypeError, "a transit is made once");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "$OOOO!Oy*", names, &owner, &guards, &endpoint, &MouthType, &mouth,
                                     &to, &header))
        return -1;
    int fits = exactly(&header, TUNNEL_HEADER_BYTES, "a tunnel's header");
    if (fits) memcpy(self->header, header.buf, TUNNEL_HEADER_BYTES);
    PyBuffer_Release(&header);
    if (!fits || (self->from_bytes = socket_address(endpoint, &self->from)) == 0 ||
        route_take(&self->route, mouth, to) < 0 || guards_take(&self->guards, guards) < 0)
        return -1;
    self->endpoint = Py_NewRef(endpoint);
    self->owner = Py_NewRef(owner);
    return 0;
}

static int transit_traverse(Transit *self, visitproc visit, void *arg) {
    Py_VISIT(self->route.mouth);
    Py_VISIT(self->route.endpoint);
    Py_VISIT(self->endpoint);
    Py_VISIT(self->owner);
    return guards_visit(&self->guards, visit, arg);
}

static int transit_clear(Transit *self) {
    Py_CLEAR(self->route.mouth);
    Py_CLEAR(self->route.endpoint);
    Py_CLEAR(self->endpoint);
    Py_CLEAR(self->owner);
    guards_clear(&self->guards);
    return 0;
}

static void transit_dealloc(Transit *self) {
    PyObject_GC_UnTrack(self);
    transit_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *transit_holds(Transit *self, PyObject *Py_UNUSED(ignored)) {
    int held = guards_hold(&self->guards);
    return held < 0 ? NULL : PyBool_FromLong(held);
}

static PyMethodDef transit_methods[] = {
    {"holds", (PyCFunction)transit_holds, METH_NOARGS, "Whether it may still be used."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef transit_members[] = {
    {"owner", T_OBJECT_EX, offsetof(Transit, owner), READONLY, "What it was made for."},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject TransitType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "ipop._fastpath.Transit",
    .tp_doc = "Where datagrams of one label from one place are passed on to.",
    .tp_basicsize = sizeof(Transit),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)transit_init,
    .tp_traverse = (traverseproc)transit_traverse,
    .tp_clear = (inquiry)transit_clear,
    .tp_dealloc = (destructor)transit_dealloc,
    .tp_methods = transit_methods,
    .tp_members = transit_members,
};
