// Blocks, warps and threads: who runs when, what they may do to shared memory, and the warp's collectives.
#include <cxxabi.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <array>
#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <numeric>

#include "cuda_emulator/engine.h"

// Leaves where this stack stands in *from, and goes on where `to` was left.
extern "C" void hllm_emulator_switch(void** from, void* to);

constexpr size_t STACK_BYTES = 256 * 1024, GUARD_BYTES = 4096;  // the guard is the stack's lowest part

// What hllm_emulator_switch takes for the start of `entry` on a new stack.
static void* prepare(char* stack, void (*entry)());

#ifdef __x86_64__
asm(R"(
    .text
    .hidden hllm_emulator_switch
    .globl hllm_emulator_switch
    .type hllm_emulator_switch, @function
hllm_emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size hllm_emulator_switch, . - hllm_emulator_switch
)");

static void* prepare(char* stack, void (*entry)()) {
    void** top = reinterpret_cast<void**>(stack + STACK_BYTES);
    top[-2] = reinterpret_cast<void*>(entry);  // where `ret` goes, after six registers of any content
    return top - 8;
}
#else
// By the C library: right on any processor, but twenty times slower.
extern "C" void hllm_emulator_switch(void** from, void* to) {
    ucontext_t here;
    *from = &here;
    swapcontext(&here, static_cast<ucontext_t*>(to));
}

static void* prepare(char* stack, void (*entry)()) {
    auto* context = reinterpret_cast<ucontext_t*>(stack + GUARD_BYTES);
    getcontext(context);
    context->uc_stack.ss_sp = context + 1;
    context->uc_stack.ss_size = STACK_BYTES - GUARD_BYTES - sizeof(*context);
    makecontext(context, entry, 0);
    return context;
}
#endif

