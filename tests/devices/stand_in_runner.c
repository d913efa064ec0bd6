/* Answers as edgestill-run does, for tests on an emulated processor: it computes nothing. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char kBench[] =
    "{\"schema\": \"edgestill.bench/1\", \"results\": [{\"model\": \"stand-in\", \"load_seconds\": {\"value\": 1.5, "
    "\"unit\": \"seconds\", \"n\": 1, \"ci95\": null, \"basis\": \"measured\", \"source\": \"\"}, "
    "\"decode_tokens_per_second\": {\"value\": 9, \"unit\": \"tokens/s\", \"n\": 1, \"ci95\": null, "
    "\"basis\": \"measured\", \"source\": \"\"}, \"raw\": {\"ttft_seconds\": [1.0]}, \"warnings\": []}]}\n";

static int fail(const char *what, const char *which) {
    fprintf(stderr, "error: %s %s\n", what, which);
    return 1;
}

int main(int count, char **texts) {
    char path[4096];
    const char *artifact = NULL;
    long repetitions = 1;
    if (count > 1 && strcmp(texts[1], "--help") == 0) return 0;
    if (count < 3) return 2;
    for (int at = 3; at + 1 < count; ++at) {
        if (strcmp(texts[at], "--artifact") == 0) artifact = texts[at + 1];
        if (strcmp(texts[at], "--repetitions") == 0) repetitions = atol(texts[at + 1]);
    }
    snprintf(path, sizeof path, "%s/manifest.json", texts[2]);
    if (access(path, R_OK) != 0) return fail("no manifest:", path);
    if (artifact != NULL) {
        snprintf(path, sizeof path, "%s/artifacts/%s", texts[2], artifact);
        if (access(path, R_OK) != 0) return fail("no artifact", artifact);
    }
    if (strcmp(texts[1], "selftest") == 0) {
        printf("{\n  \"schema\": \"edgestill.selftest/1\",\n  \"tokens\": 1\n}\n");
    } else {
        for (long one = 1; one < repetitions; ++one) usleep(10000);
        fputs(kBench, stdout);
    }
    return 0;
}
