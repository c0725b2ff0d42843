// The emulator itself: every function of device.cuh does what the hardware's does, and every kind of violation is reported,
// whatever the order in which threads run. A kernel here is a lambda: it too is a struct with parameters and an operator().
#include <cublasLt.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cuda/device.cuh"

namespace hllm::cuda {

void check(cudaError_t status, const char* what) {
    if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

namespace {

constexpr int WARP = 32, SEEDS = 20;

// Destroyed last, after the emulator's own.
struct Exit {
    bool slow = false;
    ~Exit() {
        if (slow) std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
} at_exit;

class Emulator : public testing::Test {
   protected:
    void SetUp() override { reset(1); }
    void TearDown() override {
        unsetenv("HLLM_EMULATOR_SEED");
        unsetenv("HLLM_EMULATOR_MEMORY");
        reset(1);
        cudaStreamDestroy(stream_);
        stream_ = nullptr;
    }

    // Forgets all memory, work and violations.
    void reset(int seed) {
        setenv("HLLM_EMULATOR_SEED", std::to_string(seed).c_str(), 1);
        cudaDeviceReset();
        if (!stream_) check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
    }

    template <class T>
    T* allocate(int count) {
        void* p = nullptr;
        check(cudaMallocAsync(&p, count * sizeof(T), stream_), "cudaMallocAsync");
        return static_cast<T*>(p);
    }
    template <class T>
    T* upload(const std::vector<T>& values) {
        T* p = allocate<T>(static_cast<int>(values.size()));
        check(cudaMemcpyAsync(p, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice, stream_), "upload");
        return p;
    }
    template <class T>
    std::vector<T> download(const T* p, int count) {
        std::vector<T> values(count);
        check(cudaMemcpyAsync(values.data(), p, count * sizeof(T), cudaMemcpyDeviceToHost, stream_), "download");
        return values;
    }
    // What the emulator reports of the work so far, or "".
    std::string report() {
        const cudaError_t status = cudaStreamSynchronize(stream_);
        return status == cudaSuccess ? "" : cudaGetErrorString(status);
    }
    // A violation shows under every seed, and its text has `expected`, the kernel's name, the line and the seed.
    template <class Kernel>
    void expect_report(const std::string& expected, int threads, int shared_bytes, Kernel kernel) {
        for (int seed = 1; seed <= SEEDS; seed++) {
            reset(seed);
            launch(stream_, {3, 2}, threads, shared_bytes, kernel);
            const std::string text = report();
            EXPECT_NE(text.find(expected), std::string::npos) << "seed " << seed << ": '" << text << "'";
            for (const std::string part :
                 {"kernel hllm::cuda::", "block (", "thread ", "emulator_test.cpp:", "HLLM_EMULATOR_SEED="})
                EXPECT_NE(text.find(part), std::string::npos) << text;
        }
    }
    template <class Kernel>
    void expect_clean(int threads, int shared_bytes, Kernel kernel) {
        for (int seed = 1; seed <= SEEDS; seed++) {
            reset(seed);
            launch(stream_, {3, 2}, threads, shared_bytes, kernel);
            EXPECT_EQ(report(), "") << "seed " << seed;
        }
    }

    cudaStream_t stream_ = nullptr;
};

std::vector<float> normal(int count) {
    std::mt19937 random(7);
    std::normal_distribution<float> distribution;
    std::vector<float> values(count);
    for (float& v : values) v = distribution(random);
    return values;
}

// ---- What the functions do --------------------------------------------------------------------------------------------

TEST_F(Emulator, PositionsCoverTheGrid) {
    constexpr int X = 5, Y = 3, T = 96;
    int* seen = upload(std::vector<int>(X * Y * T));
    launch(stream_, {X, Y}, T, 0, [=] {
        const bool right = grid_x() == X && threads() == T && thread() == warp() * WARP + lane() && lane() < WARP;
        atomic_add(&seen[(block_y() * X + block_x()) * T + thread()], right ? 1 : 100);
    });
    for (int count : download(seen, X * Y * T)) ASSERT_EQ(count, 1);
}

TEST_F(Emulator, OrderIsDrawnFromTheSeed) {
    const auto order = [&](int seed) {
        reset(seed);
        int *next = upload(std::vector<int>(1)), *at = allocate<int>(4 * 64);
        launch(stream_, {4}, 64, 0, [=] { at[atomic_add(next, 1)] = block_x() * 64 + thread(); });
        return download(at, 4 * 64);
    };
    EXPECT_EQ(order(1), order(1));
    std::set<std::vector<int>> orders;
    for (int seed = 1; seed <= SEEDS; seed++) orders.insert(order(seed));
    EXPECT_EQ(orders.size(), size_t{SEEDS});
}

TEST_F(Emulator, AProcessMayExitWhileKernelsRun) {
    const auto end = [this] {
        std::thread([this] {
            for (;;) {
                int* p = upload(std::vector<int>(WARP));
                launch(stream_, {100}, WARP, 0, [=] { atomic_add(&p[thread()], 1); });
                download(p, WARP);
                cudaFreeAsync(p, stream_);
            }
        }).detach();
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        at_exit.slow = true;
        std::exit(7);
    };
    EXPECT_EXIT(end(), testing::ExitedWithCode(7), "");
}

TEST_F(Emulator, BarrierShufflesVotesAndAtomics) {
    constexpr int T = 128;
    struct Out {
        float reversed, from_neighbour;
        int from_lane_5, sum;
        unsigned high, votes;
    };
    Out* out = allocate<Out>(T);
    int* count = upload(std::vector<int>{0});
    launch(stream_, {1}, T, T * 4, [=] {
        const auto values = shared<float>(0);
        values.store(thread(), thread() * 0.5f);
        block_barrier();
        Out& mine = out[thread()];
        mine.reversed = values.load(T - 1 - thread());
        mine.from_neighbour = shuffle_xor(thread() * 0.25f, 1);
        mine.from_lane_5 = shuffle(thread(), 5);
        mine.high = shuffle(0xf0000000u + thread(), 31);
        mine.votes = ballot(thread() % 3 == 0);
        mine.sum = thread();
        for (int mask = 16; mask > 0; mask /= 2) mine.sum += shuffle_xor(mine.sum, mask);
        atomic_add(count, thread());
    });
    const auto got = download(out, T);
    for (int t = 0; t < T; t++) {
        const int base = t / WARP * WARP;
        EXPECT_EQ(got[t].reversed, (T - 1 - t) * 0.5f);
        EXPECT_EQ(got[t].from_neighbour, (t ^ 1) * 0.25f);
        EXPECT_EQ(got[t].from_lane_5, base + 5);
        EXPECT_EQ(got[t].high, 0xf0000000u + base + 31);
        EXPECT_EQ(got[t].sum, WARP * base + WARP * (WARP - 1) / 2);
        for (int l = 0; l < WARP; l++) EXPECT_EQ(got[t].votes >> l & 1, unsigned((base + l) % 3 == 0));
    }
    EXPECT_EQ(download(count, 1)[0], T * (T - 1) / 2);
}

TEST_F(Emulator, Bf16RoundsToNearestEven) {
    struct Case {
        uint32_t bits, expected;
    };
    for (const Case& c : {Case{0x3f800000, 0x3f80},
                          {0x3f808000, 0x3f80},
                          {0x3f818000, 0x3f82},
                          {0x3f808001, 0x3f81},
                          {0x3f807fff, 0x3f80},
                          {0xff7fffff, 0xff80},
                          {0x7f800000, 0x7f80},
                          {0x7fc00001, 0x7fff},
                          {0x80000000, 0x8000},
                          {0x00008000, 0x0000},
                          {0x00018000, 0x0002}}) {
        float value;
        std::memcpy(&value, &c.bits, 4);
        EXPECT_EQ(to_bf16(value).bits, c.expected) << std::hex << c.bits;
        EXPECT_EQ(pack_bf16(value, 2), c.expected | 0x40000000u);
    }
    EXPECT_EQ(to_float(bf16{0xc040}), -3.f);
    EXPECT_EQ(fast_exp2(-3), 0.125f);
    float f = 0;
    bf16 b{0};
    store_f32(&f, 1.5f), store_f32(&b, 1.5f);
    EXPECT_EQ(load_f32(&f) + load_f32(&b), 3.f);
}

TEST_F(Emulator, SixteenBytesAndViews) {
    std::vector<float> values = normal(4 * WARP);
    const float* in = upload(values);
    float* out = allocate<float>(4 * WARP);
    launch(stream_, {1}, WARP, 4096, [=] {
        const auto view = shared<float>(512).at(4);
        view.store16(4 * thread(), load16(in + 4 * thread()));
        warp_barrier();
        store16(out + 4 * thread(), shared<float>(512 + 16).load16(4 * (thread() ^ 1)));
    });
    const auto got = download(out, 4 * WARP);
    for (int i = 0; i < 4 * WARP; i++) EXPECT_EQ(got[i], values[i ^ 4]);
}

TEST_F(Emulator, AsynchronousCopiesLandAtTheirWait) {
    const std::vector<float> values = normal(12 * WARP);
    const float* in = upload(values);
    float* out = allocate<float>(3 * WARP);
    launch(stream_, {1}, WARP, 3 * WARP * 16, [=] {
        const auto view = shared<float>(0);
        const int t = thread();
        for (int group = 0; group < 3; group++) {
            const int i = (group * WARP + t) * 4;
            cp_async16(view, i, group == 1 ? nullptr : in + i, group != 1);
            cp_async_commit();
        }
        cp_async_wait<1>();
        for (int group = 0; group < 2; group++) out[group * WARP + t] = view.load((group * WARP + t) * 4 + 3);
        cp_async_wait<0>();
        out[2 * WARP + t] = view.load((2 * WARP + t) * 4 + 3);
    });
    const auto got = download(out, 3 * WARP);
    for (int i = 0; i < 3 * WARP; i++) EXPECT_EQ(got[i], i / WARP == 1 ? 0 : values[i * 4 + 3]);
}

// A layout in CuTe's notation: extents and strides of the coordinates that a number is taken apart into, first one fastest.
struct Layout {
    std::vector<int> extents, strides;
    int operator()(int i) const {
        int offset = 0;
        for (size_t d = 0; d < extents.size(); d++) offset += i % extents[d] * strides[d], i /= extents[d];
        return offset;
    }
};

struct ThreadValue {
    Layout thread, value;
    int operator()(int t, int v) const { return thread(t) + value(v); }
};

// mma.m16n8k16: from (thread, value) to an element of the column-major matrix, A [16,16], B^T [8,16], C [16,8].
const ThreadValue A{{{4, 8}, {32, 1}}, {{2, 2, 2}, {16, 8, 128}}};
const ThreadValue B{{{4, 8}, {16, 1}}, {{2, 2}, {8, 64}}};
const ThreadValue C{{{4, 8}, {32, 1}}, {{2, 2}, {16, 8}}};
// ldmatrix.x4: from (thread, 16-bit value) to an element of the 32 rows of eight.
const ThreadValue LOAD{{{32}, {2}}, {{2, 4}, {1, 64}}};
const ThreadValue LOAD_TRANSPOSED{{{4, 8}, {16, 1}}, {{2, 4}, {8, 64}}};

TEST_F(Emulator, MmaHasTheHardwaresLayout) {
    struct Lane {
        uint32_t a[4], b[2];
        float d[4];
    };
    std::vector<float> values = normal(16 * 16 + 8 * 16 + 16 * 8);
    for (float& v : values) v = to_float(to_bf16(v));
    const float *a = values.data(), *b = a + 256, *c = b + 128;
    std::vector<Lane> lanes(WARP);
    for (int t = 0; t < WARP; t++) {
        for (int v = 0; v < 8; v += 2) lanes[t].a[v / 2] = pack_bf16(a[A(t, v)], a[A(t, v + 1)]);
        for (int v = 0; v < 4; v += 2) lanes[t].b[v / 2] = pack_bf16(b[B(t, v)], b[B(t, v + 1)]);
        for (int v = 0; v < 4; v++) lanes[t].d[v] = c[C(t, v)];
    }
    Lane* device = upload(lanes);
    launch(stream_, {1}, WARP, 0, [=] { mma_16816(device[thread()].d, device[thread()].a, device[thread()].b); });
    const auto got = download(device, WARP);
    for (int t = 0; t < WARP; t++)
        for (int v = 0; v < 4; v++) {
            const int m = C(t, v) % 16, n = C(t, v) / 16;
            double expected = c[m + n * 16];
            for (int k = 0; k < 16; k++) expected += double{a[m + k * 16]} * b[n + k * 8];
            EXPECT_NEAR(got[t].d[v], expected, 1e-5) << "thread " << t << " value " << v;
        }
}

TEST_F(Emulator, LdmatrixHasTheHardwaresLayout) {
    for (const bool transposed : {false, true}) {
        uint32_t* out = allocate<uint32_t>(WARP * 4);
        launch(stream_, {1}, WARP, WARP * 8 * 2, [=] {
            const auto rows = shared<bf16>(0);
            for (int i = 0; i < 8; i++) rows.store(thread() * 8 + i, bf16{static_cast<uint16_t>(thread() * 8 + i)});
            warp_barrier();
            uint32_t r[4];
            if (transposed)
                ldmatrix_x4_trans(r, rows, thread() * 8);
            else
                ldmatrix_x4(r, rows, thread() * 8);
            for (int i = 0; i < 4; i++) out[thread() * 4 + i] = r[i];
        });
        const auto got = download(out, WARP * 4);
        const ThreadValue& layout = transposed ? LOAD_TRANSPOSED : LOAD;
        for (int t = 0; t < WARP; t++)
            for (int v = 0; v < 8; v++)
                EXPECT_EQ(got[t * 4 + v / 2] >> v % 2 * 16 & 0xffff, static_cast<uint32_t>(layout(t, v)))
                    << "thread " << t << " value " << v << " transposed " << transposed;
    }
}

TEST_F(Emulator, FreshMemoryIsNaN) {
    float *global = allocate<float>(WARP), *out = allocate<float>(3 * WARP);
    launch(stream_, {1}, WARP, WARP * 4, [=] {
        out[thread()] = global[thread()];
        out[WARP + thread()] = shared<float>(0).load(thread());
        out[2 * WARP + thread()] = to_float(shared<bf16>(0).load(thread()));
    });
    for (float v : download(out, 3 * WARP)) EXPECT_TRUE(std::isnan(v));
}

// ---- Races ------------------------------------------------------------------------------------------------------------

TEST_F(Emulator, ReportsAMissingBlockBarrier) {
    expect_report("race:", 64, 64 * 4, [] {
        shared<float>(0).store(thread(), 1);
        shared<float>(0).load(63 - thread());
    });
    expect_report("race:", 64, 64 * 4, [] {
        shared<float>(0).store(thread(), 1);
        block_barrier();
        shared<float>(0).load(63 - thread());
        shared<float>(0).store(thread(), 2);  // another may not have read yet
    });
    expect_report("race:", 64, 4, [] { shared<float>(0).store(0, 1); });
    expect_report("race:", 64, 64 * 4, [] {  // a warp's barrier orders nothing between warps
        shared<float>(0).store(thread(), 1);
        warp_barrier();
        shared<float>(0).load(63 - thread());
    });
    expect_report("race:", 64, 64, [] {  // read by all, then written by one
        if (thread() == 0) shared<float>(0).store(0, 1);
        block_barrier();
        shared<float>(0).load(0);
        if (thread() == 0) shared<float>(0).store(0, 2);
    });
    expect_clean(64, 64 * 4, [] {
        for (int round = 0; round < 3; round++) {
            shared<float>(0).store(thread(), 1);
            block_barrier();
            shared<float>(0).load(63 - thread());
            block_barrier();
        }
    });
}

TEST_F(Emulator, ReportsAMissingWarpBarrier) {
    expect_report("race:", 32, 128, [] {
        shared<float>(0).store(thread(), 1);
        shared<float>(0).load(31 - thread());
    });
    expect_report("race:", 32, 128, [] {  // a shuffle orders no memory
        shared<float>(0).store(thread(), 1);
        shuffle(1.f, 0);
        shared<float>(0).load(31 - thread());
    });
    expect_report("race:", 32, 128, [] {
        if (thread() == 3) shared<float>(0).store(0, 1);
        warp_barrier();
        shared<float>(0).load(0);
        if (thread() == 3) shared<float>(0).store(0, 1);
    });
    expect_report("race:", 32, 512, [] {  // ldmatrix reads rows that other lanes wrote
        for (int i = 0; i < 8; i++) shared<bf16>(0).store(thread() + 32 * i, bf16{0});
        uint32_t r[4];
        ldmatrix_x4(r, shared<bf16>(0), thread() * 8);
    });
    expect_clean(64, 256, [] {
        for (int round = 0; round < 3; round++) {
            shared<float>(0).store(thread(), 1);
            warp_barrier();
            shared<float>(0).load(thread() ^ 31);
            warp_barrier();
        }
    });
}

TEST_F(Emulator, NeighboursInOneWordDoNotRace) {
    expect_clean(64, 128, [] {
        shared<bf16>(0).store(thread(), bf16{1});
        shared<bf16>(0).load(thread());
    });
}

TEST_F(Emulator, ReportsUseOfACopyBeforeItsWait) {
    const auto with_source = [&](const char* expected, auto body) {
        for (int seed = 1; seed <= SEEDS; seed++) {
            reset(seed);
            const float* in = upload(std::vector<float>(256));
            launch(stream_, {1}, 64, 1024, [=] {
                cp_async16(shared<float>(0), thread() * 4, in + thread() * 4, true);
                body();
            });
            const std::string text = report();
            EXPECT_NE(text.find(expected), std::string::npos) << "seed " << seed << ": '" << text << "'";
        }
    };
    with_source("before its cp_async_wait", [] { shared<float>(0).load(thread() * 4); });
    with_source("before its cp_async_wait", [] { shared<float>(0).store(thread() * 4, 1); });
    with_source("before its cp_async_wait", [] {
        cp_async_commit();
        cp_async_wait<1>();  // one group may still be on its way: this one
        shared<float>(0).load(thread() * 4);
    });
    with_source("before its cp_async_wait", [] {  // never committed
        cp_async_wait<0>();
        shared<float>(0).load(thread() * 4);
    });
    with_source("before its cp_async_wait", [] {  // a barrier is no wait
        block_barrier();
        shared<float>(0).load(thread() * 4);
    });
    with_source("race:", [] {  // what another thread copied needs a barrier besides
        cp_async_commit();
        cp_async_wait<0>();
        shared<float>(0).load((63 - thread()) * 4);
    });
}

TEST_F(Emulator, ReportsACopyOverWhatOthersRead) {
    const float* in = upload(std::vector<float>(256));
    launch(stream_, {1}, 64, 1024, [=] {
        for (int tile = 0; tile < 2; tile++) {
            cp_async16(shared<float>(0), thread() * 4, in + thread() * 4, true);
            cp_async_commit();
            cp_async_wait<0>();
            block_barrier();
            shared<float>(0).load((63 - thread()) * 4);  // and no barrier before the next tile's copy
        }
    });
    EXPECT_NE(report().find("race:"), std::string::npos);
}

// ---- Divergence -------------------------------------------------------------------------------------------------------

TEST_F(Emulator, ReportsDivergence) {
    expect_report("has exited", 64, 0, [] {
        if (thread() != 5) block_barrier();
    });
    expect_report("has exited", 64, 0, [] {
        if (warp() == 0) block_barrier();
    });
    expect_report("divergent: thread 0 waits at block_barrier", 64, 0, [] {
        if (warp() == 0)
            block_barrier();
        else
            block_barrier();
    });
    expect_report("a shuffle", 64, 0, [] {
        if (thread() != 40) shuffle(1, 0);
    });
    expect_report("divergent: thread 0 ", 32, 0, [] {
        if (thread() < 16)
            shuffle(1, 0);
        else
            ballot(true);
    });
    expect_report("waits at warp_barrier", 32, 0, [] {
        if (thread() % 2) warp_barrier();
        shuffle(1, 0);
    });
    expect_report("divergent: thread 0 ", 32, 0, [] {
        float d[4] = {};
        if (thread() != 31) mma_16816(d, {0, 0, 0, 0}, {0, 0});
        block_barrier();
    });
}

// ---- Addresses and limits ---------------------------------------------------------------------------------------------

TEST_F(Emulator, ReportsMisalignedAccess) {
    expect_report("misaligned: 16 bytes", 32, 1024, [] { shared<float>(0).load16(thread() * 4 + 1); });
    expect_report("misaligned: 16 bytes", 32, 1024, [] { shared<float>(8).store16(thread() * 4, {}); });
    expect_report("misaligned: 4 bytes", 32, 1024, [] { shared<float>(2).load(thread()); });
    expect_report("misaligned: 16 bytes", 32, 1024, [] {
        uint32_t r[4];
        ldmatrix_x4(r, shared<bf16>(0), thread() * 8 + 4);
    });
    for (const bool store : {false, true}) {
        reset(1);
        float* p = upload(std::vector<float>(256));
        launch(stream_, {1}, 32, 512, [=] { store ? store16(p + 1, {}) : cp_async16(shared<float>(0), 0, p + 2, true); });
        EXPECT_NE(report().find("misaligned: 16 bytes at "), std::string::npos);
    }
}

TEST_F(Emulator, ReportsSharedMemoryOutOfRange) {
    expect_report("4 bytes at byte 128 of 128 bytes of shared memory", 64, 128,
                  [] { shared<float>(0).load(thread() / 2 + 1); });
    expect_report("4 bytes at byte -4 of 128 bytes", 32, 128, [] { shared<float>(0).store(-1, 0); });
    expect_report("of shared memory", 32, 128, [] { shared<float>(0).load16(32); });
    expect_report("of shared memory", 32, 0, [] { shared<float>(0).load(0); });
}

struct Small {
    static constexpr int MAX_THREADS = 64;
    void operator()() const {}
};

TEST_F(Emulator, RefusesImpossibleLaunches) {
    const auto refused = [&](Grid grid, int threads, int shared_bytes) -> std::string {
        try {
            launch(stream_, grid, threads, shared_bytes, [] {});
        } catch (const std::runtime_error& e) {
            return e.what();
        }
        return "accepted";
    };
    EXPECT_EQ(refused({1}, 1024, MAX_SHARED_BYTES), "accepted");
    EXPECT_NE(refused({1}, 1056, 0).find("1056 threads, at most 1024"), std::string::npos);
    EXPECT_NE(refused({1}, 48, 0).find("not a multiple of 32"), std::string::npos);
    EXPECT_NE(refused({1}, 32, MAX_SHARED_BYTES + 1).find("at most 101376"), std::string::npos);
    EXPECT_NE(refused({0}, 32, 0).find("a grid of 0 x 1"), std::string::npos);
    EXPECT_NE(refused({1, 65536}, 32, 0).find("65536"), std::string::npos);
    EXPECT_THROW(launch(stream_, {1}, 96, 0, Small{}), std::runtime_error);
    EXPECT_EQ(report(), "") << "a refused launch leaves the device usable";
}

TEST_F(Emulator, ReportsAddressesOutOfRange) {
    const auto run = [&](auto body) {
        reset(1);
        float* p = upload(std::vector<float>(100));  // 400 bytes, in 512
        launch(stream_, {1}, 32, 512, [=] { body(p); });
        return report();
    };
    EXPECT_EQ(run([](float* p) { p[thread()] = 1; }), "");
    EXPECT_NE(run([](float* p) { p[100 + thread() % 28] = 1; }).find("just before or behind an allocation of 400 bytes"),
              std::string::npos);
    EXPECT_NE(run([](float* p) { p[-1 - thread()] = 1; }).find("just before or behind"), std::string::npos);
    EXPECT_NE(run([](float* p) { p[128 + thread()] = 1; }).find("of an allocation of 400 bytes"), std::string::npos);
    EXPECT_NE(run([](float* p) { load16(p + 4 * thread()); }).find("of an allocation of 400 bytes"), std::string::npos);
    EXPECT_NE(run([](float* p) { cp_async16(shared<float>(0), 4 * thread(), p + 100, true); }).find("invalid access"),
              std::string::npos);
    volatile uintptr_t nowhere = 64;
    auto* wild = reinterpret_cast<int*>(nowhere);
    EXPECT_NE(run([=](float*) { *wild = 1; }).find("is not device memory"), std::string::npos);
}

TEST_F(Emulator, AViolationSticksUntilTheDeviceIsReset) {
    float* p = allocate<float>(1);
    launch(stream_, {1}, 32, 0, [=] { load16(p); });
    const std::string text = report();
    EXPECT_NE(text, "");
    EXPECT_EQ(report(), text);
    void* more = nullptr;
    EXPECT_EQ(cudaMallocAsync(&more, 4, stream_), cudaErrorAssert);
    EXPECT_EQ(cudaGetLastError(), cudaErrorAssert);
    EXPECT_THROW(launch(stream_, {1}, 32, 0, [] {}), std::runtime_error);
    reset(1);
    EXPECT_EQ(report(), "");
    launch(stream_, {1}, 32, 128, [] { shared<float>(0).store(thread(), 1); });
    EXPECT_EQ(report(), "") << "the stacks that the violation left are used again";
}

// ---- Memory and streams -----------------------------------------------------------------------------------------------

TEST_F(Emulator, HostCannotReadDeviceMemory) {
    float* p = upload(std::vector<float>(1));
    EXPECT_EQ(report(), "");
    EXPECT_EXIT({ std::printf("%f", *p); }, testing::KilledBySignal(SIGSEGV), "");
}

TEST_F(Emulator, ReportsMemoryFreedTooEarly) {
    void* p = nullptr;
    check(cudaMallocAsync(&p, 128, stream_), "cudaMallocAsync");
    auto* values = static_cast<float*>(p);
    check(cudaFreeAsync(p, stream_), "cudaFreeAsync");
    launch(stream_, {1}, 32, 0, [=] { values[thread()] = 1; });
    EXPECT_NE(report().find("lies in no live allocation"), std::string::npos);

    reset(1);
    values = upload(std::vector<float>(32));
    check(cudaFreeAsync(values, stream_), "cudaFreeAsync");
    EXPECT_EQ(cudaFreeAsync(values, stream_), cudaErrorInvalidValue);
    check(cudaMemsetAsync(values, 0, 128, stream_), "cudaMemsetAsync");
    EXPECT_NE(report().find("lies in no live allocation"), std::string::npos);
}

TEST_F(Emulator, ReportsAFreeOnAnotherStreamUnderSomeSeed) {
    cudaStream_t other = nullptr;
    check(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking), "stream");
    int reported = 0;
    for (int seed = 1; seed <= SEEDS; seed++) {
        reset(seed);
        float* p = upload(std::vector<float>(32));
        launch(stream_, {1}, 32, 0, [=] { p[thread()] = 1; });
        check(cudaFreeAsync(p, other), "cudaFreeAsync");
        reported += report() != "";
    }
    EXPECT_GT(reported, 0);
    EXPECT_LT(reported, SEEDS);
    reset(1);
    cudaStreamDestroy(other);
}

TEST_F(Emulator, CopiesOfPinnedMemoryHappenLater) {
    void* pinned = nullptr;
    check(cudaMallocHost(&pinned, 4), "cudaMallocHost");
    auto* host = static_cast<float*>(pinned);
    *host = 1;
    float* p = allocate<float>(1);
    check(cudaMemcpyAsync(p, host, 4, cudaMemcpyHostToDevice, stream_), "copy");
    *host = 2;  // too early: the copy has not been made
    EXPECT_EQ(download(p, 1)[0], 2);
    check(cudaMemcpyAsync(host, p, 4, cudaMemcpyDeviceToHost, stream_), "copy");
    *host = 3;
    EXPECT_EQ(*host, 3);
    EXPECT_EQ(report(), "");
    EXPECT_EQ(*host, 2);
    check(cudaMemcpyAsync(p, host, 4, cudaMemcpyHostToDevice, stream_), "copy");
    check(cudaFreeHost(host), "cudaFreeHost");
    EXPECT_NE(report().find("the host's memory was freed before"), std::string::npos);
}

TEST_F(Emulator, CopiesOfPageableMemoryAreStagedAtOnce) {
    float value = 1;
    float* p = allocate<float>(1);
    check(cudaMemcpyAsync(p, &value, 4, cudaMemcpyHostToDevice, stream_), "copy");
    value = 2;
    EXPECT_EQ(download(p, 1)[0], 1);
    EXPECT_EQ(cudaMemcpyAsync(p, &value, 4, cudaMemcpyDeviceToHost, stream_), cudaErrorInvalidValue);
}

TEST_F(Emulator, MemoryRunsOut) {
    size_t available = 0, total = 0;
    setenv("HLLM_EMULATOR_MEMORY", "10000", 1);
    void *p = nullptr, *more = nullptr;
    EXPECT_EQ(cudaMallocAsync(&p, 6000, stream_), cudaSuccess);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % 256, 0u);
    EXPECT_EQ(cudaMallocAsync(&more, 6000, stream_), cudaErrorMemoryAllocation);
    EXPECT_EQ(more, nullptr);
    EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
    EXPECT_EQ(cudaGetLastError(), cudaSuccess);
    EXPECT_EQ(cudaMemGetInfo(&available, &total), cudaSuccess);
    EXPECT_EQ(available, 4000u);
    EXPECT_EQ(total, 10000u);
    EXPECT_EQ(cudaFreeAsync(p, stream_), cudaSuccess);
    EXPECT_EQ(cudaMallocAsync(&more, 6000, stream_), cudaSuccess) << "what is given back can be had again in stream order";
    EXPECT_EQ(cudaFreeAsync(more, stream_), cudaSuccess);
    EXPECT_EQ(cudaFreeAsync(more, stream_), cudaErrorInvalidValue);
    EXPECT_EQ(report(), "");
}

TEST_F(Emulator, EventsOrderStreams) {
    cudaStream_t other = nullptr;
    cudaEvent_t begun = nullptr, written = nullptr;
    check(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking), "stream");
    for (cudaEvent_t* event : {&begun, &written}) check(cudaEventCreate(event), "event");
    const auto run = [&](int seed, bool wait) {
        reset(seed);
        float* p = upload(std::vector<float>{1});
        check(cudaStreamSynchronize(stream_), "upload");
        check(cudaEventRecord(begun, other), "record");
        launch(other, {1}, 32, 0, [=] {
            if (thread() == 0) *p = 2;
        });
        check(cudaEventRecord(written, other), "record");
        if (wait) check(cudaStreamWaitEvent(stream_, written), "wait");
        return download(p, 1)[0];
    };
    std::set<float> seen;
    for (int seed = 1; seed <= SEEDS; seed++) {
        EXPECT_EQ(run(seed, true), 2);
        float milliseconds = -1;
        EXPECT_EQ(cudaEventElapsedTime(&milliseconds, begun, written), cudaSuccess);
        EXPECT_GE(milliseconds, 0);
        seen.insert(run(seed, false));
        EXPECT_EQ(cudaEventSynchronize(written), cudaSuccess);
    }
    EXPECT_EQ(seen, (std::set<float>{1, 2})) << "without the wait either may come first";
    for (cudaEvent_t event : {begun, written}) cudaEventDestroy(event);
    cudaStreamDestroy(other);
}

TEST_F(Emulator, GraphsRepeatWhatWasCaptured) {
    float* p = upload(std::vector<float>{1});
    void* pinned = nullptr;
    check(cudaMallocHost(&pinned, 4), "cudaMallocHost");
    auto* step = static_cast<float*>(pinned);
    float* by = allocate<float>(1);
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed), "begin");
    check(cudaMemcpyAsync(by, step, 4, cudaMemcpyHostToDevice, stream_), "copy");
    launch(stream_, {1}, 32, 0, [=] {
        if (thread() == 0) *p += *by;
    });
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    check(cudaStreamEndCapture(stream_, &graph), "end");
    check(cudaGraphInstantiate(&executable, graph), "instantiate");
    check(cudaGraphDestroy(graph), "destroy");
    EXPECT_EQ(download(p, 1)[0], 1) << "captured work does not run";
    for (float value : {10.f, 100.f}) {
        *step = value;
        check(cudaGraphLaunch(executable, stream_), "launch");
        EXPECT_EQ(report(), "");
    }
    EXPECT_EQ(download(p, 1)[0], 111);
    check(cudaFreeAsync(by, stream_), "free");
    check(cudaGraphLaunch(executable, stream_), "launch");
    EXPECT_NE(report().find("lies in no live allocation"), std::string::npos) << "a graph keeps no memory alive";
    check(cudaGraphExecDestroy(executable), "destroy");
}

