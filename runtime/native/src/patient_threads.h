// Comes before ggml-cpu.c in our own builds. Threads that compute one graph wait for each other, hundreds of times a
// token, by asking again and again; beside other work on the same cores, the one that is waited for may not run at all
// until the waiting one's slice of time is over. Here a thread that has asked for long lets others run.
#pragma once

#ifndef _WIN32

#include <sched.h>

static _Thread_local unsigned edgestill_asked;

static inline void edgestill_let_others_run(void) {
    enum { kOften = 128 };  // some microseconds
    if (++edgestill_asked % kOften == 0) sched_yield();
}

// ggml_thread_cpu_relax(void), ggml's definition, keeps its pause under another name; a call, without "void", does both.
#define ggml_thread_cpu_relax(nothing) EDGESTILL_RELAX_##nothing
#define EDGESTILL_RELAX_void edgestill_pause(void)
#define EDGESTILL_RELAX_ (edgestill_let_others_run(), edgestill_pause())

#endif
