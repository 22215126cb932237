/* The rounds of sources/rapl.py between two looks at a counter's pace: read every zone, stamp what is new, append
   it to a file. Powercap.read in rapl.py is the Python twin and says what each step is for; one test holds for both.

   Between looks nothing here needs the interpreter: a round that wakes in caches that somebody else has filled takes
   a third of what it takes in Python, and that is taken from what is measured. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define NEAR_NS 60000LL      /* refresh.NEAR_NS */
#define QUIET_REFRESHES 5    /* rapl._QUIET_REFRESHES */
#define RECORD_BYTES 18      /* rawfiles.READING: int16, int64, float64, packed, little-endian */
#define MOST_ZONES 64

typedef struct {
    int fd, known, has;      /* whether its pace is known; whether a value was given before */
    double edge_ns, period_ns, given;
    int64_t trusted_until_ns, given_t_ns;
} Zone;

typedef struct {
    int64_t due_ns, period_ns, until_ns;
    long long reads, failed, lost;
    int doubted;             /* the zone that showed a second value within one refresh, or -1 */
} Rounds;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void sleep_until(int64_t t_ns) {
    struct timespec t = {t_ns / 1000000000LL, t_ns % 1000000000LL};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {
    }
}

/* Joules, or NaN where the counter does not answer with a number. */
static double joules(int fd) {
    char text[33];
    ssize_t got = pread(fd, text, 32, 0), at = 0, first;
    uint64_t microjoules = 0;
    while (at < got && text[at] == ' ') at++;
    for (first = at; at < got && text[at] >= '0' && text[at] <= '9' && at - first < 19; at++)
        microjoules = microjoules * 10 + (uint64_t)(text[at] - '0');
    if (got <= 0 || at == first || (at < got && text[at] != '\n' && text[at] != ' ')) return NAN;
    return (double)microjoules / 1e6;
}

static double stamped(const Zone *zone, int64_t *t_ns) {
    double value = NAN;
    for (int attempt = 0; attempt < 3; attempt++) {
        int64_t start = now_ns();
        value = joules(zone->fd);
        int64_t end = now_ns();
        *t_ns = (start + end) / 2;
        if (end - start < NEAR_NS) break;
    }
    return value;
}

static double refreshed_before(const Zone *zone, int64_t t_ns) {
    return zone->edge_ns + floor(((double)t_ns - zone->edge_ns) / zone->period_ns) * zone->period_ns;
}

static int64_t clear_of(const Zone *zone, int64_t t_ns) {
    if (!zone->known) return 0;
    double since_ns = (double)t_ns - refreshed_before(zone, t_ns), to_next_ns = zone->period_ns - since_ns;
    if (since_ns < NEAR_NS) return llrint(NEAR_NS - since_ns);
    return to_next_ns < NEAR_NS ? llrint(to_next_ns + NEAR_NS) : 0;
}

/* Reads one zone; 1 where there is something to give, with its moment and value. */
static int reading(Zone *zone, int *doubted, int64_t *t_ns, double *value) {
    for (int attempt = 0; attempt < 3; attempt++) {
        int64_t now = now_ns(), wait_ns = clear_of(zone, now);
        if (wait_ns) sleep_until(now + wait_ns);
        *value = stamped(zone, t_ns);
        if (!clear_of(zone, *t_ns)) break;
    }
    if (isnan(*value)) return 1;
    if (zone->has && *value == zone->given) {
        if ((double)(*t_ns - zone->given_t_ns) < QUIET_REFRESHES * zone->period_ns) return 0;
    } else if (zone->known && *t_ns <= zone->trusted_until_ns) {
        if (clear_of(zone, *t_ns)) return 0;
        int64_t edge_ns = llrint(refreshed_before(zone, *t_ns));
        if (zone->has && edge_ns <= zone->given_t_ns) {
            *doubted = 1;
            return 0;
        }
        *t_ns = edge_ns;
    }
    zone->has = 1;
    zone->given_t_ns = *t_ns;
    zone->given = *value;
    return 1;
}

