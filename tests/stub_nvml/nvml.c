/* A stand-in for libnvidia-ml.so, driven by two files beside it.
 *
 * `script`: one line a key, `key [gpu] value value …`. The n-th call gets the n-th value;
 * the last one repeats. A value is a number, `!CODE` (the call fails with that NVML code),
 * or `hang` (the call leaves a file `hanging`, blocks until there is one called `release`,
 * and goes on to the next value). `70*3` stands for three values. Text after `#` is a comment.
 *
 *   init 0              gpus 2              driver 570.00
 *   name 0 Some GPU     uuid 0 GPU-…        handle, temperature, shutdown, margin, tlimit,
 *   memory.total, memory.used, power, limit, utilisation, throttle, ecc.corrected,
 *   ecc.uncorrected, mig, mig.place   (each with a GPU; °C, bytes, milliwatts, percent)
 *
 * `mig 0 3` divides GPU 0 into three places; `mig.place 0 8 !6 9` says that the first is
 * what the script calls GPU 8, the second is empty, the third is GPU 9.
 *
 * A key that the script lacks is answered with "not supported".
 *
 * A file `KEY.GPU` beside the library, as `temperature.0`, holds a value that counts in place
 * of the script's for as long as it is there.
 *
 * `xid`: `GPU NUMBER`; whoever waits for events gets it, and the file is removed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, TIMEOUT = 10, MAX_LINES = 256, MAX_GPUS = 16 };

typedef struct { char key[32]; int gpu; char *rest; char *next; int left; char last[32]; } Line;
typedef struct { int index; } Gpu;

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static Line lines[MAX_LINES];
static int count = -1;
static Gpu gpus[MAX_GPUS];

static const char *beside(const char *name) {
    static __thread char path[4096];
    Dl_info info;
    path[0] = 0;
    if (!dladdr((void *)beside, &info)) return path;
    snprintf(path, sizeof path, "%s", info.dli_fname);
    char *slash = strrchr(path, '/');
    char *end = slash ? slash + 1 : path;
    snprintf(end, sizeof path - (size_t)(end - path), "%s", name);
    return path;
}

static int per_gpu(const char *key) {
    return strcmp(key, "init") && strcmp(key, "gpus") && strcmp(key, "driver");
}

/* The script is read once, at the first call. */
static void load(void) {
    if (count >= 0) return;
    count = 0;
    FILE *file = fopen(beside("script"), "r");
    if (!file) return;
    char text[8192];
    while (count < MAX_LINES && fgets(text, sizeof text, file)) {
        text[strcspn(text, "#\n")] = 0;
        Line *line = &lines[count];
        int used = 0;
        if (sscanf(text, "%31s %n", line->key, &used) < 1) continue;
        line->gpu = -1;
        if (per_gpu(line->key)) {
            char *end;
            line->gpu = (int)strtol(text + used, &end, 10);
            used = (int)(end - text);
        }
        while (text[used] == ' ') used++;
        line->rest = strdup(text + used);
        line->next = line->rest;
        count++;
    }
    fclose(file);
}

static Line *find(const char *key, int gpu) {
    load();
    for (int i = 0; i < count; i++)
        if (lines[i].gpu == gpu && !strcmp(lines[i].key, key)) return &lines[i];
    return NULL;
}

static void nap(void) {
    struct timespec t = {0, 2 * 1000 * 1000};
    nanosleep(&t, NULL);
}

/* Ends with the test's folder, too: a test that failed must not leave a thread behind. */
static void hang(void) {
    FILE *file = fopen(beside("hanging"), "w");
    if (file) fclose(file);
    while (access(beside("release"), F_OK) && !access(beside("script"), F_OK)) nap();
}

