/* A library that answers as libnvidia-ml.so.1 does, for one card whose time and power a test sets.

   Declarations follow NVIDIA's nvml.h; nothing here is taken from the Python binding. The card's time stands still until
   fake_wind(). Its energy is the exact integral of the power that was set; the counter shows it as it was at the last
   refresh. fake_fail(NAME, CODE, AT) makes a function return CODE from that time on, every function where NAME is "*".
   Until fake_reset(), and after it, there is a card without faults. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef int nvmlReturn_t;
typedef struct nvmlDevice_st *nvmlDevice_t;

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    VERSION_MISMATCH = 25
};

typedef union {
    double dVal;
    int siVal;
    unsigned int uiVal;
    unsigned long ulVal;
    unsigned long long ullVal;
    signed long long sllVal;
    unsigned short usVal;
} nvmlValue_t;

typedef struct {
    unsigned int fieldId;
    unsigned int scopeId;
    long long timestamp;
    long long latencyUsec;
    int valueType; /* 1: unsigned int */
    nvmlReturn_t nvmlReturn;
    nvmlValue_t value;
} nvmlFieldValue_t;

typedef struct {
    unsigned int version;
    int sensorType;
    int temperature;
} nvmlTemperature_v1_t;

#define POWER_INSTANT 186
#define CARD ((nvmlDevice_t)(intptr_t)0x5ca1ab1e)
#define UUID "GPU-5ca1ab1e-0000-4000-8000-000000000001"
/* A slice of another, partitioned card: it tells that it is one, and of what is metered here nothing. */
#define SLICE ((nvmlDevice_t)(intptr_t)0x511ce)
#define SLICE_UUID "MIG-5ca1ab1e-0000-4000-8000-000000000002"
#define NAME "Fake Card 9000"
#define DRIVER "999.99"

#define FAULTS 16
#define STEPS 1000000

static struct fault {
    char function[64];
    nvmlReturn_t code;
    double at;
} faults[FAULTS];
static int fault_count;

/* The power from each step on, and the energy until then. */
static struct step {
    double time, watts, joules;
} *steps;
static int step_count;

static double now, refresh, gain, origin, modulus, reset_time;
static int initialised, mig, celsius, locked[2];
static unsigned long long reasons;
static unsigned int megahertz;

void fake_reset(void) {
    if (!steps) steps = malloc(sizeof *steps * STEPS);
    fault_count = step_count = 0;
    now = reset_time = 0;
    refresh = 0.1, gain = 1, origin = 0, modulus = 18446744073709551616.0;
    mig = 0, celsius = 40, reasons = 0, megahertz = 1410;
    locked[0] = locked[1] = 0;
    steps[step_count++] = (struct step){0, 0, 0};
}

__attribute__((constructor)) static void load(void) { fake_reset(); }

void fake_wind(double seconds) { now += seconds; }
double fake_time(void) { return now; }

void fake_power(double watts) {
    struct step *last = &steps[step_count - 1];
    if (last->watts == watts || step_count == STEPS) return;
    steps[step_count++] = (struct step){now, watts, last->joules + last->watts * (now - last->time)};
}

/* How often the counter is refreshed, what it shows per joule, where it begins in mJ and where it starts over. */
void fake_counter(double seconds, double factor, double begin, double end) {
    refresh = seconds, gain = factor, origin = begin, modulus = end;
}

/* As when the driver is loaded anew: the counter begins at nought. */
void fake_counter_reset(void) { reset_time = now, origin = 0; }

void fake_fail(const char *function, nvmlReturn_t code, double at) {
    struct fault *fault = &faults[fault_count++ % FAULTS];
    strncpy(fault->function, function, sizeof fault->function - 1);
    fault->code = code, fault->at = at;
}

void fake_mig(int on) { mig = on; }
void fake_celsius(int degrees) { celsius = degrees; }
void fake_clock(unsigned int mhz, unsigned long long why) { megahertz = mhz, reasons = why; }
void fake_locked(int *pair) { memcpy(pair, locked, sizeof locked); }

static double energy(double time) {
    int i = step_count - 1;
    if (time < 0) return 0;
    while (i > 0 && steps[i].time > time) i--;
    return steps[i].joules + steps[i].watts * (time - steps[i].time);
}

