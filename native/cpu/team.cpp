#include "cpu/team.h"

#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace hllm {
namespace {

// Processors that the process may use: its affinity mask, and the CPU quota of its control group.
int allowed_threads() {
    cpu_set_t set;
    int count = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    auto limit = [&](double quota, double period) {
        if (quota > 0 && period > 0) count = std::min(count, std::max(1, static_cast<int>(quota / period + 0.5)));
    };
    if (FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {  // version 2: "max 100000" or "150000 100000"
        double quota, period;
        if (std::fscanf(file, "%lf %lf", &quota, &period) == 2) limit(quota, period);
        std::fclose(file);
    } else if (FILE* quota_file = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "r")) {
        double quota = 0;
        if (std::fscanf(quota_file, "%lf", &quota) == 1) limit(quota, 100000);
        std::fclose(quota_file);
    }
    return std::max(1, count);
}

struct State {
    std::mutex owner;  // held by the thread whose call runs
    std::mutex mutex;
    std::condition_variable wake, done;
    std::vector<std::thread> threads;
    std::atomic<int> size{allowed_threads()};
    std::atomic<uint64_t> generation{0};
    bool stop = false;

    void (*function)(const void*, int64_t, int) = nullptr;
    const void* body = nullptr;
    int64_t count = 0;
    std::atomic<int64_t> next{0};
    std::atomic<int> busy{0};
    std::mutex error_mutex;
    std::exception_ptr error;

    void work(int worker) {
        try {
            for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) function(body, i, worker);
        } catch (...) {
            std::lock_guard lock(error_mutex);
            if (!error) error = std::current_exception();
            next.store(count);
        }
    }

    void loop(int worker, uint64_t seen);

    // Threads start at the first parallel call and are rebuilt after a resize.
    void start() {
        stop = false;
        for (int worker = 1; worker < size; worker++)
            threads.emplace_back([this, worker, seen = generation.load()] { loop(worker, seen); });
    }
    void join() {
        {
            std::lock_guard lock(mutex);
            stop = true;
            generation++;
        }
        wake.notify_all();
        for (auto& thread : threads) thread.join();
        threads.clear();
    }
};

// Never destroyed: the threads may outlive static destructors.
State& state() {
    static State* instance = new State;
    return *instance;
}

thread_local bool inside = false;

// Operations follow one another within microseconds: look for the next one for a while before sleeping.
constexpr int SPINS = 2000;

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

void State::loop(int worker, uint64_t seen) {
    inside = true;
    for (;;) {
        for (int i = 0; i < SPINS && generation.load(std::memory_order_acquire) == seen; i++) pause();
        if (generation.load(std::memory_order_acquire) == seen) {
            std::unique_lock lock(mutex);
            wake.wait(lock, [&] { return generation.load() != seen; });
        }
        seen = generation.load(std::memory_order_acquire);
        if (stop) return;
        work(worker);
        if (busy.fetch_sub(1, std::memory_order_acq_rel) == 1) {
            std::lock_guard lock(mutex);
            done.notify_one();
        }
    }
}

}  // namespace

int Team::size() const { return state().size; }

void Team::resize(int count) {
    State& s = state();
    std::lock_guard owner(s.owner);
    s.join();
    s.size = count > 0 ? count : allowed_threads();
}

void Team::run(int64_t count, Function function, const void* body) {
    State& s = state();
    std::unique_lock owner(s.owner, std::defer_lock);
    if (count <= 1 || inside || s.size == 1 || !owner.try_lock()) {
        for (int64_t i = 0; i < count; i++) function(body, i, 0);
        return;
    }
    if (s.threads.empty()) s.start();
    inside = true;
    s.function = function;
    s.body = body;
    s.count = count;
    s.next.store(0, std::memory_order_relaxed);
    s.busy.store(static_cast<int>(s.threads.size()), std::memory_order_relaxed);
    s.error = nullptr;
    {
        std::lock_guard lock(s.mutex);
        s.generation.fetch_add(1, std::memory_order_release);
    }
    s.wake.notify_all();
    s.work(0);
    for (int i = 0; i < SPINS && s.busy.load(std::memory_order_acquire) > 0; i++) pause();
    if (s.busy.load(std::memory_order_acquire) > 0) {
        std::unique_lock lock(s.mutex);
        s.done.wait(lock, [&] { return s.busy.load(std::memory_order_acquire) == 0; });
    }
    inside = false;
    if (s.error) std::rethrow_exception(s.error);
}

Team& team() {
    static Team instance;
    return instance;
}

}  // namespace hllm