TEST_F(Emulator, WaitingSpoilsACapture) {
    cudaGraph_t graph = nullptr;
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed), "begin");
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaErrorStreamCaptureUnsupported);
    EXPECT_EQ(cudaStreamEndCapture(stream_, &graph), cudaErrorStreamCaptureInvalidated);
    EXPECT_EQ(graph, nullptr);
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed), "begin");
    void* p = nullptr;
    EXPECT_EQ(cudaMallocAsync(&p, 4, stream_), cudaErrorStreamCaptureUnsupported);
    EXPECT_EQ(cudaStreamEndCapture(stream_, &graph), cudaErrorStreamCaptureInvalidated);
    EXPECT_EQ(report(), "");
}

// ---- cuBLASLt ---------------------------------------------------------------------------------------------------------

struct Product {
    cudaDataType_t in, out;
    cublasOperation_t a, b;
    float beta;
    uint32_t alignment;
    int offset;  // elements by which a's address is off
};

// d [5,3] = 2 op(a) op(b) + beta c by columns, with padding between them; the worst error, or the status.
class CublasLt : public Emulator {
   protected:
    static constexpr int M = 5, N = 3, K = 7, PAD = 3;
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;

    double worst(const Product& p) {
        const auto store = [&](const std::vector<float>& values, cudaDataType_t type) -> void* {
            if (type == CUDA_R_32F) return upload(values);
            std::vector<bf16> narrow;
            for (float v : values) narrow.push_back(to_bf16(v));
            return upload(narrow);
        };
        const int a_rows = p.a == CUBLAS_OP_N ? M : K, a_columns = M + K - a_rows;
        const int b_rows = p.b == CUBLAS_OP_N ? K : N, b_columns = N + K - b_rows;
        std::vector<float> a = normal((a_rows + PAD) * a_columns + p.offset), b = normal((b_rows + PAD) * b_columns),
                           c = normal((M + PAD) * N);
        for (auto* values : {&a, &b, &c})
            for (float& v : *values) v = to_float(to_bf16(v));
        void *da = store(a, p.in), *db = store(b, p.in), *dc = store(c, p.out);

        cublasLtHandle_t handle = nullptr;
        cublasLtMatmulDesc_t operation = nullptr;
        cublasLtMatmulPreference_t preference = nullptr;
        cublasLtMatrixLayout_t la = nullptr, lb = nullptr, lc = nullptr;
        cublasLtCreate(&handle);
        cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
        cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &p.a, sizeof(p.a));
        cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSB, &p.b, sizeof(p.b));
        cublasLtMatrixLayoutCreate(&la, p.in, a_rows, a_columns, a_rows + PAD);
        cublasLtMatrixLayoutCreate(&lb, p.in, b_rows, b_columns, b_rows + PAD);
        cublasLtMatrixLayoutCreate(&lc, p.out, M, N, M + PAD);
        cublasLtMatmulPreferenceCreate(&preference);
        for (int i = CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES; i <= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES; i++)
            cublasLtMatmulPreferenceSetAttribute(preference, static_cast<cublasLtMatmulPreferenceAttributes_t>(i), &p.alignment,
                                                 sizeof(p.alignment));
        cublasLtMatmulHeuristicResult_t found{};
        int count = 0;
        status = cublasLtMatmulAlgoGetHeuristic(handle, operation, la, lb, lc, lc, preference, 1, &found, &count);
        const float alpha = 2;
        void* shifted = static_cast<char*>(da) + p.offset * (p.in == CUDA_R_32F ? 4 : 2);
        if (status == CUBLAS_STATUS_SUCCESS)
            status = cublasLtMatmul(handle, operation, &alpha, shifted, la, db, lb, &p.beta, dc, lc, dc, lc, &found.algo,
                                    nullptr, 0, stream_);
        cublasLtMatmulPreferenceDestroy(preference);
        for (auto layout : {la, lb, lc}) cublasLtMatrixLayoutDestroy(layout);
        cublasLtMatmulDescDestroy(operation);
        cublasLtDestroy(handle);
        if (status != CUBLAS_STATUS_SUCCESS) return INFINITY;

        std::vector<float> got(c.size());
        if (p.out == CUDA_R_32F) {
            got = download(static_cast<float*>(dc), static_cast<int>(c.size()));
        } else {
            const auto narrow = download(static_cast<bf16*>(dc), static_cast<int>(c.size()));
            std::transform(narrow.begin(), narrow.end(), got.begin(), to_float);
        }
        double error = 0;
        for (int n = 0; n < N; n++)
            for (int m = 0; m < M + PAD; m++) {
                const int at = n * (M + PAD) + m;
                double expected = c[at];
                if (m < M) {
                    expected = p.beta == 0 ? 0 : double{p.beta} * c[at];
                    for (int k = 0; k < K; k++)
                        expected += 2.0 * a[p.offset + (p.a == CUBLAS_OP_N ? k * (a_rows + PAD) + m : m * (a_rows + PAD) + k)] *
                                    b[p.b == CUBLAS_OP_N ? n * (b_rows + PAD) + k : k * (b_rows + PAD) + n];
                }
                error = std::max(error, std::abs(got[at] - expected) / (1 + std::abs(expected)));
            }
        return error;
    }
};

