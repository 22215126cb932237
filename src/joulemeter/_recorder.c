/* The recorder's hot path: lanes of spans in memory-mapped files, and the gates of rewritten calls.

   The Python twins are lanes.py (Lanes) and gates.py (Gates); one set of tests holds for both, and the
   docstrings there say what each thing promises. Everything here runs under the GIL of the main
   interpreter. A lane is written by one thread at a time. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)
#define FIRST_CHUNK ((size_t)1 << 16)
#define CHUNK ((size_t)1 << 20)
#define RETRY_NS 1000000000LL
#define NEVER_NS INT64_MAX
#define LEAVE (-1)

static inline int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* ---------------------------------------------------------------- lanes */

struct Lanes;

typedef struct {
    int64_t *view;      /* the mapped window, NULL before the first growth and after the end */
    size_t at, room;    /* in int64s: where the next pair goes, and the window's length */
    size_t start, size; /* in bytes: where the window starts, and how much of the file is allocated */
    int64_t *open;      /* the sites of the open spans, outermost first */
    size_t depth, open_room;
    uint64_t lost;      /* open spans that were dropped: the innermost ones */
    uint64_t dropped;
    int64_t from_ns, retry_ns;
    int why, number, announced;
    struct Lanes *owner;
} Lane;

typedef struct Lanes {
    PyObject_HEAD
    char *folder;
    PyObject *named; /* called with (number, name) for each new lane */
    PyObject *tasks; /* task -> lane number, for tasks that hold a span */
    Lane **all;
    Lane **free;
    size_t count, free_count, space;
    uint64_t serial;
    PyObject *key; /* of this object's holder in a thread's dict */
    pid_t pid;
    int closed;
} Lanes;

static uint64_t next_serial = 1;
static __thread struct {
    uint64_t serial;
    Lane *lane;
} here;

static void lane_unmap(Lane *l) {
    if (l->view) munmap(l->view, l->room * 8);
    l->view = NULL;
    l->room = 0;
}

/* 0, or an errno. */
static int lane_remap(Lane *l, size_t size) {
    size_t written = l->start + 8 * l->at;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t start = written - written % page;
    char path[4096];
    if (snprintf(path, sizeof path, "%s/lane-%ld-%d.bin", l->owner->folder, (long)l->owner->pid, l->number) >=
        (int)sizeof path)
        return ENAMETOOLONG;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) return errno;
    int error;
    do error = posix_fallocate(fd, (off_t)l->size, (off_t)(size - l->size));
    while (error == EINTR);
    void *view = MAP_FAILED;
    if (!error) {
        view = mmap(NULL, size - start, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)start);
        if (view == MAP_FAILED) error = errno;
    }
    close(fd);
    if (error) return error;
    lane_unmap(l);
    l->view = view;
    l->start = start;
    l->size = size;
    l->at = (written - start) / 8;
    l->room = (size - start) / 8;
    return 0;
}

static int lane_grow(Lane *l) {
    int64_t now = now_ns();
    if (now < l->retry_ns) return 0;
    size_t need = 16 * (l->depth + 2);
    size_t step = need + FIRST_CHUNK - need % FIRST_CHUNK;
    size_t least = l->size ? CHUNK : FIRST_CHUNK;
    int error = lane_remap(l, l->size + (step > least ? step : least));
    if (error) {
        l->why = error;
        l->retry_ns = now + RETRY_NS;
    }
    return !error;
}

static int lane_push(Lane *l, int64_t site) {
    if (UNLIKELY(l->depth == l->open_room)) {
        size_t room = l->open_room ? 2 * l->open_room : 64;
        int64_t *open = realloc(l->open, room * sizeof *open);
        if (!open) {
            l->why = ENOMEM;
            return 0;
        }
        l->open = open;
        l->open_room = room;
    }
    l->open[l->depth++] = site;
    return 1;
}

/* The code first, the stamp after: a stamp of zero is the file's end. */
static inline void lane_put(Lane *l, int64_t code) {
    int64_t *pair = l->view + l->at;
    pair[1] = code;
    __atomic_store_n(pair, now_ns(), __ATOMIC_RELEASE);
    l->at += 2;
}

static inline void lane_enter(Lane *l, int64_t site) {
    if (UNLIKELY(l->lost) || (UNLIKELY(l->at + 2 * (l->depth + 2) > l->room) && !lane_grow(l)) ||
        UNLIKELY(!lane_push(l, site))) {
        l->lost++;
        if (l->retry_ns != NEVER_NS) {
            l->dropped++;
            if (!l->from_ns) l->from_ns = now_ns();
        }
        return;
    }
    lane_put(l, site);
}

static inline void lane_exit(Lane *l) {
    if (UNLIKELY(l->lost))
        l->lost--;
    else if (LIKELY(l->depth)) {
        l->depth--;
        if (LIKELY(l->view != NULL)) lane_put(l, LEAVE);
    }
}

static inline size_t lane_depth(Lane *l) { return l->depth + l->lost; }

static void lane_leave(Lane *l, size_t depth) {
    while (lane_depth(l) > depth) lane_exit(l);
}

/* A thread's lane, in that thread's dict: when the thread ends, its lane is free for another. */
typedef struct {
    PyObject_HEAD
    Lanes *lanes;
    Lane *lane;
    uint64_t serial;
} Holder;

static void lanes_free_lane(Lanes *s, Lane *l) { s->free[s->free_count++] = l; }

static void holder_dealloc(Holder *self) {
    Lanes *s = self->lanes;
    /* In a forked child, threads are cleared before we are told of the fork: not our file then. */
    if (s->serial == self->serial && !s->closed && s->pid == getpid()) {
        lane_leave(self->lane, 0);
        lanes_free_lane(s, self->lane);
    }
    Py_DECREF(s);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyTypeObject HolderType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "joulemeter._recorder.Holder",
    .tp_basicsize = sizeof(Holder),
    .tp_dealloc = (destructor)holder_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
};

static PyObject *twin(const char *name) {
    PyObject *module = PyImport_ImportModule("joulemeter.lanes");
    if (!module) return NULL;
    PyObject *found = PyObject_GetAttrString(module, name);
    Py_DECREF(module);
    return found;
}

static PyObject *call_twin(const char *name) {
    PyObject *function = twin(name);
    if (!function) return NULL;
    PyObject *result = PyObject_CallNoArgs(function);
    Py_DECREF(function);
    return result;
}

static PyObject *late; /* what a signal's handler raised amid our code: the program's, but not raised in it yet */

static int raise_late(void *error) {
    PyErr_SetObject((PyObject *)Py_TYPE((PyObject *)error), error);
    Py_DECREF((PyObject *)error);
    return -1;
}

/* Has what is late raised where the program goes on. Not before we are done: it would be raised amid us again. */
static void hand_over_late(void) {
    if (late && Py_AddPendingCall(raise_late, late) == 0) late = NULL;
}

/* Ends the exception that code of ours raised beside the program: it is shown, never raised. One that a signal
   raised meanwhile is the program's and kept for it; then 1: what was asked is to be asked again, or left. */
static int fault(PyObject *where) {
    PyObject *type, *error, *trace;
    PyErr_Fetch(&type, &error, &trace);
    PyErr_NormalizeException(&type, &error, &trace);
    if (trace && error) PyException_SetTraceback(error, trace);
    PyObject *function = error ? twin("is_from_signal") : NULL;
    PyObject *answer = function ? PyObject_CallOneArg(function, error) : NULL;
    int is_late = answer == Py_True;
    Py_XDECREF(function);
    Py_XDECREF(answer);
    PyErr_Clear();
    PyErr_Restore(type, error, trace);
    if (!is_late) {
        PyErr_WriteUnraisable(where);
        hand_over_late();
        return 0;
    }
    Py_XSETREF(late, Py_NewRef(error));
    PyErr_Clear();
    return 1;
}

/* The same, of what is not asked again. */
static void end_fault(PyObject *where) {
    fault(where);
    hand_over_late();
}

static void lane_announce(Lanes *s, Lane *l, PyObject *name) {
    if (l->announced || s->closed) return;
    l->announced = 1;
    PyObject *result = name ? PyObject_CallFunction(s->named, "iO", l->number, name) : NULL;
    if (!result) end_fault((PyObject *)s);
    Py_XDECREF(result);
}

static Lane *lanes_new_lane(Lanes *s, int may_reuse) {
    if (may_reuse && s->free_count) return s->free[--s->free_count];
    if (s->count == s->space) {
        size_t space = s->space ? 2 * s->space : 16;
        Lane **all = realloc(s->all, space * sizeof *all);
        if (all) s->all = all;
        Lane **free_ = realloc(s->free, space * sizeof *free_);
        if (free_) s->free = free_;
        if (!all || !free_) return NULL;
        s->space = space;
    }
    Lane *l = calloc(1, sizeof *l);
    if (!l) return NULL;
    l->owner = s;
    l->number = (int)s->count;
    if (s->closed) l->retry_ns = NEVER_NS;
    s->all[s->count++] = l;
    return l;
}