namespace hllm::cuda::emulator {

Position now;

namespace {

constexpr int WARP = 32, MAX_THREADS = 1024;

// ---- Records of shared memory, one for each two bytes -----------------------------------------------------------------

constexpr uint16_t THREAD = 1023, MANY_LANES = 1 << 10, MANY_WARPS = 1 << 11, PENDING = 1 << 12;

const char FILE_BASE[] = "";

struct alignas(16) Access {
    uint32_t epoch;       // of the block: counts block barriers and never starts again
    uint16_t who;         // a thread; as a reader also whether others of its warp (in warp_epoch), and of other warps, read
    uint16_t warp_epoch;  // counts warp barriers since the block's
    int32_t file, line;   // the file's name as seen from FILE_BASE, in the same library
    int thread() const { return who & THREAD; }
    int warp() const { return thread() / WARP; }
    Site site() const { return {FILE_BASE + file, line}; }
};

unsigned char* arena;  // between guard pages
Access writes[MAX_SHARED_BYTES / 2], reads[MAX_SHARED_BYTES / 2];
uint32_t epoch = 0, first_epoch = 0;  // now, and at the start of the block

// ---- Threads ----------------------------------------------------------------------------------------------------------

enum class Stop { None, Collective, BlockBarrier, Exit };

struct Copy {
    int offset, group;
    const void* from;  // null: zeros
    Site site;
};

struct Thread {
    void* stack;  // where it stopped; null before its first run
    Stop stop;
    Site site;
    Collective kind;
    void* operands;
    void (*execute)(void* const* lanes);
    std::vector<Copy> copies;  // on their way, oldest first
    int groups;                // committed so far
};

struct Warp {
    Stop stop;
    uint16_t epoch;
    unsigned begun, start, step;  // lanes run in the order (start + i * step) % 32; `begun` of them have run
};

auto& pool = lasting<std::array<Thread, MAX_THREADS>>();
Warp warps[MAX_THREADS / WARP];
char* stacks;
const Launch* launched;
void* host;  // the stack of who waits for the block
std::atomic<bool> running{false};
bool failed;
pthread_t runner;
struct sigaction previous_handler;

Thread& self() { return pool[now.thread]; }
int warp_of_block() { return now.thread / WARP; }

const char* file_of(Site site) {
    const char* slash = std::strrchr(site.file, '/');
    return slash ? slash + 1 : site.file;
}

const char* name_of(Collective kind) {
    constexpr const char* NAMES[] = {"a shuffle", "a ballot", "warp_barrier", "ldmatrix", "mma"};
    return NAMES[static_cast<int>(kind)];
}

std::string place(const Thread& t) {
    if (t.stop == Stop::Exit) return "has exited";
    const std::string what = t.stop == Stop::BlockBarrier ? "block_barrier" : name_of(t.kind);
    return "waits at " + what + " (" + file_of(t.site) + ":" + std::to_string(t.site.line) + ")";
}

[[noreturn]] void end_kernel(const std::string& what) {
    char* demangled = abi::__cxa_demangle(launched->name, nullptr, nullptr, nullptr);
    const std::string name = demangled ? demangled : launched->name;
    std::free(demangled);
    report("kernel " + name + ", block (" + std::to_string(now.block[0]) + ", " + std::to_string(now.block[1]) + ", " +
           std::to_string(now.block[2]) + "), thread " + std::to_string(now.thread) + ": " + what +
           "; seed: HLLM_EMULATOR_SEED=" + std::to_string(setting("HLLM_EMULATOR_SEED", 1)));
    for (Thread& t : pool) t.stack = nullptr;  // what is on them is given up
    failed = true;
    void* abandoned;
    hllm_emulator_switch(&abandoned, host);
    std::abort();
}

// The first access to an allocation since it was closed, or a plain pointer that leads nowhere. Faults of other threads, and
// outside kernels, go to the handler before.
void on_fault(int signal, siginfo_t* info, void* context) {
    if (running && pthread_equal(pthread_self(), runner)) {
        if (open_memory(info->si_addr)) return;
        end_kernel("invalid access: " + describe(info->si_addr));
    }
    if (previous_handler.sa_flags & SA_SIGINFO) return previous_handler.sa_sigaction(signal, info, context);
    if (previous_handler.sa_handler != SIG_DFL && previous_handler.sa_handler != SIG_IGN)
        return previous_handler.sa_handler(signal);
    sigaction(signal, &previous_handler, nullptr);  // and fault again
}

void initialise() {
    const auto map = [](size_t bytes) {
        void* p = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) std::abort();
        return static_cast<char*>(p);
    };
    stacks = map(size_t{MAX_THREADS} * STACK_BYTES);
    for (int t = 0; t < MAX_THREADS; t++)
        mprotect(stacks + size_t(t) * STACK_BYTES + GUARD_BYTES, STACK_BYTES - GUARD_BYTES, PROT_READ | PROT_WRITE);
    constexpr size_t ROUNDED = (MAX_SHARED_BYTES + GUARD_BYTES - 1) / GUARD_BYTES * GUARD_BYTES;
    char* shared = map(ROUNDED + 2 * GUARD_BYTES) + GUARD_BYTES;
    mprotect(shared, ROUNDED, PROT_READ | PROT_WRITE);
    arena = reinterpret_cast<unsigned char*>(shared);
    struct sigaction handler {};
    handler.sa_sigaction = on_fault;
    handler.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    sigaction(SIGSEGV, &handler, &previous_handler);
}

void stop(Stop where);

void thread_main() {
    for (;;) {
        launched->run(launched->parameters.data());
        stop(Stop::Exit);
    }
}

// Leaves the stack that runs now in *from.
void resume(Thread& next, void** from) {
    now.thread = static_cast<int>(&next - pool.data());
    if (!next.stack) next.stack = prepare(stacks + size_t(now.thread) * STACK_BYTES, thread_main);
    hllm_emulator_switch(from, next.stack);
}

void next_epoch() {
    if (++epoch == 0) {  // after four billion barriers
        std::memset(writes, 0, sizeof(writes));
        std::memset(reads, 0, sizeof(reads));
        epoch = 1;
    }
    for (int w = 0; w < now.threads / WARP; w++) warps[w].stop = Stop::None, warps[w].epoch = 0;
}

// All lanes of the warp have stopped: they must have done so at one place.
void settle(Warp& w, Thread* lanes) {
    for (int l = 1; l < WARP; l++) {
        const bool same = lanes[l].stop == lanes[0].stop && (lanes[0].stop == Stop::Exit || lanes[l].site == lanes[0].site) &&
                          (lanes[0].stop != Stop::Collective || lanes[l].kind == lanes[0].kind);
        if (!same)
            end_kernel("divergent: in warp " + std::to_string((lanes - pool.data()) / WARP) + " lane 0 " + place(lanes[0]) +
                       ", lane " + std::to_string(l) + " " + place(lanes[l]));
    }
    w.stop = lanes[0].stop;
    if (w.stop != Stop::Collective) return;
    if (lanes[0].kind == Collective::WarpBarrier) {
        w.epoch++;
    } else {
        void* operands[WARP];
        for (int l = 0; l < WARP; l++) operands[l] = lanes[l].operands;
        lanes[0].execute(operands);
    }
}

// Every warp waits at the block's barrier or has exited. False at the block's end.
bool pass_barrier() {
    const int count = now.threads / WARP;
    for (int w = 1; w < count; w++) {
        const Thread &a = pool[0], &b = pool[w * WARP];
        if (warps[w].stop != warps[0].stop || (a.stop != Stop::Exit && !(a.site == b.site)))
            end_kernel("divergent: warp 0 " + place(a) + ", warp " + std::to_string(w) + " " + place(b));
    }
    if (warps[0].stop == Stop::Exit) return false;
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
    const int index = warp_of_block();
    Warp& w = warps[index];
    if (w.begun < WARP) return &pool[index * WARP + (w.start + w.begun++ * w.step) % WARP];
    settle(w, &pool[index * WARP]);
    if (w.stop == Stop::Collective && draw(4) != 0) return begin_warp(index);
    for (;;) {
        int ready[MAX_THREADS / WARP], count = 0;
        for (int i = 0; i < now.threads / WARP; i++)
            if (warps[i].stop == Stop::None || warps[i].stop == Stop::Collective) ready[count++] = i;
        if (count) return begin_warp(ready[draw(count)]);
        if (!pass_barrier()) return nullptr;
    }
}

void stop(Stop where) {
    Thread& me = self();
    me.stop = where;
    Thread* next = next_thread();
    if (!next)
        hllm_emulator_switch(&me.stack, host);
    else if (next != &me)
        resume(*next, &me.stack);
}

// ---- Checks of shared memory ------------------------------------------------------------------------------------------

Access access(Site site, uint16_t flags) {
    return {epoch, static_cast<uint16_t>(now.thread | flags), warps[warp_of_block()].epoch,
            static_cast<int32_t>(site.file - FILE_BASE), site.line};
}

// Whether an access is ordered before the current thread's next one.
bool ordered(const Access& before) {
    if (before.epoch != epoch || before.thread() == now.thread) return true;
    return before.warp() == warp_of_block() && before.warp_epoch != warps[warp_of_block()].epoch;
}

[[noreturn]] void race(const char* what, int half, const char* before, const Access& other, Site site) {
    violation(site, "race: %s of shared memory at byte %d, which thread %d %s at %s:%d without a barrier between", what,
              half * 2, other.thread(), before, file_of(other.site()), other.line);
}

inline void check_write_before(const char* what, int half, Site site) {
    const Access& w = writes[half];
    if (w.epoch < first_epoch) return;
    if (w.who & PENDING)
        violation(site, "race: %s of shared memory at byte %d, to which thread %d copies since %s:%d, before its cp_async_wait",
                  what, half * 2, w.thread(), file_of(w.site()), w.line);
    if (!ordered(w)) race(what, half, "wrote", w, site);
}

inline void note_read(int half, const Access& mine) {
    if (writes[half].epoch == epoch || (writes[half].who & PENDING)) check_write_before("read", half, mine.site());
    Access& r = reads[half];
    if (r.epoch != epoch) {
        r = mine;
    } else if (r.warp() != mine.warp()) {
        r.who |= MANY_WARPS;
    } else if (r.warp_epoch != mine.warp_epoch) {
        const uint16_t many_warps = r.who & MANY_WARPS;
        r = mine;
        r.who |= many_warps;
    } else if (r.thread() != mine.thread()) {
        r.who |= MANY_LANES;
    }
}

inline void note_write(int half, const Access& mine) {
    check_write_before("write", half, mine.site());
    const Access& r = reads[half];
    if (r.epoch == epoch) {
        const bool others = r.warp() == mine.warp() && r.warp_epoch == mine.warp_epoch && (r.who & MANY_LANES);
        if ((r.who & MANY_WARPS) || others || !ordered(r))
            race("write", half, r.who & (MANY_WARPS | MANY_LANES) ? "and others read" : "read", r, mine.site());
    }
    writes[half] = mine;
}

template <int BYTES>
void check_range(int offset, Site site) {
    if (offset < 0 || offset + BYTES > launched->shared_bytes)
        violation(site, "%d bytes at byte %d of %d bytes of shared memory", BYTES, offset, launched->shared_bytes);
    if (offset % BYTES != 0) violation(site, "misaligned: %d bytes at byte %d of shared memory", BYTES, offset);
}

}  // namespace