/* Appends whole records, or none; -1 with errno where the file itself is no good. */
static int append(int file, const char *data, size_t size) {
    ssize_t written = write(file, data, size);
    if (written == (ssize_t)size) return 1;
    if (written < 0) {
        if (errno != ENOSPC && errno != EDQUOT && errno != EIO && errno != EFBIG) return -1;
        return 0;
    }
    struct stat now;
    if (fstat(file, &now) || ftruncate(file, now.st_size - written)) return -1;
    return 0;
}

/* Rounds until there is something for Python to do; -1 with errno where the file failed. */
static int go(Zone *zones, int count, int file, int first_rail, const volatile char *stop, Rounds *rounds) {
    char data[MOST_ZONES * RECORD_BYTES];
    while (!*stop && rounds->doubted < 0 && rounds->due_ns < rounds->until_ns) {
        sleep_until(rounds->due_ns);
        size_t size = 0;
        for (int at = 0; at < count; at++) {
            int64_t t_ns;
            double value;
            int doubted = 0;
            int given = reading(&zones[at], &doubted, &t_ns, &value);
            if (doubted) rounds->doubted = at;
            if (!given) continue;
            rounds->failed += isnan(value);
            int16_t rail = (int16_t)(first_rail + at);
            memcpy(data + size, &rail, 2);
            memcpy(data + size + 2, &t_ns, 8);
            memcpy(data + size + 10, &value, 8);
            size += RECORD_BYTES;
        }
        rounds->reads++;
        if (size) {
            int kept = append(file, data, size);
            if (kept < 0) return -1;
            if (!kept) rounds->lost += (long long)(size / RECORD_BYTES);
        }
        int64_t now = now_ns();
        rounds->due_ns += rounds->period_ns;
        if (rounds->due_ns < now) rounds->due_ns = now;
    }
    return 0;
}

static PyObject *given_of(const Zone *zones, int count) {
    PyObject *list = PyList_New(count);
    for (int at = 0; list && at < count; at++) {
        PyObject *pair = zones[at].has
            ? Py_BuildValue("(Ld)", (long long)zones[at].given_t_ns, zones[at].given)
            : Py_NewRef(Py_None);
        if (!pair) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, at, pair);
    }
    return list;
}

static PyObject *rounds_(PyObject *self, PyObject *args) {
    PyObject *list, *given;
    Py_buffer stop;
    int file, first_rail, status, fault;
    Zone zones[MOST_ZONES];
    Rounds rounds = {.doubted = -1};
    if (!PyArg_ParseTuple(args, "O!iiLLLy*", &PyList_Type, &list, &file, &first_rail, &rounds.due_ns,
                          &rounds.period_ns, &rounds.until_ns, &stop))
        return NULL;
    Py_ssize_t count = PyList_GET_SIZE(list);
    if (count > MOST_ZONES || stop.len < 1) {
        PyBuffer_Release(&stop);
        return PyErr_Format(PyExc_ValueError, "%zd zones, at most %d can be read here", count, MOST_ZONES);
    }
    for (Py_ssize_t at = 0; at < count; at++) {
        Zone *zone = &zones[at];
        if (!PyArg_ParseTuple(PyList_GET_ITEM(list, at), "ipddLpLd", &zone->fd, &zone->known, &zone->edge_ns,
                              &zone->period_ns, &zone->trusted_until_ns, &zone->has, &zone->given_t_ns,
                              &zone->given)) {
            PyBuffer_Release(&stop);
            return NULL;
        }
    }
    Py_BEGIN_ALLOW_THREADS
    status = go(zones, (int)count, file, first_rail, stop.buf, &rounds);
    fault = errno;
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&stop);
    if (status < 0) {
        errno = fault;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (!(given = given_of(zones, (int)count))) return NULL;
    return Py_BuildValue("(LLLLiN)", (long long)rounds.due_ns, rounds.reads, rounds.failed, rounds.lost,
                         rounds.doubted, given);
}

static PyMethodDef methods[] = {
    {"rounds", rounds_, METH_VARARGS,
     "rounds(zones, file, first_rail, due_ns, period_ns, until_ns, stop) -> (due_ns, reads, failed, lost, doubted, "
     "given): reads zones a period after the other until a moment, a doubt, or stop[0] is set. A zone is (fd, "
     "pace known, edge_ns, period_ns, trusted_until_ns, has given, given_t_ns, given)."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_powercap", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__powercap(void) { return PyModule_Create(&definition); }