/* Where nothing can be recorded: no memory, or an interpreter that is ending. */
static Lane nowhere = {.retry_ns = NEVER_NS, .announced = 1};

static Lane *lanes_thread_lane(Lanes *s) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    Lane *l = NULL;
    PyObject *mine = PyThreadState_GetDict();
    PyObject *found = mine ? PyDict_GetItem(mine, s->key) : NULL;
    if (found)
        l = ((Holder *)found)->lane;
    else if (mine) {
        PyObject *name = call_twin("thread_name");
        /* The main thread's lane is its own; others come and go. */
        l = lanes_new_lane(s, !name || PyUnicode_CompareWithASCIIString(name, "MainThread") != 0);
        if (l) lane_announce(s, l, name);
        Py_XDECREF(name);
    }
    if (mine && l && !found) {
        Holder *holder = PyObject_New(Holder, &HolderType);
        if (holder) {
            holder->lanes = (Lanes *)Py_NewRef(s);
            holder->lane = l;
            holder->serial = s->serial;
            if (PyDict_SetItem(mine, s->key, (PyObject *)holder) < 0) PyErr_Clear();
            Py_DECREF(holder);
        }
    }
    PyErr_Restore(type, value, trace);
    if (!l) {
        nowhere.lost = 0;
        return &nowhere;
    }
    here.serial = s->serial;
    here.lane = l;
    return l;
}

/* The running asyncio task, new reference; NULL with no exception set where there is none. */
static PyObject *running_task(void) {
    static PyObject *get_loop = NULL;
    PyObject *modules = PyImport_GetModuleDict();
    if (!modules || !PyDict_GetItemString(modules, "asyncio")) return NULL;
    if (!get_loop) {
        PyObject *module = PyImport_ImportModule("asyncio.events");
        if (module) get_loop = PyObject_GetAttrString(module, "_get_running_loop");
        Py_XDECREF(module);
    }
    PyObject *loop = get_loop ? PyObject_CallNoArgs(get_loop) : NULL;
    PyObject *task = loop && loop != Py_None ? call_twin("running_task") : NULL;
    Py_XDECREF(loop);
    if (!task && PyErr_Occurred()) end_fault((PyObject *)&PyModule_Type);
    if (task == Py_None) Py_CLEAR(task);
    return task;
}

static Lane *lanes_task_lane(Lanes *s) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    Lane *l = NULL;
    PyObject *task = running_task();
    if (task) {
        PyObject *number = PyDict_GetItem(s->tasks, task);
        if (number) l = s->all[PyLong_AsLong(number)];
        Py_DECREF(task);
    }
    PyErr_Restore(type, value, trace);
    return l;
}

static inline Lane *lane_of(Lanes *s) {
    if (UNLIKELY(PyDict_GET_SIZE(s->tasks))) {
        Lane *l = lanes_task_lane(s);
        if (l) return l;
    }
    if (LIKELY(here.serial == s->serial)) return here.lane;
    return lanes_thread_lane(s);
}

static void lanes_release_task(Lanes *s) {
    PyObject *task = running_task();
    if (!task) return;
    PyObject *number = PyDict_GetItem(s->tasks, task);
    if (number) {
        lanes_free_lane(s, s->all[PyLong_AsLong(number)]);
        if (PyDict_DelItem(s->tasks, task) < 0) PyErr_Clear();
    }
    Py_DECREF(task);
}

static int lanes_hold_task(Lanes *s) {
    PyObject *task = running_task();
    if (!task) return 0;
    int known = PyDict_Contains(s->tasks, task);
    Lane *l = known == 0 ? lanes_new_lane(s, 1) : NULL;
    if (l) {
        PyObject *number = PyLong_FromLong(l->number);
        known = number ? PyDict_SetItem(s->tasks, task, number) : -1;
        Py_XDECREF(number);
        PyObject *name = PyObject_CallMethod(task, "get_name", NULL);
        lane_announce(s, l, name);
        Py_XDECREF(name);
    }
    Py_DECREF(task);
    return known < 0 ? -1 : 0;
}

static PyObject *lanes_enter(Lanes *s, PyObject *site) {
    int64_t id = PyLong_AsLongLong(site);
    if (id == -1 && PyErr_Occurred()) return NULL;
    lane_enter(lane_of(s), id);
    Py_RETURN_NONE;
}

static PyObject *lanes_exit(Lanes *s, PyObject *Py_UNUSED(none)) {
    Lane *l = lane_of(s);
    lane_exit(l);
    if (UNLIKELY(PyDict_GET_SIZE(s->tasks)) && !lane_depth(l)) lanes_release_task(s);
    Py_RETURN_NONE;
}

static PyObject *lanes_hold(Lanes *s, PyObject *site) {
    int64_t id = PyLong_AsLongLong(site);
    if (id == -1 && PyErr_Occurred()) return NULL;
    if (lanes_hold_task(s) < 0) return NULL;
    Lane *l = lane_of(s);
    lane_enter(l, id);
    return PyLong_FromSize_t(lane_depth(l));
}

static PyObject *lanes_release(Lanes *s, PyObject *token) {
    size_t depth = PyLong_AsSize_t(token);
    if (depth == (size_t)-1 && PyErr_Occurred()) return NULL;
    Lane *l = lane_of(s);
    lane_leave(l, depth ? depth - 1 : 0);
    if (UNLIKELY(PyDict_GET_SIZE(s->tasks)) && !lane_depth(l)) lanes_release_task(s);
    Py_RETURN_NONE;
}

static PyObject *lanes_current(Lanes *s, PyObject *Py_UNUSED(none)) {
    Lane *l = lane_of(s);
    return PyLong_FromLongLong(l->depth ? l->open[l->depth - 1] : -1);
}

static PyObject *lanes_dropped(Lanes *s, PyObject *Py_UNUSED(none)) {
    uint64_t count = 0;
    int64_t from_ns = 0;
    int why = 0;
    for (size_t i = 0; i < s->count; i++) {
        Lane *l = s->all[i];
        if (!l->dropped) continue;
        count += l->dropped;
        if (!why) why = l->why;
        if (!from_ns || l->from_ns < from_ns) from_ns = l->from_ns;
        l->dropped = 0;
        l->from_ns = 0;
    }
    return Py_BuildValue("KsL", (unsigned long long)count, why ? strerror(why) : "", (long long)from_ns);
}

static PyObject *lanes_after_fork(Lanes *s, PyObject *Py_UNUSED(none)) {
    Lane *mine = here.serial == s->serial ? here.lane : NULL;
    s->pid = getpid();
    s->free_count = 0;
    for (size_t i = 0; i < s->count; i++) {
        Lane *l = s->all[i];
        lane_unmap(l);
        l->at = l->start = l->size = 0;
        l->dropped = 0;
        l->from_ns = l->retry_ns = 0;
        l->announced = 0;
        if (s->closed) l->retry_ns = NEVER_NS;
        PyObject *number = PyLong_FromSize_t(i), *values = PyDict_Values(s->tasks);
        int kept = l == mine || (number && values && PySequence_Contains(values, number) == 1);
        Py_XDECREF(number);
        Py_XDECREF(values);
        size_t depth = l->depth;
        l->depth = 0;
        if (kept) {
            for (size_t j = 0; j < depth; j++) lane_enter(l, l->open[j]);
            PyObject *name = call_twin("thread_name");
            lane_announce(s, l, name);
            Py_XDECREF(name);
        } else {
            l->lost = 0;
            lanes_free_lane(s, l);
        }
    }
    if (PyErr_Occurred()) return NULL;
    Py_RETURN_NONE;
}

static void lanes_end(Lanes *s) {
    if (s->closed) return;
    s->closed = 1;
    for (size_t i = 0; i < s->count; i++) {
        Lane *l = s->all[i];
        size_t written = l->start + 8 * l->at;
        l->depth = l->lost = 0;
        l->retry_ns = NEVER_NS;
        lane_unmap(l);
        char path[4096];
        snprintf(path, sizeof path, "%s/lane-%ld-%d.bin", s->folder, (long)s->pid, l->number);
        if (l->size && s->pid == getpid() && truncate(path, (off_t)written)) continue; /* its tail is zeros then */
    }
}

static PyObject *lanes_close(Lanes *s, PyObject *Py_UNUSED(none)) {
    lanes_end(s);
    PyObject *mine = PyThreadState_GetDict();
    if (mine && PyDict_GetItem(mine, s->key)) {
        if (PyDict_DelItem(mine, s->key) < 0) return NULL;
        if (here.serial == s->serial) here.serial = 0;
    }
    Py_RETURN_NONE;
}

static int lanes_init(Lanes *s, PyObject *args, PyObject *Py_UNUSED(kwargs)) {
    const char *folder;
    PyObject *named;
    if (s->folder) {
        PyErr_SetString(PyExc_RuntimeError, "lanes begin once");
        return -1;
    }
    if (!PyArg_ParseTuple(args, "sO", &folder, &named)) return -1;
    s->serial = next_serial++;
    s->key = PyUnicode_FromFormat("joulemeter lanes %llu", (unsigned long long)s->serial);
    s->tasks = PyDict_New();
    s->folder = strdup(folder);
    s->named = Py_NewRef(named);
    s->pid = getpid();
    return s->key && s->tasks && s->folder ? 0 : -1;
}

