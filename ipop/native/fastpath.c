/* The module `ipop._fastpath`: see fastpath.h for what it is, ipop/fastpath.py for who prepares it. */
#include "fastpath.h"

#include <errno.h>
#include <string.h>

double boottime_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

PyObject *find(PyObject *dict, const uint8_t *key, Py_ssize_t bytes) {
    PyObject *name = PyBytes_FromStringAndSize((const char *)key, bytes);
    if (name == NULL) return NULL;
    PyObject *found = PyDict_GetItemWithError(dict, name);
    Py_DECREF(name);
    return found;
}

enum { GIVEN = 16 }; /* of Python's objects: dicts, then what is called */

static int path_init(FastPath *self, PyObject *args, PyObject *keywords) {
    static char *names[] = {"descriptor", "takes_tcp", "takes_udp",    "own4",      "own6",    "outlets",
                            "inlets",     "origins",   "transits",     "on_frame",   "on_virtual",   "on_datagrams",
                            "on_opened",  "on_sent",   "on_heard",     "on_passed",  "on_blocked",   "on_tap_error",
                            "on_turn",    "on_gone",   "on_dropped",   NULL};
    int fd, takes_tcp, takes_udp;
    Py_buffer own4, own6;
    PyObject *given[GIVEN];
    if (self->out != NULL) {
        PyErr_SetString(PyExc_TypeError, "a fast path is made once");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "$ippy*y*O!O!O!O!OOOOOOOOOOOO", names, &fd, &takes_tcp, &takes_udp, &own4,
                                     &own6, &PyDict_Type, &given[0], &PyDict_Type, &given[1], &PyDict_Type, &given[2],
                                     &PyDict_Type, &given[3], &given[4], &given[5], &given[6], &given[7], &given[8],
                                     &given[9], &given[10], &given[11], &given[12], &given[13], &given[14], &given[15]))
        return -1;
    int fits = own4.len == 4 && own6.len == 16;
    if (fits) {
        memcpy(self->own4, own4.buf, 4);
        memcpy(self->own6, own6.buf, 16);
    }
    PyBuffer_Release(&own4);
    PyBuffer_Release(&own6);
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "addresses have 4 and 16 bytes");
        return -1;
    }
    PyObject **places[GIVEN] = {&self->outlets,    &self->inlets,       &self->origins,   &self->transits, &self->on_frame,
                                &self->on_virtual, &self->on_datagrams, &self->on_opened, &self->on_sent,  &self->on_heard,
                                &self->on_passed,  &self->on_blocked,   &self->on_tap_error,
                                &self->on_turn,    &self->on_gone,      &self->on_dropped};
    for (int i = 0; i < GIVEN; i++) Py_XSETREF(*places[i], Py_NewRef(given[i]));
    self->fd = fd, self->takes_tcp = takes_tcp, self->takes_udp = takes_udp;
    self->out = PyMem_Malloc(MAX_RUN_BYTES);
    self->datagrams = PyMem_Malloc(DATAGRAM_BYTES + 1);
    self->plain = PyMem_Malloc(DATAGRAM_BYTES + 1);
    self->bulk = PyMem_Calloc(BULK_SLOTS, sizeof *self->bulk);
    if (self->out == NULL || self->datagrams == NULL || self->plain == NULL || self->bulk == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

static int path_traverse(FastPath *self, visitproc visit, void *arg) {
    Py_VISIT(self->outlets);
    Py_VISIT(self->inlets);
    Py_VISIT(self->origins);
    Py_VISIT(self->transits);
    Py_VISIT(self->on_frame);
    Py_VISIT(self->on_virtual);
    Py_VISIT(self->on_datagrams);
    Py_VISIT(self->on_opened);
    Py_VISIT(self->on_sent);
    Py_VISIT(self->on_heard);
    Py_VISIT(self->on_passed);
    Py_VISIT(self->on_blocked);
    Py_VISIT(self->on_tap_error);
    Py_VISIT(self->on_turn);
    Py_VISIT(self->on_gone);
    Py_VISIT(self->on_dropped);
    Py_VISIT(self->outlet);
    for (int i = 0; i < self->sent_count; i++) Py_VISIT(self->sent_by[i]);
    for (int i = 0; i < self->heard_count; i++) Py_VISIT(self->heard_by[i]);
    for (int i = 0; i < self->passed_count; i++) Py_VISIT(self->passed_by[i]);
    return 0;
}

static int path_clear(FastPath *self) {
    Py_CLEAR(self->outlets);
    Py_CLEAR(self->inlets);
    Py_CLEAR(self->origins);
    Py_CLEAR(self->transits);
    Py_CLEAR(self->on_frame);
    Py_CLEAR(self->on_virtual);
    Py_CLEAR(self->on_datagrams);
    Py_CLEAR(self->on_opened);
    Py_CLEAR(self->on_sent);
    Py_CLEAR(self->on_heard);
    Py_CLEAR(self->on_passed);
    Py_CLEAR(self->on_blocked);
    Py_CLEAR(self->on_tap_error);
    Py_CLEAR(self->on_turn);
    Py_CLEAR(self->on_gone);
    Py_CLEAR(self->on_dropped);
    Py_CLEAR(self->outlet);
    while (self->sent_count > 0) Py_DECREF(self->sent_by[--self->sent_count]);
    while (self->heard_count > 0) Py_DECREF(self->heard_by[--self->heard_count]);
    while (self->passed_count > 0) Py_DECREF(self->passed_by[--self->passed_count]);
    return 0;
}

static void path_dealloc(FastPath *self) {
    PyObject_GC_UnTrack(self);
    path_clear(self);
    while (self->bulk != NULL && self->bulk_count > 0) {
        PyMem_Free(self->bulk[self->bulk_first].bytes);
        self->bulk_first = (self->bulk_first + 1) % BULK_SLOTS;
        self->bulk_count--;
    }
    while (self->spares > 0) PyMem_Free(self->spare[--self->spares]);
    PyMem_Free(self->bulk);
    PyMem_Free(self->frame);
    PyMem_Free(self->out);
    PyMem_Free(self->datagrams);
    PyMem_Free(self->plain);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static int enter(FastPath *self) {
    if (self->out == NULL || self->running) {
        PyErr_SetString(PyExc_RuntimeError, "the fast path is being used already");
        return -1;
    }
    self->running = 1;
    self->now = boottime_s();
    return 0;
}

/* What was sent or heard must be accounted for even when a callback raised: the first exception is the one told. */
static PyObject *leave(FastPath *self, int status, PyObject *answer) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    int (*const parts[])(FastPath *) = {flush, account_sent, account_heard, account_passed, account_dropped};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        while (parts[i](self) < 0) { /* Each failure is of one batch or entry, which is not tried again. */
            if (type == NULL) {
                status = -1;
                PyErr_Fetch(&type, &value, &trace);
            } else {
                PyErr_WriteUnraisable((PyObject *)self);
            }
        }
    }
    self->running = 0;
    if (type != NULL) PyErr_Restore(type, value, trace);
    if (status < 0) {
        Py_XDECREF(answer);
        return NULL;
    }
    return answer;
}

