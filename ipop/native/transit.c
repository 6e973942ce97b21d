/* From socket to socket: what came with the label of a circuit is passed on to its other end, unopened, as `dht.relay`
 * does. */
#include "fastpath.h"

#include <string.h>

int account_passed(FastPath *path) {
    while (path->passed_count > 0) {
        Transit *transit = path->passed_by[--path->passed_count];
        Py_ssize_t octets = transit->octets;
        transit->octets = 0;
        PyObject *done = PyObject_CallFunction(path->on_passed, "On", transit->base.owner, octets);
        Py_DECREF(transit);
        if (done == NULL) return -1;
        Py_DECREF(done);
    }
    return 0;
}

int pass_on(FastPath *path, Mouth *mouth, const Arrival *arrival) {
    uint8_t *datagrams = path->datagrams;
    Py_ssize_t length = arrival->length, size = arrival->size;
    if (size <= TUNNEL_HEADER_BYTES || (length % size > 0 && length % size <= TUNNEL_HEADER_BYTES)) return 0;
    PyObject *both = find(path->transits, datagrams + 4, 4);
    if (both == NULL || !PyTuple_Check(both)) return PyErr_Occurred() ? -1 : 0;
    Transit *transit = NULL;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(both) && transit == NULL; i++) {
        PyObject *each = PyTuple_GET_ITEM(both, i);
        if (Py_IS_TYPE(each, &TransitType) && source_sent(&((Transit *)each)->source, arrival))
            transit = (Transit *)each;
    }
    if (transit == NULL) return 0;
    int usable = source_wrote_here(&transit->source, mouth, arrival);
    if (usable == 1) usable = route_open(&transit->route);
    if (usable == 1) usable = guards_hold(&transit->base.guards);
    if (usable != 1) return usable;
    for (Py_ssize_t at = 0; at < length; at += size)
        if (memcmp(datagrams + at, transit->header, TUNNEL_HEADER_BYTES) != 0) return 0;
    for (Py_ssize_t at = 0; at < length; at += size) datagrams[at + RELAYED_AT] = 1;
    Py_INCREF(transit); /* Python may drop it meanwhile. */
    int status = 1;
    if (transit->octets == 0) {
        if (path->passed_count == MAX_TOUCHED && account_passed(path) < 0) status = -1;
        path->passed_by[path->passed_count++] = (Transit *)Py_NewRef((PyObject *)transit);
    }
    transit->octets += length;
    /* With the congestion marks it came with, as behind any router (RFC 6040, section 4). */
    if (status == 1 && transmit(path, &transit->route, datagrams, length, (int)size, arrival->traffic_class) < 0) status = -1;
    Py_DECREF(transit);
    return status;
}