static int lanes_traverse(Lanes *s, visitproc visit, void *arg) {
    Py_VISIT(s->named);
    Py_VISIT(s->tasks);
    return 0;
}

static int lanes_clear(Lanes *s) {
    Py_CLEAR(s->named);
    if (s->tasks) PyDict_Clear(s->tasks);
    return 0;
}

static void lanes_dealloc(Lanes *s) {
    PyObject_GC_UnTrack(s);
    if (s->folder) lanes_end(s);
    for (size_t i = 0; i < s->count; i++) {
        free(s->all[i]->open);
        free(s->all[i]);
    }
    free(s->all);
    free(s->free);
    free(s->folder);
    if (here.serial == s->serial) here.serial = 0;
    Py_CLEAR(s->named);
    Py_CLEAR(s->tasks);
    Py_CLEAR(s->key);
    Py_TYPE(s)->tp_free((PyObject *)s);
}

static PyMethodDef lanes_methods[] = {
    {"enter", (PyCFunction)lanes_enter, METH_O, "The site starts to run on the calling thread, now."},
    {"exit", (PyCFunction)lanes_exit, METH_NOARGS, "The innermost open span of the calling thread ends, now."},
    {"hold", (PyCFunction)lanes_hold, METH_O, "Enters a span that may be held across awaits."},
    {"release", (PyCFunction)lanes_release, METH_O, "Ends the span that hold entered."},
    {"current", (PyCFunction)lanes_current, METH_NOARGS, "The innermost open site, -1 for none."},
    {"dropped", (PyCFunction)lanes_dropped, METH_NOARGS, "Spans dropped since this was last asked."},
    {"after_fork", (PyCFunction)lanes_after_fork, METH_NOARGS, "In a forked child: files of its own."},
    {"close", (PyCFunction)lanes_close, METH_NOARGS, "Ends all files."},
    {NULL},
};

static PyTypeObject LanesType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "joulemeter._recorder.Lanes",
    .tp_basicsize = sizeof(Lanes),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)lanes_init,
    .tp_dealloc = (destructor)lanes_dealloc,
    .tp_traverse = (traverseproc)lanes_traverse,
    .tp_clear = (inquiry)lanes_clear,
    .tp_methods = lanes_methods,
};

/* ---------------------------------------------------------------- gates: which callee is whose */

enum kind { CALL, ITER, AITER, AWAIT, YIELD_FROM, WITH, WITH_CALLS, ASYNC_WITH, MATMUL, IMATMUL, KINDS };

/* One remembered decision. `object` is a weak reference, or a string or other long-lived thing held strongly;
   `name` distinguishes the methods of one class. */
typedef struct {
    void *object_key, *name_key;
    PyObject *object, *name;
    PyObject *decision; /* an API name, None (not metered), or one of the markers below; owned */
} Slot;

#define MAX_SLOTS ((size_t)1 << 16)

typedef struct {
    PyObject_HEAD
    Lanes *lanes;
    PyObject *judge;
    PyObject *modules; /* module name -> whether it belongs to a metered API */
    PyObject *special; /* builtin functions that consume iterables -> (rule) */
    Slot *slots;
    size_t used, mask;
} Gates;

typedef struct {
    PyObject *name;
    int64_t site;
    uint64_t count, next;
} Entry;

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    Gates *gates;
    PyObject *place;
    Entry **entries;
    int entry_count;
    int kind;
} Gate;

/* Stands between the interpreter and one object it calls, iterates, awaits or enters. */
typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *inner;
    Gate *gate;
    Entry *entry;
    long rule;
    Lane *lane;
    size_t depth;
} Wrap;

static PyTypeObject GateType, MeteredType, ConsumerType, StepsType, IterableType, IteratorType, AsyncIteratorType, ManagerType;
static PyObject *PER_OBJECT; /* a decision: ask about each object of this class */
static PyObject *KEPT;       /* the same, of objects that live as long as their library and take no weak reference */
static PyObject *name_dunder, *partial_type, *generator_manager_type;

static int module_metered(Gates *g, PyObject *name) {
    if (!name || !PyUnicode_Check(name)) return 0;
    PyObject *known = PyDict_GetItemWithError(g->modules, name);
    if (LIKELY(known != NULL)) return known == Py_True;
    if (PyErr_Occurred()) goto fail;
    PyObject *answer;
    while (!(answer = PyObject_CallMethod(g->judge, "module", "O", name)))
        if (!fault(name)) return 0;
    hand_over_late();
    int yes = PyObject_IsTrue(answer);
    Py_DECREF(answer);
    if (yes < 0 || PyDict_SetItem(g->modules, name, yes ? Py_True : Py_False) < 0) goto fail;
    return yes;
fail:
    PyErr_WriteUnraisable(name);
    return 0;
}

static void slots_clear(Gates *g) {
    Slot *old = g->slots;
    size_t n = old ? g->mask + 1 : 0;
    g->slots = NULL;
    g->used = g->mask = 0;
    for (size_t i = 0; i < n; i++) {
        Py_XDECREF(old[i].object);
        Py_XDECREF(old[i].name);
        Py_XDECREF(old[i].decision);
    }
    PyMem_Free(old);
}

static inline size_t slot_hash(void *a, void *b) {
    size_t h = ((size_t)a >> 4) * 0x9E3779B97F4A7C15ull ^ ((size_t)b >> 3) * 0xC2B2AE3D27D4EB4Full;
    return h ^ (h >> 29);
}

static inline int slot_alive(Slot *s) {
    return s->object == s->object_key || PyWeakref_GET_OBJECT(s->object) == (PyObject *)s->object_key;
}

/* Borrowed; NULL where nothing is known yet. */
static inline PyObject *slot_find(Gates *g, void *a, void *b) {
    if (UNLIKELY(!g->slots)) return NULL;
    for (size_t i = slot_hash(a, b);; i++) {
        Slot *s = &g->slots[i & g->mask];
        if (!s->object_key) return NULL;
        if (s->object_key == a && s->name_key == b) return slot_alive(s) ? s->decision : NULL;
    }
}

static void slot_put(Slot *slots, size_t mask, Slot value) {
    size_t i = slot_hash(value.object_key, value.name_key);
    while (slots[i & mask].object_key) i++;
    slots[i & mask] = value;
}

static int slots_grow(Gates *g) {
    if (g->used >= MAX_SLOTS / 2) slots_clear(g);
    size_t room = g->slots ? 2 * (g->mask + 1) : 256, old = g->slots ? g->mask + 1 : 0;
    Slot *fresh = PyMem_Calloc(room, sizeof *fresh);
    if (!fresh) return -1;
    Slot *before = g->slots;
    size_t used = 0;
    /* Entries whose object has died stay behind. They are let go of last: that may run any code. */
    for (size_t i = 0; i < old; i++)
        if (before[i].object_key && slot_alive(&before[i])) {
            slot_put(fresh, room - 1, before[i]);
            used++;
            before[i].object = before[i].name = before[i].decision = NULL;
        }
    g->slots = fresh;
    g->mask = room - 1;
    g->used = used;
    for (size_t i = 0; i < old; i++) {
        Py_XDECREF(before[i].object);
        Py_XDECREF(before[i].name);
        Py_XDECREF(before[i].decision);
    }
    PyMem_Free(before);
    return 0;
}

/* Steals `decision`; returns it borrowed. `object` is remembered weakly unless it is a string or is to be kept;
   where that cannot be, nothing is remembered, and the decision is kept alive by `g->modules`. */
static PyObject *slot_remember(Gates *g, PyObject *object, int keep, PyObject *name, void *name_key, PyObject *decision) {
    PyObject *held = keep || PyUnicode_CheckExact(object) ? Py_NewRef(object) : PyWeakref_NewRef(object, NULL);
    if (!held) {
        PyErr_Clear();
        /* Names are few and shared: interned, they outlive this call. */
        if (PyUnicode_CheckExact(decision)) PyUnicode_InternInPlace(&decision);
        if (PyDict_SetItem(g->modules, decision, Py_None) < 0) PyErr_Clear();
        PyObject *borrowed = decision;
        Py_DECREF(decision);
        return borrowed;
    }
    if ((!g->slots || 2 * (g->used + 1) > g->mask) && slots_grow(g) < 0) {
        Py_DECREF(held);
        Py_DECREF(decision);
        return Py_None;
    }
    for (size_t i = slot_hash(object, name_key);; i++) {
        Slot *s = &g->slots[i & g->mask];
        if (s->object_key && !(s->object_key == object && s->name_key == name_key)) continue;
        Slot before = *s;
        if (!s->object_key) g->used++;
        *s = (Slot){object, name_key, held, Py_XNewRef(name), decision};
        Py_XDECREF(before.object);
        Py_XDECREF(before.name);
        Py_XDECREF(before.decision);
        return decision;
    }
}