void violation(Site site, const char* format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    end_kernel(std::string(text) + " (" + file_of(site) + ":" + std::to_string(site.line) + ")");
}

void execute(const Launch& launch) {
    if (!arena) initialise();
    launched = &launch;
    runner = pthread_self();
    running = true;
    failed = false;
    now = {0, launch.threads, {}, {launch.grid.x, launch.grid.y, launch.grid.z}};
    // Blocks in the order (start + i * step) % blocks.
    const uint64_t x = launch.grid.x, y = launch.grid.y, blocks = x * y * launch.grid.z;
    uint64_t step = draw(blocks) + 1;
    while (std::gcd(step, blocks) != 1) step++;
    uint64_t block = draw(blocks);
    for (uint64_t i = 0; i < blocks; i++, block = (block + step) % blocks) {
        now.block[0] = static_cast<int>(block % x);
        now.block[1] = static_cast<int>(block / x % y);
        now.block[2] = static_cast<int>(block / x / y);
        next_epoch();
        first_epoch = epoch;
        poison(arena, launch.shared_bytes);
        for (int t = 0; t < launch.threads; t++) pool[t].copies.clear(), pool[t].groups = 0;
        resume(*begin_warp(static_cast<int>(draw(now.threads / WARP))), &host);
        if (failed) break;
    }
    running = false;
}

