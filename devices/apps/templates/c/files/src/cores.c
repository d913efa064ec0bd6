/* Which cores are the big ones: those whose highest frequency is the machine's highest. */
#include <stdio.h>

#include "gateway.h"

#define MOST_CORES 256

int32_t big_cores(void) {
    long highest = 0;
    int32_t count = 0;
    for (int core = 0; core < MOST_CORES; ++core) {
        char path[96];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/cpufreq/cpuinfo_max_freq", core);
        FILE *file = fopen(path, "r");
        if (file == NULL) continue; /* no such core, or the kernel doesn't say */
        long kilohertz = 0;
        const int found = fscanf(file, "%ld", &kilohertz);
        fclose(file);
        if (found != 1) continue;
        if (kilohertz > highest) {
            highest = kilohertz;
            count = 0;
        }
        count += kilohertz == highest;
    }
    return count;
}
