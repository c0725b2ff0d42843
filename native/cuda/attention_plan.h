// A plan as the attention kernels read it: tiles that were cut on the host, in device memory.
//
// A tile has columns, which are keys, and chunks, which are runs of queries. A query sees a column if one of its chunk's
// glimpses says so. Tiles come in two kinds, for the two directions of summing:
//   query tiles   few queries with all the keys that they see: out, lse, dq. Short segments share a tile, and share the
//                 columns of the keys that they have in common (a prompt, the ancestors in a trie, a history).
//   key tiles     a few key rows with all the queries that see them: dk, dv. The queries of a key that very many see are
//                 cut into several tiles, whose sums are added up in order.
// Every query and key row is in a tile: rows that are not used get their zeros like the others.
#pragma once
#include <map>
#include <mutex>
#include <tuple>

#include "cuda/runtime.h"

namespace hllm::cuda {

// Consecutive queries of one segment. The first sees the first `seen` keys of the segment, each next one `step` more.
struct Chunk {
    int32_t query, queries;
    int32_t seen, step;
    int32_t glimpse, glimpses;
};
// Columns [column, column + length) of the tile are the segment's keys from logical position `position` on.
struct Glimpse {
    int32_t column, length, position;
};
// Columns from `column` on, to the next run of the tile, are key rows from `row` on.
struct Run {
    int32_t column, row;
};
struct Tile {
    int32_t run, runs, columns;
    int32_t chunk, chunks, queries;
    int32_t partial;  // of a key tile: which partial sum it is, or -1 if it is all
};
// The partial sums of key rows.
struct PartialSums {
    int32_t row, rows;
    int32_t partial, partials;
};

struct Tiles {
    std::vector<Tile> tiles;
    std::vector<Chunk> chunks;
    std::vector<Glimpse> glimpses;
    std::vector<Run> runs;
    std::vector<PartialSums> sums;
    int32_t partials = 0;
};

// Tiles of at most `queries` queries; `shared` says whether segments may share one.
Tiles query_tiles(const Plan& plan, int32_t queries, bool shared);
// Tiles of `keys` key rows and at most `queries` queries.
Tiles key_tiles(const Plan& plan, int32_t keys, int32_t queries);

// What a kernel gets, in device memory.
struct TilesView {
    const int32_t* counts;  // of tiles and of sums; a graph is launched with room for what an update may bring
    const Tile* tiles;
    const Chunk* chunks;
    const Glimpse* glimpses;
    const Run* runs;
    const PartialSums* sums;
};

struct DeviceTiles {
    TilesView view;
    int tiles, sums;   // to launch
    int64_t partials;  // to hold
};

// That a plan's arrays are on their way to the device, in one context's stream; what others launch has to wait for them.
class Upload {
   public:
    void enqueued(Context& context);
    void await(Context& context) const;

   private:
    const Context* by_ = nullptr;
    std::shared_ptr<Event> done_;
};

struct FlashPlan;

// Plan::device. How tiles are cut depends on the model's heads, so they are made when the first call needs them; an update
// of the plan makes those anew that are there, at the same addresses.
class DevicePlan {
   public:
    DeviceTiles query_tiles(Context& context, const Plan& plan, int32_t queries, bool shared);
    DeviceTiles key_tiles(Context& context, const Plan& plan, int32_t keys, int32_t queries);
    void update(Context& context, const Plan& plan);

    // As the FlashAttention library reads the plan; made by the first call after an update.
    template <class Make>
    std::shared_ptr<const FlashPlan> flash(Context& context, Make&& make) {
        std::lock_guard lock(mutex_);
        if (!flash_) {
            flash_ = make();
            flash_upload_.enqueued(context);
        }
        flash_upload_.await(context);
        return flash_;
    }

   private:
    struct Cut {
        bool of_keys;
        int32_t keys, queries;
        bool shared;
        auto order() const { return std::tie(of_keys, keys, queries, shared); }
        bool operator<(const Cut& other) const { return order() < other.order(); }
    };
    struct Sizes {
        size_t tiles, chunks, glimpses, runs, sums, partials;
    };
    struct Held {
        Sizes room;
        std::shared_ptr<Buffer> buffer;
        DeviceTiles tiles;
        Upload upload;
    };
    DeviceTiles find(Context& context, const Plan& plan, const Cut& cut);
    static Tiles make(const Plan& plan, const Cut& cut);
    static Sizes sizes(const Tiles& tiles);
    static bool fits(const Sizes& sizes, const Sizes& room);
    static void upload(Context& context, const Tiles& tiles, Held& held);

    std::mutex mutex_;
    std::map<Cut, Held> held_;
    std::shared_ptr<const FlashPlan> flash_;
    Upload flash_upload_;
};

}  // namespace hllm::cuda