static nvmlReturn_t asked(const char *function) {
    for (int i = 0; i < fault_count && i < FAULTS; i++)
        if (now >= faults[i].at && (!strcmp(faults[i].function, function) || !strcmp(faults[i].function, "*")))
            return faults[i].code;
    return SUCCESS;
}

#define ANSWER(device)                               \
    do {                                             \
        if (!initialised) return UNINITIALIZED;      \
        if ((device) != CARD) return INVALID_ARGUMENT; \
        nvmlReturn_t code = asked(__func__);         \
        if (code) return code;                       \
    } while (0)

nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    nvmlReturn_t code = asked(__func__);
    if (!code) initialised++;
    return code;
}

nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

nvmlReturn_t nvmlShutdown(void) {
    if (!initialised) return UNINITIALIZED;
    initialised--;
    return SUCCESS;
}

const char *nvmlErrorString(nvmlReturn_t result) { return result ? "an error" : "success"; }

static nvmlReturn_t text(char *to, unsigned int length, const char *said) {
    if (strlen(said) >= length) return INSUFFICIENT_SIZE;
    strcpy(to, said);
    return SUCCESS;
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length) { return text(version, length, DRIVER); }

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) {
    *count = 1;
    return initialised ? SUCCESS : UNINITIALIZED;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    if (!initialised) return UNINITIALIZED;
    if (index > 0) return INVALID_ARGUMENT;
    *device = CARD;
    return asked(__func__);
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device) {
    if (!initialised) return UNINITIALIZED;
    if (!strcmp(uuid, UUID)) *device = CARD;
    else if (!strcmp(uuid, SLICE_UUID)) *device = SLICE;
    else return NOT_FOUND;
    return asked(__func__);
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length) {
    ANSWER(device);
    return text(name, length, NAME);
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length) {
    ANSWER(device);
    return text(uuid, length, UUID);
}

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending) {
    ANSWER(device);
    *current = *pending = mig;
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned int *is) {
    *is = device == SLICE;
    if (*is) return SUCCESS;
    ANSWER(device);
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t device, unsigned int *architecture) {
    ANSWER(device);
    *architecture = 9; /* Hopper */
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *millijoules) {
    ANSWER(device);
    double seen = refresh > 0 ? floor(now / refresh) * refresh : now;
    double counted = fmax(energy(seen) - energy(reset_time), 0) * gain * 1000;
    *millijoules = (unsigned long long)fmod(origin + counted, modulus);
    return SUCCESS;
}

static unsigned int milliwatts(void) { return (unsigned int)(steps[step_count - 1].watts * 1000); }

/* Averaged over the last second, as on Ampere and newer. */
nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *power) {
    ANSWER(device);
    *power = (unsigned int)((energy(now) - energy(now - 1)) * 1000);
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *values) {
    ANSWER(device);
    for (int i = 0; i < count; i++) {
        nvmlReturn_t code = asked("NVML_FI_DEV_POWER_INSTANT");
        values[i].nvmlReturn = values[i].fieldId == POWER_INSTANT ? code : NOT_SUPPORTED;
        values[i].timestamp = (long long)(now * 1e6);
        values[i].valueType = 1;
        values[i].value.ullVal = 0xffffffffffffffffULL; /* what is read beside the four bytes is not zero */
        values[i].value.uiVal = milliwatts();
    }
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_v1_t *temperature) {
    ANSWER(device);
    if (temperature->version != (sizeof *temperature | 1 << 24)) return VERSION_MISMATCH;
    temperature->temperature = celsius;
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, int sensor, unsigned int *degrees) {
    ANSWER(device);
    (void)sensor;
    *degrees = celsius;
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, int type, unsigned int *clock) {
    ANSWER(device);
    *clock = type == 1 ? megahertz : 0; /* NVML_CLOCK_SM */
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t device, unsigned long long *bits) {
    ANSWER(device);
    *bits = reasons;
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device, unsigned long long *bits) {
    ANSWER(device);
    *bits = reasons;
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceSetGpuLockedClocks(nvmlDevice_t device, unsigned int low, unsigned int high) {
    ANSWER(device);
    locked[0] = (int)low, locked[1] = (int)high;
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceResetGpuLockedClocks(nvmlDevice_t device) {
    ANSWER(device);
    locked[0] = locked[1] = 0;
    return SUCCESS;
}
