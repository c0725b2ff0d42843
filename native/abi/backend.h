// What a device implements. The ABI layer (abi.cpp) has checked every argument before one of these is called, so kernels
// see typed, in-bounds views and say nothing about errors except what only they can know.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "abi/error.h"

namespace hllm {

inline int64_t bytes_of(int32_t dtype) { return dtype == HLLM_BF16 ? 2 : 4; }

// A resolved tensor: address, shape and strides in elements; the innermost stride is 1.
struct View {
    void* data = nullptr;
    int32_t dtype = HLLM_F32;
    int32_t rank = 0;
    int64_t shape[4] = {1, 1, 1, 1};
    int64_t stride[4] = {0, 0, 0, 1};

    float* f32() const { return static_cast<float*>(data); }
    uint16_t* bf16() const { return static_cast<uint16_t*>(data); }
    int32_t* i32() const { return static_cast<int32_t*>(data); }
    explicit operator bool() const { return data != nullptr; }
    int64_t elements() const {
        int64_t n = 1;
        for (int i = 0; i < rank; i++) n *= shape[i];
        return n;
    }
    float* row(int64_t i) const { return f32() + i * stride[0]; }
    View transposed() const {  // a matrix
        View v = *this;
        std::swap(v.shape[0], v.shape[1]);
        std::swap(v.stride[0], v.stride[1]);
        return v;
    }
};

class Backend;
struct Context;

// Memory of a device. It goes back to the context that it came from (its stream, on a GPU), whoever used it meanwhile.
struct Buffer {
    Backend* backend;
    void* data;
    int64_t bytes;
    bool wrapped = false;                     // foreign, read-only pages
    std::shared_ptr<void> home;               // Context::device of that context
    Buffer(Context& context, int64_t bytes);  // zero-filled; counted, within the device's limit
    Buffer(Backend* backend, const void* host, int64_t bytes);
    Buffer(const Buffer&) = delete;
    ~Buffer();
};

struct Weight {
    Backend* backend;
    std::shared_ptr<Buffer> source_buffer;  // kept alive with the weight; once packed, by its owner alone
    std::weak_ptr<Buffer> source_memory;
    View source;                     // [N,K], f32 or bf16
    std::shared_ptr<Buffer> own;     // the bf16 copy of an f32 source
    View values;                     // what the kernels read
    std::shared_ptr<Buffer> packed;  // the values once more, in the kernels' order
};

// Attention plan: the caller's segments and spans, and on demand the reverse list from pieces of keys to the segments that
// read them.
struct Plan {
    Backend* backend = nullptr;
    bool causal = true;
    int32_t query_rows = 0, key_rows = 0;
    struct Segment {
        int32_t query, queries;  // first query row, count
        int32_t span, spans;     // range in `spans`
        int32_t keys;            // sum of span lengths
    };
    struct Span {
        int32_t begin, length;
        int32_t position;  // logical position of its first key within its segment
    };
    std::vector<Segment> segments;
    std::vector<Span> spans;
    // A maximal run of key rows that is read as a whole by the same segments.
    struct Piece {
        int32_t begin, length;
        int32_t reader, readers;  // range in `readers`
    };
    struct Reader {
        int32_t segment, position;  // logical position of the piece's first row in that segment
    };
    struct Reverse {
        std::vector<Piece> pieces;  // disjoint, ascending
        std::vector<Reader> readers;
    };
    // Derived at the first call, which a forward on the CPU never makes; by several contexts at once, if they like.
    const Reverse& reverse() const;
    int32_t segment_capacity = 0, span_capacity = 0;  // what an update may hold
    std::shared_ptr<void> device;                     // the device's own form of it, made by Backend::prepare
    int64_t bytes() const;
    void replace(Plan&& other);  // everything but what belongs to the device
    Plan() = default;
    Plan(const Plan&) = delete;
    ~Plan();