/* Asks the judge; what it cannot answer is not metered, and the fault is shown, never raised. */
static PyObject *judge_ask(Gates *g, const char *method, PyObject *a, PyObject *b, PyObject *callee) {
    PyObject *answer;
    while (!(answer = PyObject_CallMethod(g->judge, method, "OOO", a, b ? b : Py_None, callee)))
        if (!fault(callee)) return Py_NewRef(Py_None);
    hand_over_late();
    if (PyUnicode_CheckExact(answer)) PyUnicode_InternInPlace(&answer);
    return answer;
}

/* A function of a metered module: by its module's and its own qualified name. */
static PyObject *decide_function(Gates *g, PyObject *module, PyObject *qualname, void *key, PyObject *callee) {
    PyObject *known = slot_find(g, module, key);
    if (LIKELY(known != NULL)) return known;
    return slot_remember(g, module, 0, qualname, key, judge_ask(g, "function", module, qualname, callee));
}

/* A method (name, or NULL: any) of a class, or its construction (name is the class's own). */
static PyObject *decide_class(Gates *g, PyTypeObject *type, PyObject *name, void *key, PyObject *callee) {
    PyObject *known = slot_find(g, type, key);
    if (LIKELY(known != NULL)) return known;
    return slot_remember(g, (PyObject *)type, 0, name, key, judge_ask(g, "owner", (PyObject *)type, name, callee));
}

static PyObject *decide_object(Gates *g, PyObject *callee) {
    PyObject *known = slot_find(g, callee, NULL);
    if (known) return known;
    return slot_remember(g, callee, 0, NULL, NULL, judge_ask(g, "thing", callee, NULL, callee));
}

/* An object that is called, or whose builtin method (key) is; what else its class answers is the answer. */
static PyObject *decide_kept(Gates *g, PyObject *decision, PyObject *object, void *key, PyObject *callee) {
    if (LIKELY(decision != KEPT)) return decision;
    PyObject *known = slot_find(g, object, key);
    if (known) return known;
    return slot_remember(g, object, 1, NULL, key, judge_ask(g, "thing", callee, NULL, callee));
}

static PyObject *decide_python_function(Gates *g, PyFunctionObject *f) {
    if (module_metered(g, f->func_module)) {
        PyObject *decision = decide_function(g, f->func_module, f->func_qualname, f->func_qualname, (PyObject *)f);
        return LIKELY(decision != PER_OBJECT) ? decision : decide_object(g, (PyObject *)f);
    }
    /* A library's wrapper around the user's function carries the user's name, but its own globals. */
    PyObject *home = PyDict_GetItemWithError(f->func_globals, name_dunder);
    if (home && home != f->func_module && module_metered(g, home)) return decide_object(g, (PyObject *)f);
    return Py_None;
}

static PyObject *names[KINDS + 4]; /* "__call__", ... */
enum { N_CALL, N_ITER, N_AITER, N_AWAIT, N_ENTER, N_MATMUL, N_NEXT };

static PyObject *decide(Gates *g, PyObject *f);

static PyObject *decide_bound(Gates *g, PyMethodObject *m) {
    PyObject *function = m->im_func;
    if (!PyFunction_Check(function)) return decide(g, function);
    PyFunctionObject *f = (PyFunctionObject *)function;
    PyTypeObject *type = PyType_Check(m->im_self) ? (PyTypeObject *)m->im_self : Py_TYPE(m->im_self);
    PyObject *decision = decide_class(g, type, f->func_name, f->func_name, function);
    return decision == Py_None || decision == PER_OBJECT || decision == KEPT ? decide_python_function(g, f) : decision;
}

static PyObject *decide_builtin(Gates *g, PyCFunctionObject *f) {
    PyObject *self = f->m_self;
    if (f->m_module && PyUnicode_CheckExact(f->m_module) && module_metered(g, f->m_module))
        return decide_function(g, f->m_module, NULL, f->m_ml, (PyObject *)f);
    if (!self || PyModule_Check(self)) {
        if (!PyDict_GET_SIZE(g->special)) return Py_None;
        PyObject *rule = PyDict_GetItemWithError(g->special, (PyObject *)f);
        return rule ? rule : Py_None;
    }
    PyTypeObject *type = PyType_Check(self) ? (PyTypeObject *)self : Py_TYPE(self);
    return decide_kept(g, decide_class(g, type, NULL, f->m_ml, (PyObject *)f), self, f->m_ml, (PyObject *)f);
}

/* Borrowed: an API name, a rule (int) for what consumes iterables, or None. */
static PyObject *decide(Gates *g, PyObject *f) {
    PyTypeObject *type = Py_TYPE(f);
    if (type == &PyFunction_Type) return decide_python_function(g, (PyFunctionObject *)f);
    if (type == &PyMethod_Type) return decide_bound(g, (PyMethodObject *)f);
    if (PyCFunction_Check(f)) return decide_builtin(g, (PyCFunctionObject *)f);
    if (PyType_Check(f)) return decide_class(g, (PyTypeObject *)f, NULL, NULL, f);
    if (type == &PyMethodDescr_Type || type == &PyWrapperDescr_Type || type == &PyClassMethodDescr_Type)
        return decide_class(g, PyDescr_TYPE(f), PyDescr_NAME(f), PyDescr_NAME(f), f);
    if ((PyObject *)type == partial_type) {
        PyObject *inner = PyObject_GetAttrString(f, "func");
        if (!inner) {
            PyErr_Clear();
            return Py_None;
        }
        Py_DECREF(inner); /* the partial keeps it */
        return decide(g, inner);
    }
    PyObject *decision = decide_class(g, type, names[N_CALL], names[N_CALL], f);
    return decision == PER_OBJECT ? decide_object(g, f) : decide_kept(g, decision, f, NULL, f);
}

/* ---------------------------------------------------------------- gates: sites and spans */

static Entry *gate_entry(Gate *self, PyObject *name) {
    for (int i = 0; i < self->entry_count; i++)
        if (LIKELY(self->entries[i]->name == name)) return self->entries[i];
    for (int i = 0; i < self->entry_count; i++)
        if (PyUnicode_Compare(self->entries[i]->name, name) == 0) return self->entries[i];
    Py_INCREF(name); /* what remembers it may be cleared while the judge is asked */
    PyObject *id;
    while (!(id = PyObject_CallMethod(self->gates->judge, "site", "OO", self->place, name)) && fault((PyObject *)self)) {}
    hand_over_late();
    int64_t site = id ? PyLong_AsLongLong(id) : -1;
    Py_XDECREF(id);
    Entry *made = site < 0 ? NULL : PyMem_Malloc(sizeof *made);
    Entry **entries = made ? PyMem_Realloc(self->entries, (self->entry_count + 1) * sizeof *entries) : NULL;
    if (!entries) {
        PyMem_Free(made);
        Py_DECREF(name);
        if (PyErr_Occurred()) PyErr_WriteUnraisable((PyObject *)self);
        return NULL;
    }
    *made = (Entry){name, site, 0, 1};
    self->entries = entries;
    self->entries[self->entry_count++] = made;
    return made;
}

static void describe(Wrap *self, PyObject *const *args, size_t nargsf, PyObject *keywords) {
    Entry *e = self->entry;
    /* The first four calls, then each time the count has grown by half. */
    e->next = e->count < 4 ? e->count + 1 : e->count + e->count / 2;
    Py_ssize_t positional = PyVectorcall_NARGS(nargsf), named = keywords ? PyTuple_GET_SIZE(keywords) : 0;
    PyObject *tuple = PyTuple_New(positional + named);
    if (!tuple) {
        PyErr_Clear();
        return;
    }
    for (Py_ssize_t i = 0; i < positional + named; i++) PyTuple_SET_ITEM(tuple, i, Py_NewRef(args[i]));
    PyObject *result = PyObject_CallMethod(self->gate->gates->judge, "describe", "LKOOO", (long long)e->site,
                                           (unsigned long long)e->count, tuple, keywords ? keywords : Py_None, self->inner);
    if (!result) end_fault((PyObject *)self->gate);
    Py_XDECREF(result);
    Py_DECREF(tuple);
}

static void describe_call(Wrap *self, PyObject *args, PyObject *keywords) {
    PyObject *values = keywords ? PyDict_Values(keywords) : PyList_New(0), *names = keywords ? PyDict_Keys(keywords) : NULL;
    PyObject *tuple = names ? PyList_AsTuple(names) : NULL, *all = values ? PySequence_List(args) : NULL;
    if (all && PyList_SetSlice(all, PyList_GET_SIZE(all), PyList_GET_SIZE(all), values) == 0 && (tuple || !keywords)) {
        Py_ssize_t positional = PyTuple_GET_SIZE(args);
        describe(self, ((PyListObject *)all)->ob_item, positional, tuple);
    }
    if (PyErr_Occurred()) PyErr_Clear();
    Py_XDECREF(values);
    Py_XDECREF(names);
    Py_XDECREF(tuple);
    Py_XDECREF(all);
}

