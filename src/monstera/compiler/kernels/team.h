/* A team runs one program at a time: every thread does its part of a step, then all meet at a barrier. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

typedef struct { void (*run)(const call *, part); int step; range window; } turn;
typedef struct { team *team; int id; } member;

struct team {
    int threads;
    atomic_int arrived;
    atomic_uint phase;
    atomic_uint job;   /* counts programs; workers sleep until it moves */
    atomic_int quit;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    const call *call;
    const turn *turns;
    int count;
    double *seconds;
    pthread_t handles[64];
    member members[64];
};

INLINE void relax(void) {
#if defined(__SSE__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* Spin for a moment, then let others run: with fewer cores than threads they are who we wait for, and where nobody else
 * wants the core a yield returns at once. */
INLINE void wait_for_others(int spins) {
    if (spins < 1000) relax();
    else sched_yield();
}

static void barrier(team *t) {
    if (t->threads == 1) return;
    const unsigned phase = atomic_load_explicit(&t->phase, memory_order_relaxed);
    if (atomic_fetch_add(&t->arrived, 1) == t->threads - 1) {
        atomic_store_explicit(&t->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&t->phase, phase + 1, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&t->phase, memory_order_acquire) == phase; spins += spins < 1000)
        wait_for_others(spins);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Flush denormals during a run only: they cost a hundred cycles each and carry nothing here. */
#if defined(__SSE__)
typedef unsigned float_mode;
static float_mode flush_denormals(void) { const unsigned m = _mm_getcsr(); _mm_setcsr(m | 0x8040); return m; }
static void restore(float_mode m) { _mm_setcsr(m); }
#elif defined(__aarch64__)
typedef uint64_t float_mode;
static float_mode flush_denormals(void) {
    uint64_t m;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(m));
    __asm__ __volatile__("msr fpcr, %0" : : "r"(m | (1u << 24)));
    return m;
}
static void restore(float_mode m) { __asm__ __volatile__("msr fpcr, %0" : : "r"(m)); }
#else
typedef int float_mode;
static float_mode flush_denormals(void) { return 0; }
static void restore(float_mode m) { (void)m; }
#endif

static void walk(team *t, int id) {
    /* Copied, as the caller may begin the next program while others are still on their way out of the last barrier. */
    const call *c = t->call;
    const turn *turns = t->turns;
    const int count = t->count;
    double *seconds = id == 0 ? t->seconds : 0;
    const float_mode mode = flush_denormals();
    for (int i = 0; i < count; i++) {
        const double start = seconds ? now() : 0.0;
        turns[i].run(c, (part){id, t->threads, turns[i].window, t});
        barrier(t);
        if (seconds) seconds[turns[i].step] += now() - start;
    }
    restore(mode);
}

static void *work(void *argument) {
    member *m = argument;
    team *t = m->team;
    for (unsigned seen = 0;;) {
        for (int spins = 0; spins < 2000 && atomic_load(&t->job) == seen; spins++) wait_for_others(spins);
        if (atomic_load(&t->job) == seen) {
            pthread_mutex_lock(&t->lock);
            while (atomic_load(&t->job) == seen) pthread_cond_wait(&t->wake, &t->lock);
            pthread_mutex_unlock(&t->lock);
        }
        seen = atomic_load(&t->job);
        if (atomic_load(&t->quit)) return 0;
        walk(t, m->id);
    }
}

static void announce(team *t) {
    pthread_mutex_lock(&t->lock);
    atomic_fetch_add(&t->job, 1);
    pthread_cond_broadcast(&t->wake);
    pthread_mutex_unlock(&t->lock);
}

/* The caller is thread 0. NULL if the threads cannot be had. */
static team *team_new(int threads) {
    team *t = calloc(1, sizeof *t);
    if (!t) return 0;
    t->threads = 1;
    pthread_mutex_init(&t->lock, 0);
    pthread_cond_init(&t->wake, 0);
    for (int i = 1; i < threads && i < 64; i++) {
        t->members[i] = (member){t, i};
        if (pthread_create(&t->handles[i], 0, work, &t->members[i])) break;
        t->threads++;
    }
    return t;
}

static void team_free(team *t) {
    atomic_store(&t->quit, 1);
    announce(t);
    for (int i = 1; i < t->threads; i++) pthread_join(t->handles[i], 0);
    pthread_mutex_destroy(&t->lock);
    pthread_cond_destroy(&t->wake);
    free(t);
}

static void team_run(team *t, const call *c, const turn *turns, int count, double *seconds) {
    t->call = c;
    t->turns = turns;
    t->count = count;
    t->seconds = seconds;
    if (t->threads > 1 && count > 0) announce(t); /* without a barrier nobody would know when they are done */
    walk(t, 0);
}