TEST_F(CublasLt, MultipliesEveryCombination) {
    for (const auto& [in, out] : {std::pair{CUDA_R_32F, CUDA_R_32F}, {CUDA_R_16BF, CUDA_R_32F}, {CUDA_R_16BF, CUDA_R_16BF}})
        for (const auto a : {CUBLAS_OP_N, CUBLAS_OP_T})
            for (const auto b : {CUBLAS_OP_N, CUBLAS_OP_T})
                for (const float beta : {0.f, 1.f, -0.5f})
                    EXPECT_LT(worst({in, out, a, b, beta, 2, 1}), out == CUDA_R_32F ? 1e-5 : 5e-3)
                        << in << out << a << b << " beta " << beta;
}

TEST_F(CublasLt, RefusesWhatCublasRefuses) {
    worst({CUDA_R_32F, CUDA_R_16BF, CUBLAS_OP_N, CUBLAS_OP_N, 0, 2, 0});
    EXPECT_EQ(status, CUBLAS_STATUS_NOT_SUPPORTED) << "bf16 = f32 f32";
    worst({CUDA_R_32F, CUDA_R_32F, CUBLAS_OP_N, CUBLAS_OP_N, 0, 16, 1});
    EXPECT_EQ(status, CUBLAS_STATUS_INVALID_VALUE) << "an address less aligned than the algorithm was promised";
    cublasLtMatrixLayout_t layout = nullptr;
    EXPECT_EQ(cublasLtMatrixLayoutCreate(&layout, CUDA_R_32F, 8, 2, 7), CUBLAS_STATUS_INVALID_VALUE);
}

}  // namespace
}  // namespace hllm::cuda