static int wrap_gone(Wrap *self) {
    if (self->inner) return 0;
    PyErr_SetString(PyExc_RuntimeError, "the metered object was collected");
    return 1;
}

static inline Lane *begin(Wrap *self) {
    Lane *l = lane_of(self->gate->gates->lanes);
    lane_enter(l, self->entry->site);
    return l;
}

#define FREE_WRAPS 32
static Wrap *free_wraps[FREE_WRAPS];
static int free_wrap_count = 0;

static PyObject *metered_vectorcall(PyObject *, PyObject *const *, size_t, PyObject *);
static PyObject *consumer_vectorcall(PyObject *, PyObject *const *, size_t, PyObject *);

static PyObject *wrap_call(Gate *gate, PyObject *f, Entry *entry, long rule) {
    Wrap *w;
    if (LIKELY(free_wrap_count)) {
        w = free_wraps[--free_wrap_count];
        Py_SET_TYPE(w, entry ? &MeteredType : &ConsumerType);
        _Py_NewReference((PyObject *)w);
    } else if (!(w = PyObject_New(Wrap, entry ? &MeteredType : &ConsumerType)))
        return NULL;
    /* What takes a tuple and a dictionary is given those that Python made, not others like them. */
    w->vectorcall = !PyVectorcall_Function(f) ? NULL : entry ? metered_vectorcall : consumer_vectorcall;
    w->inner = Py_NewRef(f);
    w->gate = (Gate *)Py_NewRef(gate);
    w->entry = entry;
    w->rule = rule;
    return (PyObject *)w;
}

static void call_dealloc(Wrap *self) {
    PyObject *inner = self->inner;
    Gate *gate = self->gate;
    if (free_wrap_count < FREE_WRAPS)
        free_wraps[free_wrap_count++] = self;
    else
        PyObject_Free(self);
    Py_DECREF(inner);
    Py_DECREF(gate);
}

static PyObject *metered_vectorcall(PyObject *me, PyObject *const *args, size_t nargsf, PyObject *keywords) {
    Wrap *self = (Wrap *)me;
    if (UNLIKELY(++self->entry->count >= self->entry->next)) describe(self, args, nargsf, keywords);
    Lane *l = begin(self);
    PyObject *result = PyObject_Vectorcall(self->inner, args, nargsf, keywords);
    lane_exit(l);
    return result;
}

static PyObject *metered_call(Wrap *self, PyObject *args, PyObject *keywords) {
    if (UNLIKELY(++self->entry->count >= self->entry->next)) describe_call(self, args, keywords);
    Lane *l = begin(self);
    PyObject *result = PyObject_Call(self->inner, args, keywords);
    lane_exit(l);
    return result;
}

/* What Python asks of a callee (its name, for a message about its arguments) is the callee's own. */
static PyObject *inner_attribute(Wrap *self, PyObject *name) {
    if (wrap_gone(self)) return NULL;
    return PyObject_GetAttr(self->inner, name);
}

static PyObject *inner_str(Wrap *self) { return wrap_gone(self) ? NULL : PyObject_Str(self->inner); }

static PyObject *wrap_new(PyTypeObject *type, Gate *gate, PyObject *inner, Entry *entry) {
    Wrap *w = PyObject_GC_New(Wrap, type);
    if (!w) return NULL;
    w->vectorcall = NULL;
    w->inner = Py_NewRef(inner);
    w->gate = (Gate *)Py_NewRef(gate);
    w->entry = entry;
    w->lane = NULL;
    w->depth = 0;
    PyObject_GC_Track(w);
    return (PyObject *)w;
}

static int wrap_traverse(Wrap *self, visitproc visit, void *arg) {
    Py_VISIT(self->inner);
    Py_VISIT(self->gate);
    return 0;
}

static int wrap_clear(Wrap *self) {
    Py_CLEAR(self->inner);
    return 0;
}

static void wrap_dealloc(Wrap *self) {
    PyObject_GC_UnTrack(self);
    Py_CLEAR(self->inner);
    Py_CLEAR(self->gate);
    PyObject_GC_Del(self);
}

static PyObject *itself(PyObject *self) { return Py_NewRef(self); }

/* --- iteration: a span for the making of the iterator, and one for each next. */

/* What it is asked to send, to throw, or to copy, is asked of the iterator itself. */
static PyObject *iterator_reduce(Wrap *self, PyObject *Py_UNUSED(none)) {
    return wrap_gone(self) ? NULL : PyObject_CallMethod(self->inner, "__reduce__", NULL);
}

static PyMethodDef iterator_methods[] = {
    {"__reduce__", (PyCFunction)iterator_reduce, METH_NOARGS, "A copy is one of the iterator itself."},
    {NULL},
};

static PyObject *iterator_next(Wrap *self) {
    if (wrap_gone(self)) return NULL;
    Lane *l = begin(self);
    PyObject *item = Py_TYPE(self->inner)->tp_iternext(self->inner);
    lane_exit(l);
    return item;
}

static PyObject *iterable_iter(Wrap *self) {
    if (wrap_gone(self)) return NULL;
    Lane *l = begin(self);
    PyObject *inner = PyObject_GetIter(self->inner);
    lane_exit(l);
    if (!inner) return NULL;
    PyObject *made = wrap_new(&IteratorType, self->gate, inner, self->entry);
    Py_DECREF(inner);
    return made;
}

/* `list(x)` and `[*x]` ask how long x is, and so they do here. */
static PyObject *iterable_length_hint(Wrap *self, PyObject *Py_UNUSED(none)) {
    if (wrap_gone(self)) return NULL;
    Py_ssize_t hint = PyObject_LengthHint(self->inner, -1);
    if (hint >= 0) return PyLong_FromSsize_t(hint);
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_NotImplemented);
}

static PyMethodDef iterable_methods[] = {
    {"__length_hint__", (PyCFunction)iterable_length_hint, METH_NOARGS, "How many items there may be."},
    {NULL},
};

/* Something that iterates, metered, once it is asked to: `f(*x, k=g())` calls g before it iterates x. Sets
   are left to Python, which looks into them. */
static PyObject *iterate(Gate *gate, PyObject *iterable, Entry *entry) {
    return PyAnySet_Check(iterable) ? Py_NewRef(iterable) : wrap_new(&IterableType, gate, iterable, entry);
}

/* --- awaiting: a span for each step. */

static PySendResult steps_send(Wrap *self, PyObject *value, PyObject **result) {
    *result = NULL;
    if (wrap_gone(self)) return PYGEN_ERROR;
    Lane *l = begin(self);
    PySendResult sent = PyIter_Send(self->inner, value, result);
    lane_exit(l);
    return sent;
}

static PyObject *steps_result(PySendResult sent, PyObject *result) {
    if (sent == PYGEN_RETURN) {
        if (result == Py_None)
            PyErr_SetNone(PyExc_StopIteration);
        else {
            PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, result);
            if (stop) PyErr_SetObject(PyExc_StopIteration, stop);
            Py_XDECREF(stop);
        }
        Py_CLEAR(result);
    }
    return result;
}

static PyObject *steps_next(Wrap *self) {
    PyObject *result;
    PySendResult sent = steps_send(self, Py_None, &result);
    return steps_result(sent, result);
}

static PyObject *steps_send_method(Wrap *self, PyObject *value) {
    PyObject *result;
    PySendResult sent = steps_send(self, value, &result);
    return steps_result(sent, result);
}

static PyObject *steps_method(Wrap *self, const char *name, PyObject *args) {
    if (wrap_gone(self)) return NULL;
    PyObject *method = PyObject_GetAttrString(self->inner, name);
    if (!method) return NULL;
    Lane *l = begin(self);
    PyObject *result = PyObject_Call(method, args, NULL);
    lane_exit(l);
    Py_DECREF(method);
    return result;
}

/* An iterator without throw or close of its own has them done as `yield from` does: the error is raised here. */
static PyObject *steps_throw(Wrap *self, PyObject *args) { return steps_method(self, "throw", args); }

static PyObject *steps_close(Wrap *self, PyObject *Py_UNUSED(none)) {
    PyObject *nothing = PyTuple_New(0);
    if (!nothing) return NULL;
    PyObject *result = steps_method(self, "close", nothing);
    Py_DECREF(nothing);
    return result;
}

/* The iterator that `await` would drive, new reference. */
static PyObject *awaited(PyObject *object) {
    if (PyCoro_CheckExact(object) || PyGen_CheckExact(object)) return Py_NewRef(object);
    PyAsyncMethods *async = Py_TYPE(object)->tp_as_async;
    if (async && async->am_await) return async->am_await(object);
    PyErr_Format(PyExc_TypeError, "object %.100s can't be used in 'await' expression", Py_TYPE(object)->tp_name);
    return NULL;
}