   private:
    mutable std::mutex reversing_;
    mutable std::unique_ptr<const Reverse> reverse_;
};

// Checks and copies the host arrays.
std::shared_ptr<Plan> make_plan(const char* op, const hllm_plan_args& args);

struct InfoNce {
    float threshold;
    int64_t positions;
    View metrics, du, dp, dn, dlogit_scale, u, p, n, target_ids, negative_ids, logit_scale;
};

struct RopeScatter {
    View q, keys, values, k, v, positions, table, index;
};

struct AdamW {
    float lr, beta1, beta2, eps, weight_decay, gradient_scale;
    int64_t step;
    View parameters, gradients, moment1, moment2;
};

// Temporary memory of one call. Grows to the largest call seen, then allocates nothing.
class Scratch {
   public:
    explicit Scratch(Context& context) : context_(context) {}
    Scratch(const Scratch&) = delete;
    void reset();  // at the start of a call
    void clear() { chunks_.clear(); }
    template <class T>
    T* take(int64_t count) {
        return static_cast<T*>(take_bytes(count * static_cast<int64_t>(sizeof(T))));
    }

   private:
    void* take_bytes(int64_t bytes);
    void add_chunk(int64_t bytes);
    Context& context_;
    std::vector<std::shared_ptr<Buffer>> chunks_;
    int64_t used_ = 0;  // in the last chunk
};

// A point in the work of a context.
struct Event {
    explicit Event(Backend* backend) : backend(backend) {}
    virtual ~Event() = default;
    virtual void record(Context&) = 0;
    virtual void wait(Context&) = 0;
    virtual void synchronize() = 0;
    virtual double seconds_until(Event& end) = 0;
    Backend* backend;
    bool recorded = false;
};

// The calls of a context between begin_capture and end, to be launched again; it keeps alive all that they use.
struct Graph {
    explicit Graph(Context& context);
    virtual ~Graph() = default;
    virtual void end() = 0;  // of the capture
    virtual void launch() = 0;
    Backend* backend;
    std::shared_ptr<void> home;  // Context::device of the context that captured it and may launch it
    std::set<std::shared_ptr<void>> kept;
};

struct Context {
    explicit Context(Backend* backend);
    Backend* backend;
    std::shared_ptr<void> device;  // the device's own part, made by Backend::open
    Scratch scratch;
    std::shared_ptr<Graph> capture;       // while calls are being captured
    std::atomic<std::thread::id> user{};  // the thread inside a call
};

class Backend {
   public:
    virtual ~Backend() = default;
    virtual const char* name() const = 0;

    std::atomic<int64_t> live_bytes{0}, limit_bytes{INT64_MAX};
    virtual std::string info() const = 0;  // one line about the device
    virtual int64_t memory_available() const = 0;
    // Whether operations take bf16 activations (View in any place that abi.cpp resolves as an activation).
    virtual bool bf16_activations() const { return false; }
    virtual int64_t max_head_width() const { return INT64_MAX; }  // of attention

    virtual std::shared_ptr<void> open(Context&) { return nullptr; }
    // Around every call on a context: a named range for the profiler.
    virtual void enter(const char* /*op*/) {}
    virtual void leave() {}
    // Zero-filled, aligned to 64; throws OUT_OF_MEMORY with sizes.
    virtual void* allocate(Context&, int64_t bytes) = 0;
    virtual void release(void* data, void* home) = 0;
    // Throws what the context's work has run into since the last time.
    virtual void synchronize(Context&) = 0;
    // Complete on return.
    virtual void write(Context&, void* to, const void* host, int64_t bytes) = 0;
    virtual void read(Context&, void* host, const void* from, int64_t bytes) = 0;
    virtual std::shared_ptr<Event> make_event() = 0;
    virtual std::shared_ptr<Graph> begin_capture(Context&) = 0;
    // Fills Plan::device, or brings it up to date at the same device addresses.
    virtual void prepare(Context&, Plan&) {}

    virtual void fill(Context&, const View& out, float value) = 0;
    virtual void convert(Context&, const View& out, const View& in) = 0;