/* The next value of a line, as text. */
static int take(const char *key, int gpu, char *value) {
    for (;;) {
        pthread_mutex_lock(&guard);
        Line *line = find(key, gpu);
        if (!line) {
            pthread_mutex_unlock(&guard);
            return 0;
        }
        if (line->left == 0 && sscanf(line->next, "%31s", line->last) == 1) {
            line->next += strspn(line->next, " ");
            line->next += strcspn(line->next, " ");
            line->left = 1;
            char *star = strchr(line->last, '*');
            if (star) {
                line->left = atoi(star + 1);
                *star = 0;
            }
        }
        if (line->left > 0) line->left--;
        strcpy(value, line->last);
        int more = line->next[strspn(line->next, " ")] != 0;
        pthread_mutex_unlock(&guard);
        if (strcmp(value, "hang")) return 1;
        hang();
        if (!more) return 0;
    }
}

/* What the test says now. */
static int now(const char *key, int gpu, char *value) {
    char name[64];
    snprintf(name, sizeof name, "%s.%d", key, gpu);
    FILE *file = fopen(beside(name), "r");
    if (!file) return 0;
    int read = fscanf(file, "%31s", value);
    fclose(file);
    return read == 1;
}

static int number(const char *key, int gpu, long long *to) {
    char value[32];
    if (!now(key, gpu, value) && !take(key, gpu, value)) return NOT_SUPPORTED;
    if (value[0] == '!') return atoi(value + 1);
    *to = atoll(value);
    return OK;
}

static int words(const char *key, int gpu, char *to, unsigned size) {
    pthread_mutex_lock(&guard);
    Line *line = find(key, gpu);
    if (line) snprintf(to, size, "%s", line->rest);
    pthread_mutex_unlock(&guard);
    return line ? OK : NOT_SUPPORTED;
}

#define READ(function, key, type)                          \
    int function(Gpu *gpu, type *to) {                     \
        long long value;                                   \
        int code = number(key, gpu->index, &value);        \
        if (code == OK) *to = (type)value;                 \
        return code;                                       \
    }

int nvmlInit_v2(void) {
    long long code = 0;
    int failed = number("init", -1, &code);
    return failed == NOT_SUPPORTED ? OK : failed ? failed : (int)code;
}

int nvmlShutdown(void) { return OK; }

int nvmlSystemGetDriverVersion(char *to, unsigned size) { return words("driver", -1, to, size); }

int nvmlDeviceGetCount_v2(unsigned *to) {
    long long value;
    int code = number("gpus", -1, &value);
    if (code == OK) *to = (unsigned)value;
    return code;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Gpu **to) {
    long long ignored;
    if (index >= MAX_GPUS) return INVALID;
    int code = number("handle", (int)index, &ignored);
    if (code != OK && code != NOT_SUPPORTED) return code;
    gpus[index].index = (int)index;
    *to = &gpus[index];
    return OK;
}

int nvmlDeviceGetName(Gpu *gpu, char *to, unsigned size) {
    return words("name", gpu->index, to, size);
}

int nvmlDeviceGetUUID(Gpu *gpu, char *to, unsigned size) {
    return words("uuid", gpu->index, to, size);
}

int nvmlDeviceGetTemperature(Gpu *gpu, int sensor, unsigned *to) {
    long long value;
    (void)sensor;
    int code = number("temperature", gpu->index, &value);
    if (code == OK) *to = (unsigned)value;
    return code;
}

int nvmlDeviceGetTemperatureThreshold(Gpu *gpu, int kind, unsigned *to) {
    long long value;
    if (kind != 0) return NOT_SUPPORTED;
    int code = number("shutdown", gpu->index, &value);
    if (code == OK) *to = (unsigned)value;
    return code;
}

typedef struct { unsigned version; int margin; } Margin;

int nvmlDeviceGetMarginTemperature(Gpu *gpu, Margin *to) {
    long long value;
    if (to->version != (sizeof *to | 1 << 24)) return 25;
    int code = number("margin", gpu->index, &value);
    if (code == OK) to->margin = (int)value;
    return code;
}

typedef struct {
    unsigned id, scope;
    long long timestamp, latency;
    unsigned kind;
    int code;
    union { double d; int i; unsigned long long u; } value;
} Field;