void collective(Collective kind, Site site, void* operands, void (*execute)(void* const* lanes)) {
    Thread& me = self();
    me.kind = kind;
    me.site = site;
    me.operands = operands;
    me.execute = execute;
    stop(Stop::Collective);
}

void block_barrier(Site site) {
    self().site = site;
    stop(Stop::BlockBarrier);
}

template <int BYTES>
void shared_load(void* to, int offset, Site site) {
    check_range<BYTES>(offset, site);
    const Access mine = access(site, 0);
    for (int i = 0; i < BYTES / 2; i++) note_read(offset / 2 + i, mine);
    std::memcpy(to, arena + offset, BYTES);
}

template <int BYTES>
void shared_store(int offset, const void* from, Site site) {
    check_range<BYTES>(offset, site);
    const Access mine = access(site, 0);
    for (int i = 0; i < BYTES / 2; i++) note_write(offset / 2 + i, mine);
    std::memcpy(arena + offset, from, BYTES);
}

#define HLLM_EMULATOR_SHARED(BYTES)                     \
    template void shared_load<BYTES>(void*, int, Site); \
    template void shared_store<BYTES>(int, const void*, Site)
HLLM_EMULATOR_SHARED(2);
HLLM_EMULATOR_SHARED(4);
HLLM_EMULATOR_SHARED(8);
HLLM_EMULATOR_SHARED(16);