PyDoc_STRVAR(read_frames_doc,
             "read_frames(frames, octets) -> bool\n\nTake what the TAP has, within bounds, then some of what waits. Whether "
             "some still does.");

static PyObject *path_read_frames(FastPath *self, PyObject *args) {
    int frames;
    Py_ssize_t octets;
    if (!PyArg_ParseTuple(args, "in", &frames, &octets) || enter(self) < 0) return NULL;
    int status = take_frames(self, frames, octets);
    if (status == 0) status = take_bulk(self);
    return leave(self, status, status < 0 ? NULL : PyBool_FromLong(status));
}

PyDoc_STRVAR(read_datagrams_doc, "read_datagrams(mouth, limit)\n\nTake at most `limit` datagrams that a socket has.");

static PyObject *path_read_datagrams(FastPath *self, PyObject *args) {
    PyObject *mouth;
    int limit;
    if (!PyArg_ParseTuple(args, "O!i", &MouthType, &mouth, &limit) || enter(self) < 0) return NULL;
    int status = take_datagrams(self, (Mouth *)mouth, limit);
    return leave(self, status, status < 0 ? NULL : Py_NewRef(Py_None));
}

PyDoc_STRVAR(close_doc, "close()\n\nRead and write nothing any more.");

static PyObject *path_close(FastPath *self, PyObject *Py_UNUSED(ignored)) {
    self->fd = -1;
    if (self->outlets != NULL) PyDict_Clear(self->outlets);
    if (self->inlets != NULL) PyDict_Clear(self->inlets);
    if (self->transits != NULL) PyDict_Clear(self->transits);
    Py_RETURN_NONE;
}

static PyMethodDef path_methods[] = {
    {"read_frames", (PyCFunction)path_read_frames, METH_VARARGS, read_frames_doc},
    {"read_datagrams", (PyCFunction)path_read_datagrams, METH_VARARGS, read_datagrams_doc},
    {"close", (PyCFunction)path_close, METH_NOARGS, close_doc},
    {NULL, NULL, 0, NULL},
};

PyTypeObject FastPathType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "ipop._fastpath.FastPath",
    .tp_doc = "Moves packets between a TAP and sockets.",
    .tp_basicsize = sizeof(FastPath),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)path_init,
    .tp_traverse = (traverseproc)path_traverse,
    .tp_clear = (inquiry)path_clear,
    .tp_dealloc = (destructor)path_dealloc,
    .tp_methods = path_methods,
};

static int add_types(PyObject *module) {
    PyTypeObject *types[] = {&MouthType, &OutletType, &InletType, &TransitType, &FastPathType};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (PyModule_AddType(module, types[i]) < 0) return -1;
    return 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, add_types}, {0, NULL}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "ipop._fastpath",
    .m_doc = "The data path's steady state in C; all else is Python's.",
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__fastpath(void) { return PyModuleDef_Init(&definition); }