static PyObject *steps_of(Gate *gate, PyObject *object, Entry *entry) {
    PyObject *inner = awaited(object);
    if (!inner) return NULL;
    PyObject *made = wrap_new(&StepsType, gate, inner, entry);
    Py_DECREF(inner);
    return made;
}

static PyMethodDef steps_methods[] = {
    {"send", (PyCFunction)steps_send_method, METH_O, "Sends into the awaited."},
    {"throw", (PyCFunction)steps_throw, METH_VARARGS, "Raises in the awaited."},
    {"close", (PyCFunction)steps_close, METH_NOARGS, "Closes the awaited."},
    {NULL},
};

static PyAsyncMethods steps_async = {.am_await = itself, .am_send = (sendfunc)steps_send};

/* --- async iteration: the making of each awaitable, and its steps. */

static PyObject *async_iterator_next(Wrap *self) {
    if (wrap_gone(self)) return NULL;
    PyAsyncMethods *async = Py_TYPE(self->inner)->tp_as_async;
    if (!async || !async->am_anext) {
        PyErr_Format(PyExc_TypeError, "'async for' requires an iterator with __anext__ method, got %.100s",
                     Py_TYPE(self->inner)->tp_name);
        return NULL;
    }
    Lane *l = begin(self);
    PyObject *next = async->am_anext(self->inner);
    lane_exit(l);
    if (!next) return NULL;
    PyObject *made = steps_of(self->gate, next, self->entry);
    Py_DECREF(next);
    return made;
}

static PyAsyncMethods async_iterator_async = {.am_aiter = itself, .am_anext = (unaryfunc)async_iterator_next};

static PyObject *async_iterate(Gate *gate, PyObject *iterable, Entry *entry) {
    PyAsyncMethods *async = Py_TYPE(iterable)->tp_as_async;
    if (!async || !async->am_aiter) return Py_NewRef(iterable);
    Wrap probe = {.gate = gate, .entry = entry};
    Lane *l = begin(&probe);
    PyObject *inner = async->am_aiter(iterable);
    lane_exit(l);
    if (!inner) return NULL;
    PyObject *made = wrap_new(&AsyncIteratorType, gate, inner, entry);
    Py_DECREF(inner);
    return made;
}

/* --- with blocks: one span from entry to exit; where the block may be suspended, one for each end. */

static PyObject *special_call(PyObject *object, const char *name, PyObject *const *args, Py_ssize_t count) {
    PyObject *text = PyUnicode_InternFromString(name);
    PyObject *method = text ? _PyType_Lookup(Py_TYPE(object), text) : NULL;
    Py_XDECREF(text);
    if (!method) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_AttributeError, name);
        return NULL;
    }
    Py_INCREF(method);
    PyObject *result;
    if (Py_TYPE(method)->tp_flags & Py_TPFLAGS_METHOD_DESCRIPTOR) {
        PyObject *all[4] = {object};
        for (Py_ssize_t i = 0; i < count; i++) all[i + 1] = args[i];
        result = PyObject_Vectorcall(method, all, count + 1, NULL);
    } else {
        descrgetfunc get = Py_TYPE(method)->tp_descr_get;
        PyObject *bound = get ? get(method, object, (PyObject *)Py_TYPE(object)) : Py_NewRef(method);
        result = bound ? PyObject_Vectorcall(bound, args, count, NULL) : NULL;
        Py_XDECREF(bound);
    }
    Py_DECREF(method);
    return result;
}

static PyObject *manager_enter(Wrap *self, PyObject *Py_UNUSED(none)) {
    if (wrap_gone(self)) return NULL;
    Lane *l = begin(self);
    size_t depth = lane_depth(l);
    PyObject *result = special_call(self->inner, "__enter__", NULL, 0);
    if (!result || self->gate->kind == WITH_CALLS)
        lane_exit(l);
    else {
        self->lane = l;
        self->depth = depth;
    }
    return result;
}

static PyObject *manager_exit(Wrap *self, PyObject *const *args, Py_ssize_t count) {
    if (wrap_gone(self)) return NULL;
    Lane *l = self->lane ? self->lane : begin(self);
    PyObject *result = special_call(self->inner, "__exit__", args, count);
    if (self->lane)
        lane_leave(l, self->depth - 1);
    else
        lane_exit(l);
    self->lane = NULL;
    return result;
}

static PyObject *manager_async(Wrap *self, const char *name, PyObject *const *args, Py_ssize_t count) {
    if (wrap_gone(self)) return NULL;
    Lane *l = begin(self);
    PyObject *awaitable = special_call(self->inner, name, args, count);
    lane_exit(l);
    if (!awaitable) return NULL;
    PyObject *made = steps_of(self->gate, awaitable, self->entry);
    Py_DECREF(awaitable);
    return made;
}

static PyObject *manager_aenter(Wrap *self, PyObject *Py_UNUSED(none)) {
    return manager_async(self, "__aenter__", NULL, 0);
}

static PyObject *manager_aexit(Wrap *self, PyObject *const *args, Py_ssize_t count) {
    return manager_async(self, "__aexit__", args, count);
}

static PyMethodDef manager_methods[] = {
    {"__enter__", (PyCFunction)manager_enter, METH_NOARGS, "Enters the metered manager."},
    {"__exit__", (PyCFunction)(void (*)(void))manager_exit, METH_FASTCALL, "Leaves the metered manager."},
    {"__aenter__", (PyCFunction)manager_aenter, METH_NOARGS, "Enters the metered manager."},
    {"__aexit__", (PyCFunction)(void (*)(void))manager_aexit, METH_FASTCALL, "Leaves the metered manager."},
    {NULL},
};

/* ---------------------------------------------------------------- gates: the objects in rewritten code */

static Entry *entry_of(Gate *gate, PyObject *decision) {
    return PyUnicode_Check(decision) ? gate_entry(gate, decision) : NULL;
}

/* The module a generator's or coroutine's code belongs to, and its name: (decision, borrowed). */
static PyObject *decide_suspended(Gates *g, PyObject *object, const char *frame_name) {
    PyObject *decision = Py_None;
    PyObject *frame = PyObject_GetAttrString(object, frame_name);
    if (frame && PyFrame_Check(frame)) {
        PyObject *globals = PyFrame_GetGlobals((PyFrameObject *)frame);
        PyObject *home = globals ? PyDict_GetItemWithError(globals, name_dunder) : NULL;
        if (module_metered(g, home)) {
            PyObject *name = PyObject_GetAttrString(object, "__qualname__");
            if (name) decision = decide_function(g, home, name, name, object);
            Py_XDECREF(name);
        }
        Py_XDECREF(globals);
    }
    Py_XDECREF(frame);
    if (PyErr_Occurred()) PyErr_Clear();
    return decision;
}

/* What owns an object that is iterated, awaited or entered, as a decision. */
static PyObject *decide_use(Gates *g, PyObject *object, PyObject *method) {
    if (PyGen_CheckExact(object)) return decide_suspended(g, object, "gi_frame");
    if (PyCoro_CheckExact(object)) return decide_suspended(g, object, "cr_frame");
    if (PyAsyncGen_CheckExact(object)) return decide_suspended(g, object, "ag_frame");
    if ((PyObject *)Py_TYPE(object) == generator_manager_type) {
        PyObject *generator = PyObject_GetAttrString(object, "gen");
        if (!generator) {
            PyErr_Clear();
            return Py_None;
        }
        PyObject *decision = PyGen_CheckExact(generator) ? decide_suspended(g, generator, "gi_frame") : Py_None;
        Py_DECREF(generator);
        return decision;
    }
    PyObject *decision = decide_class(g, Py_TYPE(object), method, method, object);
    return PyUnicode_Check(decision) ? decision : Py_None;
}

static int iterable(PyObject *object) { return Py_TYPE(object)->tp_iter || PySequence_Check(object); }

/* Rules: which arguments a builtin iterates over. Bit i: argument i; bit 8: all; bit 9: only when alone;
   bit 10: a single step, a span of its own. */
#define RULE_ALL (1L << 8)
#define RULE_ALONE (1L << 9)
#define RULE_STEP (1L << 10)
#define RULE_READER (1L << 11) /* reads the bytecode of the functions it is given: give it what they wrote */

static void restore(Wrap *self, PyObject *const *args, Py_ssize_t count) {
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!PyFunction_Check(args[i])) continue;
        PyObject *done = PyObject_CallMethod(self->gate->gates->judge, "restore", "O", args[i]);
        if (!done) end_fault((PyObject *)self->gate);
        Py_XDECREF(done);
    }
}

static PyObject *consumer_step(Wrap *self, PyObject *const *args, size_t nargsf, PyObject *keywords) {
    PyObject *method = self->rule & 1 ? names[N_ITER] : names[N_NEXT];
    Entry *entry = NULL;
    if (PyVectorcall_NARGS(nargsf) > 0) entry = entry_of(self->gate, decide_use(self->gate->gates, args[0], method));
    if (!entry) return PyObject_Vectorcall(self->inner, args, nargsf, keywords);
    self->entry = entry;
    Lane *l = begin(self);
    PyObject *result = PyObject_Vectorcall(self->inner, args, nargsf, keywords);
    lane_exit(l);
    return result;
}

