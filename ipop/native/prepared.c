/* What Python prepares: outlets, inlets, transits, and the guards of each. Every length is checked here, once. */
#include "fastpath.h"

#include <math.h>
#include <stddef.h>
#include <string.h>
#include <structmember.h>

/* --- guards -------------------------------------------------------------------------------------------------------- */

static void guards_clear(Guards *guards) {
    while (guards->count > 0) {
        Guard *guard = &guards->each[--guards->count];
        Py_CLEAR(guard->object);
        Py_CLEAR(guard->name);
        Py_CLEAR(guard->expected);
    }
}

static int guards_take(Guards *guards, PyObject *tuples) {
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

static int guards_visit(const Guards *guards, visitproc visit, void *arg) {
    for (int i = 0; i < guards->count; i++) {
        Py_VISIT(guards->each[i].object);
        Py_VISIT(guards->each[i].expected);
    }
    return 0;
}

/* --- what all of them are ------------------------------------------------------------------------------------------ */

static int made_already(const Prepared *self) {
    if (self->owner == NULL && self->cipher == NULL) return 0;
    PyErr_Format(PyExc_TypeError, "%s is made once", Py_TYPE(self)->tp_name);
    return 1;
}

static int prepared_visit(Prepared *self, visitproc visit, void *arg) {
    Py_VISIT(self->owner);
    return guards_visit(&self->guards, visit, arg);
}

static int prepared_clear(Prepared *self) {
    Py_CLEAR(self->owner);
    guards_clear(&self->guards);
    return 0;
}

static void prepared_dealloc(Prepared *self) {
    PyObject_GC_UnTrack(self);
    Py_TYPE(self)->tp_clear((PyObject *)self);
    aead_free(self->cipher);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *prepared_holds(Prepared *self, PyObject *Py_UNUSED(ignored)) {
    int held = guards_hold(&self->guards);
    return held < 0 ? NULL : PyBool_FromLong(held && boottime_s() < self->dies_at);
}

static PyMethodDef prepared_methods[] = {
    {"holds", (PyCFunction)prepared_holds, METH_NOARGS, "Whether it may still be used."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef prepared_members[] = {
    {"owner", T_OBJECT_EX, offsetof(Prepared, owner), READONLY, "What it was made for."},
    {NULL, 0, 0, 0, NULL},
};

/* Never made itself, and not exported. */
static PyTypeObject PreparedType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "ipop._fastpath.Prepared",
    .tp_basicsize = sizeof(Prepared),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_traverse = (traverseproc)prepared_visit,
    .tp_clear = (inquiry)prepared_clear,
    .tp_dealloc = (destructor)prepared_dealloc,
    .tp_methods = prepared_methods,
    .tp_members = prepared_members,
};

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
    if (made_already(&self->base)) return -1;
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
    if (route_take(&self->route, mouth, endpoint) < 0 || guards_take(&self->base.guards, guards) < 0) goto done;
    if ((self->base.cipher = aead_key(key.buf, aes, 1)) == NULL) goto done;
    memcpy(self->front, front.buf, (size_t)front.len);
    self->front_bytes = (int)front.len;
    self->room_bytes = room_bytes;
    self->segments = segments;
    self->class_mask = class_mask & 0xFF;
    self->limit = limit;
    self->base.dies_at = dies_at;
    self->keypair = Py_NewRef(keypair);
    self->base.owner = Py_NewRef(owner);
    status = 0;
done:
    PyBuffer_Release(&key);
    PyBuffer_Release(&front);
    return status;
}

static int outlet_traverse(Outlet *self, visitproc visit, void *arg) {
    int stopped = route_visit(&self->route, visit, arg);
    if (stopped) return stopped;
    Py_VISIT(self->keypair);
    return prepared_visit(&self->base, visit, arg);
}

static int outlet_clear(Outlet *self) {
    route_clear(&self->route);
    Py_CLEAR(self->keypair);
    return prepared_clear(&self->base);
}

PyTypeObject OutletType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "ipop._fastpath.Outlet",
    .tp_doc = "Where packets for one destination go, and under which keys.",
    .tp_base = &PreparedType,
    .tp_basicsize = sizeof(Outlet),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)outlet_init,
    .tp_traverse = (traverseproc)outlet_traverse,
    .tp_clear = (inquiry)outlet_clear,
};

/* --- Inlet --------------------------------------------------------------------------------------------------------- */