void check_global16(const void* global, Site site) {
    if (reinterpret_cast<uintptr_t>(global) % 16 != 0) violation(site, "misaligned: 16 bytes at %p", global);
    if (!live(global, 16)) violation(site, "invalid access: %s", describe(global).c_str());
}

void copy_async(int offset, const void* global, bool valid, Site site) {
    check_range<16>(offset, site);
    if (valid) check_global16(global, site);
    const Access mine = access(site, PENDING);
    for (int i = 0; i < 8; i++) note_write(offset / 2 + i, mine);
    poison(arena + offset, 16);
    self().copies.push_back({offset, self().groups, valid ? global : nullptr, site});
}

void copy_async_commit() { self().groups++; }

void copy_async_wait(int pending) {
    Thread& me = self();
    size_t landed = 0;
    for (; landed < me.copies.size() && me.copies[landed].group < me.groups - pending; landed++) {
        const Copy& copy = me.copies[landed];
        if (copy.from)
            std::memcpy(arena + copy.offset, copy.from, 16);
        else
            std::memset(arena + copy.offset, 0, 16);
        const Access mine = access(copy.site, 0);
        for (int i = 0; i < 8; i++) writes[copy.offset / 2 + i] = mine;  // who accessed it meanwhile was reported
    }
    me.copies.erase(me.copies.begin(), me.copies.begin() + landed);
}

void ldmatrix(uint32_t (&r)[4], int offset, bool transposed, Site site) {
    struct Operands {
        uint16_t row[8];
        uint32_t* out;
        bool transposed;
    } mine{{}, r, transposed};
    shared_load<16>(mine.row, offset, site);
    collective(Collective::Ldmatrix, site, &mine, [](void* const* lanes) {
        const auto lane = [&](int l) -> const Operands& { return *static_cast<const Operands*>(lanes[l]); };
        for (int l = 0; l < WARP; l++)
            for (int m = 0; m < 4; m++) {
                const int major = l / 4, minor = l % 4 * 2;
                const auto element = [&](int i) -> uint32_t {
                    return lane(l).transposed ? lane(m * 8 + i).row[major] : lane(m * 8 + major).row[i];
                };
                lane(l).out[m] = element(minor) | element(minor + 1) << 16;
            }
    });
}

void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site) {
    struct Operands {
        float* d;
        const uint32_t *a, *b;
    } mine{d, a, b};
    collective(Collective::Mma, site, &mine, [](void* const* lanes) {
        const auto low = [](uint32_t pair) { return to_float(bf16{static_cast<uint16_t>(pair)}); };
        const auto high = [](uint32_t pair) { return to_float(bf16{static_cast<uint16_t>(pair >> 16)}); };
        float A[16][16], B[16][8], D[16][8] = {};
        for (int l = 0; l < WARP; l++) {
            const auto& from = *static_cast<const Operands*>(lanes[l]);
            const int g = l / 4, t = l % 4 * 2;
            for (int i = 0; i < 4; i++) {
                const int row = g + i % 2 * 8, k = t + i / 2 * 8;
                A[row][k] = low(from.a[i]);
                A[row][k + 1] = high(from.a[i]);
            }
            for (int i = 0; i < 2; i++) {
                B[t + i * 8][g] = low(from.b[i]);
                B[t + i * 8 + 1][g] = high(from.b[i]);
            }
        }
        for (int row = 0; row < 16; row++)
            for (int k = 0; k < 16; k++)
                for (int n = 0; n < 8; n++) D[row][n] += A[row][k] * B[k][n];
        for (int l = 0; l < WARP; l++) {
            float* to = static_cast<const Operands*>(lanes[l])->d;
            for (int i = 0; i < 4; i++) to[i] += D[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2];
        }
    });
}

}  // namespace hllm::cuda::emulator