/* The argument, metered if the rule says that it is iterated over and it is a library's; new reference. */
static PyObject *consumed(Wrap *self, PyObject *arg, Py_ssize_t index, Py_ssize_t positional) {
    int alone = !(self->rule & RULE_ALONE) || positional == 1;
    int iterated = self->rule & RULE_ALL || (index < 8 && self->rule & (1L << index));
    if (!alone || !iterated || !iterable(arg)) return Py_NewRef(arg);
    Entry *entry = entry_of(self->gate, decide_use(self->gate->gates, arg, names[N_ITER]));
    return entry ? iterate(self->gate, arg, entry) : Py_NewRef(arg);
}

static PyObject *consumer_vectorcall(PyObject *me, PyObject *const *args, size_t nargsf, PyObject *keywords) {
    Wrap *self = (Wrap *)me;
    if (self->rule & RULE_STEP) return consumer_step(self, args, nargsf, keywords);
    Py_ssize_t positional = PyVectorcall_NARGS(nargsf), named = keywords ? PyTuple_GET_SIZE(keywords) : 0, count = 0;
    if (self->rule & RULE_READER) restore(self, args, positional + named);
    PyObject *copy[8], *result = NULL;
    if (self->rule & RULE_READER || positional + named > 8) return PyObject_Vectorcall(self->inner, args, nargsf, keywords);
    for (; count < positional; count++)
        if (!(copy[count] = consumed(self, args[count], count, positional))) goto done;
    for (Py_ssize_t i = positional; i < positional + named; i++) copy[i] = args[i];
    result = PyObject_Vectorcall(self->inner, copy, positional, keywords);
done:
    while (count) Py_DECREF(copy[--count]);
    return result;
}

static void restore_all(Wrap *self, PyObject *args, PyObject *keywords) {
    restore(self, ((PyTupleObject *)args)->ob_item, PyTuple_GET_SIZE(args));
    PyObject *values = keywords ? PyDict_Values(keywords) : NULL;
    if (values) restore(self, ((PyListObject *)values)->ob_item, PyList_GET_SIZE(values));
    Py_XDECREF(values);
}

static PyObject *consumer_call(Wrap *self, PyObject *args, PyObject *keywords) {
    if (self->rule & RULE_READER) {
        restore_all(self, args, keywords);
        return PyObject_Call(self->inner, args, keywords);
    }
    Py_ssize_t positional = PyTuple_GET_SIZE(args);
    PyObject *copy = PyTuple_New(positional);
    for (Py_ssize_t i = 0; copy && i < positional; i++) {
        PyObject *each = consumed(self, PyTuple_GET_ITEM(args, i), i, positional);
        if (each)
            PyTuple_SET_ITEM(copy, i, each);
        else
            Py_CLEAR(copy);
    }
    PyObject *result = copy ? PyObject_Call(self->inner, copy, keywords) : NULL;
    Py_XDECREF(copy);
    return result;
}

static PyObject *gate_call(Gate *self, PyObject *f) {
    PyObject *decision = decide(self->gates, f);
    if (LIKELY(decision == Py_None)) return Py_NewRef(f);
    if (decision == Py_Ellipsis) return wrap_call(self, f, NULL, RULE_READER);
    if (PyLong_CheckExact(decision)) return wrap_call(self, f, NULL, PyLong_AsLong(decision));
    Entry *entry = entry_of(self, decision);
    return entry ? wrap_call(self, f, entry, 0) : Py_NewRef(f);
}

static PyObject *gate_multiply(Gate *self, PyObject *a, PyObject *b) {
    binaryfunc multiply = self->kind == MATMUL ? PyNumber_MatrixMultiply : PyNumber_InPlaceMatrixMultiply;
    Entry *entry = entry_of(self, decide_use(self->gates, a, names[N_MATMUL]));
    if (!entry) entry = entry_of(self, decide_use(self->gates, b, names[N_MATMUL]));
    if (!entry) return multiply(a, b);
    PyObject *both[2] = {a, b};
    Wrap probe = {.gate = self, .entry = entry, .inner = Py_None};
    if (UNLIKELY(++entry->count >= entry->next)) describe(&probe, both, 2, NULL);
    Lane *l = begin(&probe);
    PyObject *result = multiply(a, b);
    lane_exit(l);
    return result;
}

static PyObject *gate_use(Gate *self, PyObject *object) {
    int kind = self->kind;
    int name = kind == ITER ? N_ITER : kind == AITER ? N_AITER : kind == AWAIT || kind == YIELD_FROM ? N_AWAIT : N_ENTER;
    if (kind == YIELD_FROM) name = N_ITER;
    Entry *entry = entry_of(self, decide_use(self->gates, object, names[name]));
    if (LIKELY(!entry)) return Py_NewRef(object);
    if (kind == ITER) return iterable(object) ? iterate(self, object, entry) : Py_NewRef(object);
    if (kind == AITER) return async_iterate(self, object, entry);
    if (kind == AWAIT) {
        PyAsyncMethods *async = Py_TYPE(object)->tp_as_async;
        return PyCoro_CheckExact(object) || (async && async->am_await) ? steps_of(self, object, entry) : Py_NewRef(object);
    }
    if (kind == YIELD_FROM && PyGen_CheckExact(object)) return steps_of(self, object, entry);
    if (kind == YIELD_FROM) return iterable(object) ? iterate(self, object, entry) : Py_NewRef(object);
    const char *method = kind == ASYNC_WITH ? "__aexit__" : "__exit__";
    return PyObject_HasAttrString((PyObject *)Py_TYPE(object), method) ? wrap_new(&ManagerType, self, object, entry)
                                                                       : Py_NewRef(object);
}

static PyObject *gate_vectorcall(PyObject *me, PyObject *const *args, size_t nargsf, PyObject *keywords) {
    Gate *self = (Gate *)me;
    Py_ssize_t expected = self->kind >= MATMUL ? 2 : 1;
    if (UNLIKELY(PyVectorcall_NARGS(nargsf) != expected || keywords)) {
        PyErr_Format(PyExc_TypeError, "this gate takes %zd positional arguments", expected);
        return NULL;
    }
    if (LIKELY(self->kind == CALL)) return self->gates->lanes->closed ? Py_NewRef(args[0]) : gate_call(self, args[0]);
    if (self->kind >= MATMUL) return gate_multiply(self, args[0], args[1]);
    return self->gates->lanes->closed ? Py_NewRef(args[0]) : gate_use(self, args[0]);
}

/* Copied into another process, a gate is Python's own function that hands its argument back. */
static PyObject *gate_reduce(Gate *self, PyObject *Py_UNUSED(none)) {
    PyObject *module = PyImport_ImportModule(self->kind >= MATMUL ? "operator" : "typing");
    if (!module) return NULL;
    const char *name = self->kind == MATMUL ? "matmul" : self->kind == IMATMUL ? "imatmul" : "cast";
    PyObject *function = PyObject_GetAttrString(module, name);
    Py_DECREF(module);
    if (!function) return NULL;
    return self->kind >= MATMUL ? Py_BuildValue("(O(N))", partial_type, function)
                                : Py_BuildValue("(O(NO))", partial_type, function, Py_None);
}

static int gate_traverse(Gate *self, visitproc visit, void *arg) {
    Py_VISIT(self->gates);
    Py_VISIT(self->place);
    return 0;
}

static int gate_clear(Gate *self) {
    return 0; /* the cycle, if any, is broken in Gates */
}

static void gate_dealloc(Gate *self) {
    PyObject_GC_UnTrack(self);
    for (int i = 0; i < self->entry_count; i++) {
        Py_DECREF(self->entries[i]->name);
        PyMem_Free(self->entries[i]);
    }
    PyMem_Free(self->entries);
    Py_CLEAR(self->gates);
    Py_CLEAR(self->place);
    PyObject_GC_Del(self);
}

static PyMethodDef gate_methods[] = {
    {"__reduce__", (PyCFunction)gate_reduce, METH_NOARGS, "A plain stand-in, for other processes."},
    {NULL},
};

static PyMemberDef gate_members[] = {
    {"kind", T_INT, offsetof(Gate, kind), READONLY, "What it stands before: an index of KINDS."},
    {"place", T_OBJECT, offsetof(Gate, place), READONLY, "Where in the source it stands."},
    {NULL},
};