static int inlet_init(Inlet *self, PyObject *args, PyObject *keywords) {
    static char *names[] = {"owner", "guards", "endpoint",      "member",  "window", "key", "aes",
                            "lead",  "head",   "longest_bytes", "dies_at", NULL};
    PyObject *owner, *guards, *endpoint, *member, *window;
    Py_buffer key, lead, head;
    int aes, longest_bytes;
    double dies_at;
    if (made_already(&self->base)) return -1;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "$OOOOOy*py*y*id", names, &owner, &guards, &endpoint, &member,
                                     &window, &key, &aes, &lead, &head, &longest_bytes, &dies_at))
        return -1;
    int status = -1;
    if (!exactly(&key, 32, "a key") || !exactly(&head, HEAD_BYTES, "a head")) goto done;
    if (lead.len != 0 && lead.len != TUNNEL_HEADER_BYTES) {
        PyErr_Format(PyExc_ValueError, "%zd bytes in front of a datagram", lead.len);
        goto done;
    }
    if (source_take(&self->source, endpoint) < 0 || guards_take(&self->base.guards, guards) < 0) goto done;
    if ((self->base.cipher = aead_key(key.buf, aes, 0)) == NULL) goto done;
    memcpy(self->lead, lead.buf, (size_t)lead.len);
    self->lead_bytes = (int)lead.len;
    memcpy(self->head, head.buf, HEAD_BYTES);
    self->longest_bytes = longest_bytes;
    self->base.dies_at = dies_at;
    self->window = Py_NewRef(window);
    self->member = Py_NewRef(member);
    self->base.owner = Py_NewRef(owner);
    status = 0;
done:
    PyBuffer_Release(&key);
    PyBuffer_Release(&lead);
    PyBuffer_Release(&head);
    return status;
}

static int inlet_traverse(Inlet *self, visitproc visit, void *arg) {
    int stopped = source_visit(&self->source, visit, arg);
    if (stopped) return stopped;
    Py_VISIT(self->window);
    Py_VISIT(self->member);
    return prepared_visit(&self->base, visit, arg);
}

static int inlet_clear(Inlet *self) {
    source_clear(&self->source);
    Py_CLEAR(self->window);
    Py_CLEAR(self->member);
    return prepared_clear(&self->base);
}

PyTypeObject InletType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "ipop._fastpath.Inlet",
    .tp_doc = "What opens datagrams for one index, from one place.",
    .tp_base = &PreparedType,
    .tp_basicsize = sizeof(Inlet),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)inlet_init,
    .tp_traverse = (traverseproc)inlet_traverse,
    .tp_clear = (inquiry)inlet_clear,
};

/* --- Transit ------------------------------------------------------------------------------------------------------- */

static int transit_init(Transit *self, PyObject *args, PyObject *keywords) {
    static char *names[] = {"owner", "guards", "endpoint", "mouth", "to", "header", NULL};
    PyObject *owner, *guards, *endpoint, *mouth, *to;
    Py_buffer header;
    if (made_already(&self->base)) return -1;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "$OOOO!Oy*", names, &owner, &guards, &endpoint, &MouthType, &mouth,
                                     &to, &header))
        return -1;
    int fits = exactly(&header, TUNNEL_HEADER_BYTES, "a tunnel's header");
    if (fits) memcpy(self->header, header.buf, TUNNEL_HEADER_BYTES);
    PyBuffer_Release(&header);
    if (!fits || source_take(&self->source, endpoint) < 0 || route_take(&self->route, mouth, to) < 0 ||
        guards_take(&self->base.guards, guards) < 0)
        return -1;
    self->base.dies_at = INFINITY; /* its guards alone decide */
    self->base.owner = Py_NewRef(owner);
    return 0;
}

static int transit_traverse(Transit *self, visitproc visit, void *arg) {
    int stopped = route_visit(&self->route, visit, arg);
    if (!stopped) stopped = source_visit(&self->source, visit, arg);
    if (stopped) return stopped;
    return prepared_visit(&self->base, visit, arg);
}

static int transit_clear(Transit *self) {
    route_clear(&self->route);
    source_clear(&self->source);
    return prepared_clear(&self->base);
}

PyTypeObject TransitType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "ipop._fastpath.Transit",
    .tp_doc = "Where datagrams of one label from one place are passed on to.",
    .tp_base = &PreparedType,
    .tp_basicsize = sizeof(Transit),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)transit_init,
    .tp_traverse = (traverseproc)transit_traverse,
    .tp_clear = (inquiry)transit_clear,
};
