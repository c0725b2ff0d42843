#include <algorithm>

#include "abi/backend.h"

namespace hllm {

std::shared_ptr<Plan> make_plan(const char* op, const hllm_plan_args& a) {
    if (a.query_rows < 0 || a.key_rows < 0 || a.segments < 0 || a.spans < 0)
        fail(HLLM_INVALID_ARGUMENT, "%s: a count is negative", op);
    if (a.segments > 0 && (!a.segment_begin || !a.segment_length || !a.span_offsets || !a.span_begin || !a.span_length))
        fail(HLLM_INVALID_ARGUMENT, "%s: an array is NULL", op);
    auto plan = std::make_shared<Plan>();
    plan->causal = a.causal != 0;
    plan->query_rows = a.query_rows;
    plan->key_rows = a.key_rows;
    plan->segment_capacity = a.segments;
    plan->span_capacity = a.spans;

    int64_t next_query = 0;
    if (a.segments > 0 && (a.span_offsets[0] != 0 || a.span_offsets[a.segments] != a.spans))
        fail(HLLM_INVALID_ARGUMENT, "%s: span_offsets must run from 0 to spans (%d)", op, a.spans);
    for (int32_t s = 0; s < a.segments; s++) {
        const int32_t begin = a.segment_begin[s], queries = a.segment_length[s];
        if (begin < next_query || queries < 0 || int64_t{begin} + queries > a.query_rows)
            fail(HLLM_INVALID_ARGUMENT,
                 "%s: segment %d covers query rows [%d, +%d), expected ascending, disjoint rows below %d", op, s, begin,
                 queries, a.query_rows);
        next_query = int64_t{begin} + queries;
        if (a.span_offsets[s] < 0 || a.span_offsets[s] > a.span_offsets[s + 1] || a.span_offsets[s + 1] > a.spans)
            fail(HLLM_INVALID_ARGUMENT, "%s: span_offsets[%d] is out of order", op, s);
        Plan::Segment segment{begin, queries, static_cast<int32_t>(plan->spans.size()), 0, 0};
        int64_t keys = 0;
        for (int32_t j = a.span_offsets[s]; j < a.span_offsets[s + 1]; j++) {
            const int32_t first = a.span_begin[j], length = a.span_length[j];
            if (first < 0 || length < 0 || int64_t{first} + length > a.key_rows)
                fail(HLLM_INVALID_ARGUMENT, "%s: span %d covers key rows [%d, +%d), expected rows below %d", op, j, first,
                     length, a.key_rows);
            if (length == 0) continue;
            plan->spans.push_back({first, length, static_cast<int32_t>(keys)});
            keys += length;
        }
        if (keys > INT32_MAX || (queries > 0 && (keys == 0 || (plan->causal && keys < queries))))
            fail(HLLM_INVALID_ARGUMENT, "%s: segment %d has %d queries but %lld keys%s", op, s, queries,
                 static_cast<long long>(keys), plan->causal ? "; a causal segment needs a key for each query" : "");
        if (queries == 0) {
            plan->spans.resize(segment.span);
            continue;
        }
        segment.spans = static_cast<int32_t>(plan->spans.size()) - segment.span;
        segment.keys = static_cast<int32_t>(keys);
        plan->segments.push_back(segment);
    }
    return plan;
}

const Plan::Reverse& Plan::reverse() const {
    std::lock_guard lock(reversing_);
    if (reverse_) return *reverse_;
    std::vector<int32_t> bounds;  // where a piece may begin or end
    for (const Span& span : spans) {
        bounds.push_back(span.begin);
        bounds.push_back(span.begin + span.length);
    }
    std::sort(bounds.begin(), bounds.end());
    bounds.erase(std::unique(bounds.begin(), bounds.end()), bounds.end());
    // Two passes over (segment, span, piece): count, then fill in segment order.
    std::vector<int32_t> counts(bounds.size() + 1, 0);
    auto each = [&](auto&& visit) {
        for (size_t s = 0; s < segments.size(); s++)
            for (int32_t j = segments[s].span; j < segments[s].span + segments[s].spans; j++) {
                const Span& span = spans[j];
                auto at = std::lower_bound(bounds.begin(), bounds.end(), span.begin) - bounds.begin();
                for (; bounds[at] < span.begin + span.length; at++)
                    visit(at, Reader{static_cast<int32_t>(s), span.position + bounds[at] - span.begin});
            }
    };
    each([&](auto at, const Reader&) { counts[at]++; });
    auto made = std::make_unique<Reverse>();
    int64_t total = 0;
    std::vector<int32_t> place(bounds.size() + 1, 0);
    for (size_t i = 0; i + 1 < bounds.size(); i++) {
        if (counts[i] == 0) continue;
        place[i] = static_cast<int32_t>(total);
        made->pieces.push_back({bounds[i], bounds[i + 1] - bounds[i], static_cast<int32_t>(total), counts[i]});
        total += counts[i];
        if (total > INT32_MAX) fail(HLLM_INVALID_ARGUMENT, "attention: too many (segment, span) pairs in the plan");
    }
    made->readers.resize(total);
    each([&](auto at, const Reader& reader) { made->readers[place[at]++] = reader; });
    const int64_t before = bytes();
    reverse_ = std::move(made);
    if (backend) backend->live_bytes += bytes() - before;
    return *reverse_;
}

int64_t Plan::bytes() const {
    int64_t bytes = static_cast<int64_t>(segments.size() * sizeof(Segment) + spans.size() * sizeof(Span));
    if (reverse_)
        bytes += static_cast<int64_t>(reverse_->pieces.size() * sizeof(Piece) + reverse_->readers.size() * sizeof(Reader));
    return bytes;
}

void Plan::replace(Plan&& other) {
    backend->live_bytes += other.bytes() - bytes();
    segments = std::move(other.segments);
    spans = std::move(other.spans);
    reverse_ = std::move(other.reverse_);
}

Plan::~Plan() {
    if (backend) backend->live_bytes -= bytes();
}

}  // namespace hllm