static PyObject *gates_gate(Gates *g, PyObject *args) {
    int kind;
    PyObject *place;
    if (!PyArg_ParseTuple(args, "iO", &kind, &place)) return NULL;
    if (kind < 0 || kind >= KINDS) {
        PyErr_SetString(PyExc_ValueError, "no such kind of gate");
        return NULL;
    }
    Gate *self = PyObject_GC_New(Gate, &GateType);
    if (!self) return NULL;
    self->vectorcall = gate_vectorcall;
    self->gates = (Gates *)Py_NewRef(g);
    self->place = Py_NewRef(place);
    self->entries = NULL;
    self->entry_count = 0;
    self->kind = kind;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static PyObject *gates_forget(Gates *g, PyObject *Py_UNUSED(none)) {
    PyDict_Clear(g->modules);
    slots_clear(g);
    Py_RETURN_NONE;
}

static PyObject *gates_decide(Gates *g, PyObject *callee) { return Py_NewRef(decide(g, callee)); }

static int gates_init(Gates *g, PyObject *args, PyObject *Py_UNUSED(kwargs)) {
    PyObject *lanes, *judge, *special;
    if (g->lanes) {
        PyErr_SetString(PyExc_RuntimeError, "gates begin once");
        return -1;
    }
    if (!PyArg_ParseTuple(args, "O!OO!", &LanesType, &lanes, &judge, &PyDict_Type, &special)) return -1;
    g->lanes = (Lanes *)Py_NewRef(lanes);
    g->judge = Py_NewRef(judge);
    g->special = Py_NewRef(special);
    g->modules = PyDict_New();
    return g->modules ? 0 : -1;
}

static int gates_traverse(Gates *g, visitproc visit, void *arg) {
    Py_VISIT(g->lanes);
    Py_VISIT(g->judge);
    Py_VISIT(g->special);
    Py_VISIT(g->modules);
    return 0;
}

static void gates_dealloc(Gates *g) {
    PyObject_GC_UnTrack(g);
    slots_clear(g);
    Py_CLEAR(g->lanes);
    Py_CLEAR(g->judge);
    Py_CLEAR(g->special);
    Py_CLEAR(g->modules);
    Py_TYPE(g)->tp_free((PyObject *)g);
}

static PyMethodDef gates_methods[] = {
    {"gate", (PyCFunction)gates_gate, METH_VARARGS, "A gate of that kind at that place."},
    {"forget", (PyCFunction)gates_forget, METH_NOARGS, "Forgets its decisions: the metered APIs have changed."},
    {"decide", (PyCFunction)gates_decide, METH_O, "The API name of a callee, or None."},
    {NULL},
};

#define WRAP_COMMON .tp_basicsize = sizeof(Wrap), .tp_traverse = (traverseproc)wrap_traverse, \
    .tp_clear = (inquiry)wrap_clear, .tp_dealloc = (destructor)wrap_dealloc, \
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC

static PyTypeObject GatesType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "joulemeter._recorder.Gates",
    .tp_basicsize = sizeof(Gates),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)gates_init,
    .tp_dealloc = (destructor)gates_dealloc,
    .tp_traverse = (traverseproc)gates_traverse,
    .tp_methods = gates_methods,
};

static PyTypeObject GateType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "joulemeter._recorder.Gate",
    .tp_basicsize = sizeof(Gate),
    .tp_vectorcall_offset = offsetof(Gate, vectorcall),
    .tp_call = PyVectorcall_Call,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_HAVE_GC,
    .tp_dealloc = (destructor)gate_dealloc,
    .tp_traverse = (traverseproc)gate_traverse,
    .tp_clear = (inquiry)gate_clear,
    .tp_methods = gate_methods,
    .tp_members = gate_members,
};

#define CALL_COMMON .tp_basicsize = sizeof(Wrap), .tp_vectorcall_offset = offsetof(Wrap, vectorcall), \
    .tp_getattro = (getattrofunc)inner_attribute, .tp_str = (reprfunc)inner_str, .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL, \
    .tp_dealloc = (destructor)call_dealloc

static PyTypeObject MeteredType = {PyVarObject_HEAD_INIT(NULL, 0).tp_name = "joulemeter._recorder.Metered", .tp_call = (ternaryfunc)metered_call, CALL_COMMON};
static PyTypeObject ConsumerType = {PyVarObject_HEAD_INIT(NULL, 0).tp_name = "joulemeter._recorder.Consumer", .tp_call = (ternaryfunc)consumer_call, CALL_COMMON};

static PyTypeObject IterableType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "joulemeter._recorder.Iterable",
    WRAP_COMMON,
    .tp_iter = (getiterfunc)iterable_iter,
    .tp_methods = iterable_methods,
};

static PyTypeObject IteratorType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "joulemeter._recorder.Iterator",
    WRAP_COMMON,
    .tp_getattro = (getattrofunc)inner_attribute,
    .tp_iter = itself,
    .tp_iternext = (iternextfunc)iterator_next,
    .tp_methods = iterator_methods,
};

static PyTypeObject StepsType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "joulemeter._recorder.Steps",
    WRAP_COMMON,
    .tp_iter = itself,
    .tp_iternext = (iternextfunc)steps_next,
    .tp_as_async = &steps_async,
    .tp_methods = steps_methods,
};

static PyTypeObject AsyncIteratorType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "joulemeter._recorder.AsyncIterator",
    WRAP_COMMON,
    .tp_as_async = &async_iterator_async,
};

static PyTypeObject ManagerType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "joulemeter._recorder.Manager",
    WRAP_COMMON,
    .tp_methods = manager_methods,
};

/* ---------------------------------------------------------------- running a program with no frame of ours */

static PyObject *run_main(PyObject *Py_UNUSED(module), PyObject *args) {
    Py_ssize_t count = PyTuple_GET_SIZE(args);
    if (!count) {
        PyErr_SetString(PyExc_TypeError, "run_main needs a callable");
        return NULL;
    }
    PyObject *callee = PyTuple_GET_ITEM(args, 0), *rest = PyTuple_GetSlice(args, 1, count);
    if (!rest) return NULL;
    PyThreadState *state = PyThreadState_Get();
    /* What it runs is outermost, as in a process of its own: f_back is None. */
#if PY_VERSION_HEX < 0x030D0000
    _PyCFrame *cframe = state->cframe;
    struct _PyInterpreterFrame *saved = cframe->current_frame;
    cframe->current_frame = NULL;
    PyObject *result = PyObject_Call(callee, rest, NULL);
    cframe->current_frame = saved;
#elif PY_VERSION_HEX < 0x030E0000
    struct _PyInterpreterFrame *saved = state->current_frame;
    state->current_frame = NULL;
    PyObject *result = PyObject_Call(callee, rest, NULL);
    state->current_frame = saved;
#else
    (void)state;
    PyObject *result = PyObject_Call(callee, rest, NULL);
#endif
    Py_DECREF(rest);
    return result;
}

/* Blocks beyond the end of a file that stays as long as it is: room for a last word on a full disk. */
static PyObject *reserve(PyObject *Py_UNUSED(module), PyObject *args) {
    const char *path;
    long long bytes;
    if (!PyArg_ParseTuple(args, "sL", &path, &bytes)) return NULL;
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
#ifdef FALLOC_FL_KEEP_SIZE
    int failed = fd < 0 || fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, bytes) < 0;
#else
    int failed = 1;
#endif
    if (fd >= 0) close(fd);
    return PyBool_FromLong(!failed);
}

static PyMethodDef module_methods[] = {
    {"run_main", run_main, METH_VARARGS, "Calls a callable with no frame beneath it."},
    {"reserve", reserve, METH_VARARGS, "Allocates room for a file without making it longer; whether that worked."},
    {NULL},
};

static PyObject *imported(const char *module, const char *name) {
    PyObject *from = PyImport_ImportModule(module);
    PyObject *found = from ? PyObject_GetAttrString(from, name) : NULL;
    Py_XDECREF(from);
    return found;
}

static int module_exec(PyObject *module) {
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        PyErr_SetString(PyExc_ImportError, "joulemeter._recorder serves the main interpreter alone");
        return -1;
    }
    static const char *const texts[] = {"__call__", "__iter__", "__aiter__", "__await__", "__enter__", "__matmul__", "__next__"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (!names[i] && !(names[i] = PyUnicode_InternFromString(texts[i]))) return -1;
    name_dunder = PyUnicode_InternFromString("__name__");
    PER_OBJECT = Py_NewRef(Py_True);
    KEPT = Py_NewRef(Py_False);
    partial_type = imported("functools", "partial");
    generator_manager_type = imported("contextlib", "_GeneratorContextManager");
    PyTypeObject *types[] = {&HolderType, &LanesType, &GatesType, &GateType, &MeteredType, &ConsumerType,
                             &IterableType, &IteratorType, &StepsType, &AsyncIteratorType, &ManagerType};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (PyType_Ready(types[i]) < 0) return -1;
    if (!name_dunder || !partial_type || !generator_manager_type) return -1;
    if (PyModule_AddObjectRef(module, "Lanes", (PyObject *)&LanesType) < 0 ||
        PyModule_AddObjectRef(module, "Gates", (PyObject *)&GatesType) < 0 ||
        PyModule_AddObjectRef(module, "Gate", (PyObject *)&GateType) < 0)
        return -1;
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "joulemeter._recorder",
    .m_doc = "The recorder's hot path; lanes.py and gates.py are its Python twins.",
    .m_methods = module_methods,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__recorder(void) { return PyModuleDef_Init(&module_def); }
