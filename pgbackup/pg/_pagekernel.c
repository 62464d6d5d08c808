/*
 * Page checksums, compiled: the same as pagechecksum.py, some forty times as fast.
 *
 * One function, which checks consecutive pages without holding the interpreter's lock. Only the
 * limited API is used, so that one build serves every Python from 3.11 on. Everything here is
 * optional: without this module pgbackup uses Python's integers.
 *
 * Source: checksum_impl.h, pg_checksum_block; basebackup.c, verify_page_checksum (PostgreSQL 18)
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "written for little-endian processors"
#endif

enum { PAGE_SIZE = 8192, COLUMNS = 32, ROWS = PAGE_SIZE / (4 * COLUMNS) };

#define PRIME 16777619u

static const uint32_t BASES[COLUMNS] = {
    0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
    0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
    0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
    0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
};

/* Let the loader choose the widest vectors that this processor has, where it can. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

struct failure {
    Py_ssize_t number;
    uint16_t calculated;
    uint16_t expected;
};

static uint16_t
get16(const unsigned char *bytes)
{
    return (uint16_t) (bytes[0] | bytes[1] << 8);
}

static uint64_t
get32(const unsigned char *bytes)
{
    return get16(bytes) | (uint64_t) get16(bytes + 2) << 16;
}

static inline void
step(uint32_t *sums, const uint32_t *words)
{
    for (int column = 0; column < COLUMNS; column++) {
        uint32_t mixed = sums[column] ^ words[column];

        sums[column] = mixed * PRIME ^ mixed >> 17;
    }
}

FOR_EACH_PROCESSOR static uint32_t
sum_of_columns(const unsigned char *page)
{
    uint32_t sums[COLUMNS];
    uint32_t words[COLUMNS];
    uint32_t result = 0;

    memcpy(sums, BASES, sizeof(sums));
    memcpy(words, page, sizeof(words));
    memset((unsigned char *) words + 8, 0, 2); /* the checksum does not count */
    step(sums, words);
    for (int row = 1; row < ROWS; row++) {
        memcpy(words, page + row * sizeof(words), sizeof(words)); /* it may stand at an odd address */
        step(sums, words);
    }
    memset(words, 0, sizeof(words));
    step(sums, words);
    step(sums, words);
    for (int column = 0; column < COLUMNS; column++)
        result ^= sums[column];
    return result;
}

/* Needs no lock. Returns how many pages fail. */
static Py_ssize_t
check(const Py_buffer *pages, uint32_t first_block, uint64_t start_lsn, struct failure *failures)
{
    const unsigned char *page = pages->buf;
    Py_ssize_t count = 0;

    for (Py_ssize_t number = 0; number < pages->len / PAGE_SIZE; number++, page += PAGE_SIZE) {
        uint64_t lsn = get32(page) << 32 | get32(page + 4);
        uint16_t upper = get16(page + 14);
        uint16_t calculated;

        if (upper == 0 || lsn >= start_lsn)
            continue;
        calculated = (sum_of_columns(page) ^ (first_block + (uint32_t) number)) % 65535 + 1;
        if (calculated != get16(page + 8))
            failures[count++] = (struct failure){number, calculated, get16(page + 8)};
    }
    return count;
}

static PyObject *
as_list(const struct failure *failures, Py_ssize_t count)
{
    PyObject *list = PyList_New(count);

    for (Py_ssize_t each = 0; list != NULL && each < count; each++) {
        PyObject *item = Py_BuildValue("(nHH)", failures[each].number, failures[each].calculated,
                                       failures[each].expected);

        if (item == NULL || PyList_SetItem(list, each, item) < 0)
            Py_CLEAR(list);
    }
    return list;
}

static PyObject *
failing_pages(PyObject *module, PyObject *arguments)
{
    Py_buffer pages;
    unsigned int first_block;
    unsigned long long start_lsn;
    struct failure *failures;
    PyObject *result;

    (void) module;
    if (!PyArg_ParseTuple(arguments, "y*IK:failing_pages", &pages, &first_block, &start_lsn))
        return NULL;
    failures = malloc((pages.len / PAGE_SIZE + 1) * sizeof(*failures));
    if (failures == NULL) {
        result = PyErr_NoMemory();
    } else {
        Py_ssize_t count;

        Py_BEGIN_ALLOW_THREADS
        count = check(&pages, first_block, start_lsn, failures);
        Py_END_ALLOW_THREADS
        result = as_list(failures, count);
    }
    free(failures);
    PyBuffer_Release(&pages);
    return result;
}

static PyMethodDef methods[] = {
    {"failing_pages", failing_pages, METH_VARARGS,
     "failing_pages(pages, first_block, start_lsn) -> [(number, calculated, expected)]"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_pagekernel", .m_size = 0, .m_methods = methods,
};

PyMODINIT_FUNC
PyInit__pagekernel(void)
{
    return PyModuleDef_Init(&definition);
}