    virtual void matmul(Context&, const View& c, const View& a, const View& b, bool transpose_a, bool transpose_b,
                        bool accumulate) = 0;
    // Bytes of a weight's packed form, 0: none. pack() fills it, and again after a refresh.
    virtual int64_t packed_bytes(const Weight&) const { return 0; }
    virtual void pack(Context&, const Weight&) {}
    virtual void linear_forward(Context&, const View& y, const View& x, const Weight& weight, bool accumulate) = 0;
    virtual void linear_backward_input(Context&, const View& dx, const View& dy, const Weight& weight, bool accumulate) = 0;

    virtual void embedding_forward(Context&, const View& out, const View& ids, const View& table, const View& special) = 0;
    virtual void embedding_backward(Context&, const View& dtable, const View& dspecial, const View& dout, const View& ids) = 0;
    virtual void gather_rows(Context&, const View& out, const View& in, const View& index) = 0;
    virtual void scatter_rows(Context&, const View& out, const View& in, const View& index) = 0;
    virtual void scatter_add_rows(Context&, const View& out, const View& in, const View& index) = 0;
    virtual void segment_mean_forward(Context&, const View& out, const View& in, const View& offsets, const View& rows) = 0;
    virtual void segment_mean_backward(Context&, const View& din, const View& dout, const View& offsets, const View& rows) = 0;
    virtual void normalize_rows(Context&, const View& out, const View& in) = 0;
    virtual void mul(Context&, const View& out, const View& a, const View& b, bool accumulate) = 0;

    virtual void rmsnorm_forward(Context&, const View& y, const View& saved_rstd, const View& x, const View& weight,
                                 float eps) = 0;
    virtual void rmsnorm_backward(Context&, const View& dx, const View& dweight, const View& dy, const View& saved_rstd,
                                  const View& x, const View& weight, bool accumulate) = 0;
    virtual void layernorm_forward(Context&, const View& y, const View& saved, const View& x, const View& weight,
                                   const View& bias, float eps) = 0;
    virtual void layernorm_backward(Context&, const View& dx, const View& dweight, const View& dy, const View& saved,
                                    const View& x, const View& weight, bool accumulate) = 0;
    virtual void bias_forward(Context&, const View& y, const View& bias) = 0;
    virtual void bias_backward(Context&, const View& dbias, const View& dy) = 0;
    virtual void gelu_forward(Context&, const View& y, const View& x) = 0;
    virtual void gelu_backward(Context&, const View& dx, const View& dy, const View& x) = 0;
    virtual void rope(Context&, const View& x, const View& positions, const View& table, bool inverse) = 0;
    virtual void rope_scatter(Context&, const RopeScatter& args) = 0;
    virtual void swiglu_forward(Context&, const View& y, const View& gate_up) = 0;
    virtual void swiglu_backward(Context&, const View& dgate_up, const View& dy, const View& gate_up) = 0;

    virtual void attention_forward(Context&, const View& out, const View& saved_lse, const View& q, const View& k,
                                   const View& v, const Plan& plan, float scale) = 0;
    virtual void attention_backward(Context&, const View& dq, const View& dk, const View& dv, const View& saved_out,
                                    const View& saved_lse, const View& dout, const View& q, const View& k, const View& v,
                                    const Plan& plan, float scale) = 0;
    virtual void infonce(Context&, const InfoNce& args) = 0;
    virtual void bce(Context&, const View& loss, const View& dlogits, const View& logits, const View& labels,
                     int64_t positions) = 0;

    virtual void norm(Context&, const View& out, const View& in) = 0;
    virtual void clamp(Context&, const View& in, float low, float high) = 0;
    virtual void adamw(Context&, const AdamW& args) = 0;

    virtual void topk(Context&, const View& scores, const View& rows, const View& queries, const View& table,
                      const View& excluded_offsets, const View& excluded_rows) = 0;
    virtual void rank(Context&, const View& ranks, const View& queries, const View& table, const View& targets,
                      const View& excluded_offsets, const View& excluded_rows) = 0;
};

Backend* cpu_backend();

// Index arrays are checked where they are read. In host memory: before any output is touched.
void check_indices(const char* op, const char* what, const View& index, int64_t low, int64_t high);

}  // namespace hllm