int nvmlDeviceGetFieldValues(Gpu *gpu, int fields, Field *to) {
    for (int i = 0; i < fields; i++) {
        long long value = 0;
        to[i].code = to[i].id == 193 ? number("tlimit", gpu->index, &value) : NOT_SUPPORTED;
        to[i].kind = 5;
        to[i].value.i = (int)value;
    }
    return OK;
}

typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory;

int nvmlDeviceGetMemoryInfo_v2(Gpu *gpu, Memory *to) {
    long long total, used;
    if (to->version != (sizeof *to | 2 << 24)) return 25;
    int code = number("memory.total", gpu->index, &total);
    if (code == OK) code = number("memory.used", gpu->index, &used);
    if (code != OK) return code;
    to->total = (unsigned long long)total;
    to->used = (unsigned long long)used;
    to->free = to->total - to->used;
    return OK;
}

READ(nvmlDeviceGetPowerUsage, "power", unsigned)
READ(nvmlDeviceGetEnforcedPowerLimit, "limit", unsigned)
READ(nvmlDeviceGetCurrentClocksThrottleReasons, "throttle", unsigned long long)

typedef struct { unsigned gpu, memory; } Rates;

int nvmlDeviceGetUtilizationRates(Gpu *gpu, Rates *to) {
    long long value;
    int code = number("utilisation", gpu->index, &value);
    if (code == OK) to->gpu = to->memory = (unsigned)value;
    return code;
}

int nvmlDeviceGetTotalEccErrors(Gpu *gpu, int kind, int counter, unsigned long long *to) {
    long long value;
    (void)counter;
    int code = number(kind ? "ecc.uncorrected" : "ecc.corrected", gpu->index, &value);
    if (code == OK) *to = (unsigned long long)value;
    return code;
}

int nvmlDeviceGetMigMode(Gpu *gpu, unsigned *current, unsigned *pending) {
    long long places;
    int code = number("mig", gpu->index, &places);
    if (code == OK) *current = *pending = places > 0;
    return code;
}

int nvmlDeviceGetMaxMigDeviceCount(Gpu *gpu, unsigned *to) {
    long long places;
    int code = number("mig", gpu->index, &places);
    if (code == OK) *to = (unsigned)places;
    return code;
}

int nvmlDeviceGetMigDeviceHandleByIndex(Gpu *gpu, unsigned place, Gpu **to) {
    long long index;
    (void)place; /* They are asked for in order. */
    int code = number("mig.place", gpu->index, &index);
    if (code != OK) return code;
    gpus[index].index = (int)index;
    *to = &gpus[index];
    return OK;
}

int nvmlDeviceGetSupportedEventTypes(Gpu *gpu, unsigned long long *to) {
    (void)gpu;
    *to = 8;
    return OK;
}

/* A set remembers which GPUs were registered, as bits. */
int nvmlEventSetCreate(unsigned **to) {
    *to = calloc(1, sizeof **to);
    return *to ? OK : 20;
}

int nvmlDeviceRegisterEvents(Gpu *gpu, unsigned long long types, unsigned *set) {
    long long ignored;
    (void)types;
    int code = number("events", gpu->index, &ignored);
    if (code != OK && code != NOT_SUPPORTED) return code;
    *set |= 1u << gpu->index;
    return OK;
}

int nvmlEventSetFree(unsigned *set) {
    free(set);
    return OK;
}

typedef struct {
    Gpu *gpu;
    unsigned long long type, data;
    unsigned instance, compute;
} Event;

int nvmlEventSetWait_v2(unsigned *set, Event *to, unsigned milliseconds) {
    for (unsigned waited = 0; waited <= milliseconds; waited += 2) {
        unsigned index;
        unsigned long long xid;
        FILE *file = fopen(beside("xid"), "r");
        if (file) {
            int read = fscanf(file, "%u %llu", &index, &xid);
            fclose(file);
            if (read == 2 && index < MAX_GPUS && *set & 1u << index) {
                unlink(beside("xid"));
                memset(to, 0, sizeof *to);
                to->gpu = &gpus[index];
                to->type = 8;
                to->data = xid;
                return OK;
            }
        }
        nap();
    }
    return TIMEOUT;
}
