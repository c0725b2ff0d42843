// Blocks, warps and threads: who runs when, what they may do to shared memory, and the warp's collectives.
#undef _FORTIFY_SOURCE  // whose longjmp stays on one stack
#include <cxxabi.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <numeric>

#include "cuda_emulator/engine.h"

namespace hllm::cuda::emulator {

Position now;

namespace {

constexpr int WARP = 32, MAX_THREADS = 1024;

// ---- Threads ----------------------------------------------------------------------------------------------------------

// A copy by cp.async on its way.
struct Copy {
    int offset, group;
    const void* from;  // null: zeros
    Site site;
};

struct Thread {
    bool begun;
    jmp_buf place;  // where it stopped, and why:
    Stop why;
    Site site;
    Operands* operands;
    std::vector<Copy> copies;  // oldest first
    int groups;                // committed so far
};

struct Warp {
    bool waits;                   // at the block's barrier or the end
    uint16_t epoch;               // counts warp barriers since the block's
    unsigned begun, start, step;  // lanes run in the order (start + i * step) % 32; `begun` of them have run
};

auto& pool = *new std::array<Thread, MAX_THREADS>();
Warp warps[MAX_THREADS / WARP];
uint32_t epoch = 0, first_epoch = 0;  // counts the barriers of all blocks; now, and at the start of the block
const Launch* launched;
jmp_buf host;  // who waits for the block
std::atomic<bool> running{false};
bool failed;
pthread_t runner;
struct sigaction previous_handler;

std::string text(Site site) { return format("%s:%d", site.file + std::string(site.file).rfind('/') + 1, site.line); }

std::string text(const Thread& t) {
    constexpr const char* NAMES[] = {"",         "block_barrier", "warp_barrier", "a shuffle",
                                     "a ballot", "ldmatrix",      "ldmatrix",     "mma"};
    return t.why == Stop::Exit ? "has exited"
                               : format("waits at %s (%s)", NAMES[static_cast<int>(t.why)], text(t.site).c_str());
}

[[noreturn]] void end_kernel(const std::string& what) {
    char* name = abi::__cxa_demangle(launched->name, nullptr, nullptr, nullptr);
    report(format("kernel %s, block (%d, %d), thread %d: %s; seed: HLLM_EMULATOR_SEED=%s", name ? name : launched->name,
                  now.block_x, now.block_y, now.thread, what.c_str(),
                  std::to_string(setting("HLLM_EMULATOR_SEED", 1)).c_str()));
    std::free(name);
    for (Thread& t : pool) t.begun = false;  // what is on their stacks is given up
    failed = true;
    _longjmp(host, 1);
}

void require_together(const Thread& a, const Thread& b) {
    if (a.why != b.why || (a.why != Stop::Exit && (a.site.line != b.site.line || a.site.file != b.site.file)))
        end_kernel(format("divergent: thread %td %s, thread %td %s", &a - pool.data(), text(a).c_str(), &b - pool.data(),
                          text(b).c_str()));
}

[[noreturn]] void violation(Site site, const std::string& what) { end_kernel(what + " (" + text(site) + ")"); }

// The first access to an allocation since it was closed, or a plain pointer that leads nowhere. Faults of other threads, and
// outside kernels, go to the handler before.
void on_fault(int signal, siginfo_t* info, void* context) {
    if (running && pthread_equal(pthread_self(), runner)) {
        if (open_memory(info->si_addr)) return;
        end_kernel("invalid access: " + describe(info->si_addr));
    }
    if (previous_handler.sa_flags & SA_SIGINFO) return previous_handler.sa_sigaction(signal, info, context);
    sigaction(signal, &previous_handler, nullptr);  // and fault again
}

void thread_main() {
    for (;;) {
        launched->run(launched->parameters.data());
        stop(Stop::Exit, {});
    }
}

void start(int thread) {
    constexpr size_t STACK = 256 * 1024, GUARD = 4096;  // the guard is the lowest part
    static char* const stacks = [] {
        void* p = mmap(nullptr, MAX_THREADS * STACK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) std::abort();
        for (int t = 0; t < MAX_THREADS; t++)
            mprotect(static_cast<char*>(p) + t * STACK + GUARD, STACK - GUARD, PROT_READ | PROT_WRITE);
        return static_cast<char*>(p);
    }();
    pool[thread].begun = true;
    ucontext_t fresh;
    getcontext(&fresh);
    fresh.uc_stack.ss_sp = stacks + thread * STACK + GUARD;
    fresh.uc_stack.ss_size = STACK - GUARD;
    makecontext(&fresh, thread_main, 0);
    setcontext(&fresh);
}

// Leaves the place of who runs now in `from`; on with `next`, or with the host if null. Only a thread's start is a ucontext's:
// to switch between those is to ask the system for signal masks, and twenty times slower.
void go_on(Thread* next, jmp_buf& from) {
    if (_setjmp(from) != 0) return;
    if (!next) _longjmp(host, 1);
    now.thread = static_cast<int>(next - pool.data());
    if (next->begun) _longjmp(next->place, 1);
    start(now.thread);
}

// ---- Shared memory ----------------------------------------------------------------------------------------------------

// The last write of two bytes, or the reads since.
struct Access {
    const char* file;
    int line;
    uint32_t epoch;
    uint16_t warp_epoch, thread;  // of many readers, the first
    bool many_lanes, many_warps;  // others of the warp (in warp_epoch), or of other warps, read too
    bool pending;                 // a copy on its way
    int warp() const { return thread / WARP; }
    Site site() const { return {file, line}; }
};

alignas(16) unsigned char arena[MAX_SHARED_BYTES];
struct Word {
    Access written, read;
} words[MAX_SHARED_BYTES / 2];

Access access(Site site, bool pending) {
    return {site.file, site.line, epoch, warps[warp()].epoch, static_cast<uint16_t>(now.thread), false, false, pending};
}

// Whether a barrier lies between.
bool ordered(const Access& before, const Access& after) {
    if (before.epoch != after.epoch || before.thread == after.thread) return true;
    return before.warp() == after.warp() && before.warp_epoch != after.warp_epoch;
}

void record(Use use, int half, const Access& mine) {
    auto& [written, read] = words[half];
    const auto race = [&](const Access& before, const char* did, const char* how) {
        violation(mine.site(),
                  format("race: %s of shared memory at byte %d, which thread %d %s at %s %s",
                         use == Use::Read ? "read" : "write", half * 2, before.thread, did, text(before.site()).c_str(), how));
    };
    if (written.pending && written.epoch >= first_epoch) race(written, "began to copy to", "before its cp_async_wait");
    if (!ordered(written, mine)) race(written, "wrote", "without a barrier between");
    const bool same_epoch = read.epoch == mine.epoch,
               same_warp_epoch = read.warp() == mine.warp() && read.warp_epoch == mine.warp_epoch;
    if (use != Use::Read) {
        if (!ordered(read, mine) || (same_epoch && (read.many_warps || (read.many_lanes && same_warp_epoch))))
            race(read, read.many_warps || read.many_lanes ? "and others read" : "read", "without a barrier between");
        written = mine;
    } else if (!same_epoch || (!same_warp_epoch && read.warp() == mine.warp() && !read.many_warps)) {
        read = mine;
    } else if (read.warp() != mine.warp()) {
        read.many_warps = true;
    } else if (read.thread != mine.thread) {
        read.many_lanes = true;
    }
}

// ---- Who runs ---------------------------------------------------------------------------------------------------------

void next_epoch() {
    if (++epoch == 0) {  // after four billion barriers
        std::fill(std::begin(words), std::end(words), Word{});
        epoch = 1;
    }
    for (int w = 0; w < now.threads / WARP; w++) warps[w].waits = false, warps[w].epoch = 0;
}

void execute_collective(Thread* lanes) {
    const auto of = [=](int lane) -> Operands& { return *lanes[lane].operands; };
    // Half of a register.
    const auto half = [=](int lane, int r, int i) -> uint16_t { return of(lane).in[r] >> i % 2 * 16; };
    if (lanes[0].why == Stop::Shuffle) {
        for (int l = 0; l < WARP; l++) of(l).out[0] = of(of(l).in[1]).in[0];
    } else if (lanes[0].why == Stop::Ballot) {
        unsigned votes = 0;
        for (int l = 0; l < WARP; l++) votes |= of(l).in[0] << l;
        for (int l = 0; l < WARP; l++) of(l).out[0] = votes;
    } else if (lanes[0].why == Stop::Mma) {
        const auto element = [=](int lane, int r, int i) { return to_float(bf16{half(lane, r, i)}); };
        float A[16][16], B[16][8];
        for (int k = 0; k < 16; k++) {
            for (int m = 0; m < 16; m++) A[m][k] = element(m % 8 * 4 + k % 8 / 2, m / 8 + k / 8 * 2, k);
            for (int n = 0; n < 8; n++) B[k][n] = element(n * 4 + k % 8 / 2, 4 + k / 8, k);
        }
        for (int l = 0; l < WARP; l++)
            for (int i = 0; i < 4; i++) {
                float sum = 0;
                for (int k = 0; k < 16; k++) sum += A[l / 4 + i / 2 * 8][k] * B[k][l % 4 * 2 + i % 2];
                of(l).sum[i] += sum;
            }
    } else {  // ldmatrix
        const bool transposed = lanes[0].why == Stop::LdmatrixTransposed;
        for (int l = 0; l < WARP; l++)
            for (int m = 0; m < 4; m++) {
                const auto element = [&](int row, int i) -> uint32_t { return half(m * 8 + row, i / 2, i); };
                const int major = l / 4, minor = l % 4 * 2;
                of(l).out[m] = transposed ? element(minor, major) | element(minor + 1, major) << 16
                                          : element(major, minor) | element(major, minor + 1) << 16;
            }
    }
}

// All lanes of the warp have stopped: they must have done so at one place.
void settle(Warp& w, Thread* lanes) {
    for (int l = 1; l < WARP; l++) require_together(lanes[0], lanes[l]);
    w.waits = lanes[0].why == Stop::Exit || lanes[0].why == Stop::BlockBarrier;
    if (lanes[0].why == Stop::WarpBarrier)
        w.epoch++;
    else if (!w.waits)
        execute_collective(lanes);
}

// Every warp waits at the block's barrier or has exited. False at the block's end.
bool pass_barrier() {
    for (int w = 1; w < now.threads / WARP; w++) require_together(pool[0], pool[w * WARP]);
    if (pool[0].why == Stop::Exit) return false;
    next_epoch();
    return true;
}

Thread* begin_warp(int index) {
    Warp& w = warps[index];
    w.begun = 1;
    w.start = static_cast<unsigned>(draw(WARP));
    w.step = static_cast<unsigned>(draw(WARP / 2)) * 2 + 1;
    return &pool[index * WARP + w.start];
}

// Who runs after the current thread has stopped; null at the end of the block.
Thread* next_thread() {
    const int index = warp();
    Warp& w = warps[index];
    if (w.begun < WARP) return &pool[index * WARP + (w.start + w.begun++ * w.step) % WARP];
    settle(w, &pool[index * WARP]);
    if (!w.waits && draw(4) != 0) return begin_warp(index);
    for (;;) {
        int ready[MAX_THREADS / WARP], count = 0;
        for (int i = 0; i < now.threads / WARP; i++)
            if (!warps[i].waits) ready[count++] = i;
        if (count) return begin_warp(ready[draw(count)]);
        if (!pass_barrier()) return nullptr;
    }
}

}  // namespace

void stop(Stop why, Site site, Operands* operands) {
    Thread& me = pool[now.thread];
    me.why = why;
    me.site = site;
    me.operands = operands;
    Thread* next = next_thread();
    if (next != &me) go_on(next, me.place);
}

void execute(const Launch& launch) {
    static const bool installed = [] {
        struct sigaction handler {};
        handler.sa_sigaction = on_fault;
        handler.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
        return sigaction(SIGSEGV, &handler, &previous_handler) == 0;
    }();
    if (!installed) std::abort();
    launched = &launch;
    runner = pthread_self();
    running = true;
    failed = false;
    now = {0, launch.threads, 0, 0, launch.grid.x};
    // Blocks in the order (start + i * step) % blocks.
    const uint64_t x = launch.grid.x, blocks = x * launch.grid.y;
    uint64_t step = draw(blocks) + 1;
    while (std::gcd(step, blocks) != 1) step++;
    uint64_t block = draw(blocks);
    for (uint64_t i = 0; i < blocks && !failed; i++, block = (block + step) % blocks) {
        now.block_x = static_cast<int>(block % x);
        now.block_y = static_cast<int>(block / x);
        next_epoch();
        first_epoch = epoch;
        poison(arena, launch.shared_bytes);
        for (int t = 0; t < launch.threads; t++) pool[t].copies.clear(), pool[t].groups = 0;
        go_on(begin_warp(static_cast<int>(draw(now.threads / WARP))), host);
    }
    running = false;
}

void* shared_memory(Use use, int offset, int bytes, Site site) {
    if (offset < 0 || offset + bytes > launched->shared_bytes)
        violation(site, format("%d bytes at byte %d of %d bytes of shared memory", bytes, offset, launched->shared_bytes));
    if (offset & (bytes - 1)) violation(site, format("misaligned: %d bytes at byte %d of shared memory", bytes, offset));
    const Access mine = access(site, use == Use::Copy);
    for (int half = offset / 2; half < (offset + bytes) / 2; half++) record(use, half, mine);
    return arena + offset;
}

void check_global16(const void* global, Site site) {
    if (reinterpret_cast<uintptr_t>(global) % 16 != 0) violation(site, format("misaligned: 16 bytes at %p", global));
    if (!live(global, 16)) violation(site, "invalid access: " + describe(global));
}

void copy_async(int offset, const void* global, bool valid, Site site) {
    void* to = shared_memory(Use::Copy, offset, 16, site);
    if (valid) check_global16(global, site);
    poison(to, 16);
    Thread& me = pool[now.thread];
    me.copies.push_back({offset, me.groups, valid ? global : nullptr, site});
}

void copy_async_wait(int pending) {
    Thread& me = pool[now.thread];
    auto copy = me.copies.begin();
    for (; copy != me.copies.end() && copy->group < me.groups - pending; copy++) {
        constexpr uint4 ZEROS{};
        std::memcpy(arena + copy->offset, copy->from ? copy->from : &ZEROS, 16);
        // Who accessed it meanwhile was reported.
        for (int i = 0; i < 8; i++) words[copy->offset / 2 + i].written = access(copy->site, false);
    }
    me.copies.erase(me.copies.begin(), copy);
}

}  // namespace hllm::cuda::emulator

void hllm::cuda::cp_async_commit() { emulator::pool[emulator::now.thread].groups++; }
