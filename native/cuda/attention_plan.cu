// Cuts a plan into tiles, on the host.
#include "cuda/attention_plan.h"

#include <algorithm>
#include <cstring>

#include "cuda/backend.h"

namespace hllm::cuda {
namespace {

// A segment shares a tile if the tile then has few columns, or if it brings no more new ones than it has queries.
constexpr int32_t FEW_COLUMNS = 128;

class QueryTiler {
   public:
    QueryTiler(const Plan& plan, int32_t queries, bool shared)
        : plan_(plan), pieces_(plan.reverse().pieces), most_(queries), shared_(shared), places_(pieces_.size()) {}

    Tiles cut() {
        int32_t next = 0;
        for (const Plan::Segment& segment : plan_.segments) {
            add_unused(next, segment.query);
            add(segment);
            next = segment.query + segment.queries;
        }
        add_unused(next, plan_.query_rows);
        close();
        return std::move(made_);
    }

   private:
    // Where a piece of keys was put last.
    struct Place {
        int32_t tile = -1, chunk = -1, column = 0;
    };

    int32_t tile() const { return static_cast<int32_t>(tiles_closed_); }
    int32_t chunk() const { return static_cast<int32_t>(made_.chunks.size()); }

    void close() {
        if (open_.queries > 0) made_.tiles.push_back(open_);
        tiles_closed_++;
        open_ = {static_cast<int32_t>(made_.runs.size()), 0, 0, chunk(), 0, 0, -1};
    }

    void add_unused(int32_t begin, int32_t end) {
        for (; begin < end; begin += most_) {
            const int32_t n = std::min(most_, end - begin);
            if (!shared_ || open_.queries + n > most_) close();
            add_chunk({begin, n, 0, 0, 0, 0});
        }
    }
    void add_chunk(const Chunk& chunk) {
        made_.chunks.push_back(chunk);
        open_.chunks++;
        open_.queries += chunk.queries;
    }

    void add(const Plan::Segment& segment) {
        const int32_t rest = (segment.queries - 1) % most_ + 1;
        if (segment.queries > most_) add_full_tiles(segment, segment.queries - rest);
        if (!shared_ || open_.queries + rest > most_ || !worth_sharing(segment, rest)) close();
        add_last_chunk(segment, rest);
    }

    // body(piece) for the pieces of the segment's keys, in order.
    template <class Body>
    void each_piece(const Plan::Segment& segment, Body&& body) const {
        for (int32_t j = segment.span; j < segment.span + segment.spans; j++) {
            const Plan::Span& span = plan_.spans[j];
            auto begins_before = [](const Plan::Piece& piece, int32_t row) { return piece.begin < row; };
            auto piece = std::lower_bound(pieces_.begin(), pieces_.end(), span.begin, begins_before);
            for (; piece != pieces_.end() && piece->begin < span.begin + span.length; ++piece)
                body(static_cast<size_t>(piece - pieces_.begin()));
        }
    }

    bool worth_sharing(const Plan::Segment& segment, int32_t queries) const {
        int32_t brought = 0;
        each_piece(segment, [&](size_t p) {
            if (places_[p].tile != tile()) brought += pieces_[p].length;
        });
        return brought <= queries || open_.columns + brought <= FEW_COLUMNS;
    }

    // The segment's last queries, which see all its keys, join the open tile.
    void add_last_chunk(const Plan::Segment& segment, int32_t queries) {
        const auto first_glimpse = static_cast<int32_t>(made_.glimpses.size());
        int32_t position = 0;
        each_piece(segment, [&](size_t p) {
            Place& place = places_[p];
            const Plan::Piece& piece = pieces_[p];
            // A segment that sees a key twice has two columns for it.
            if (place.tile != tile() || place.chunk == chunk()) {
                place.column = open_.columns;
                add_run({open_.columns, piece.begin});
                open_.columns += piece.length;
            }
            place.tile = tile();
            place.chunk = chunk();
            const bool goes_on = static_cast<int32_t>(made_.glimpses.size()) > first_glimpse &&
                                 made_.glimpses.back().column + made_.glimpses.back().length == place.column;
            if (goes_on)
                made_.glimpses.back().length += piece.length;
            else
                made_.glimpses.push_back({place.column, piece.length, position});
            position += piece.length;
        });
        add_chunk({segment.query + segment.queries - queries, queries, plan_.causal ? segment.keys - queries + 1 : segment.keys,
                   plan_.causal, first_glimpse, static_cast<int32_t>(made_.glimpses.size()) - first_glimpse});
    }
    void add_run(const Run& run) {
        const bool goes_on = open_.runs > 0 && made_.runs.back().row + run.column - made_.runs.back().column == run.row;
        if (goes_on) return;
        made_.runs.push_back(run);
        open_.runs++;
    }

    // Tiles of the segment's first queries; their columns are its keys in order. Those with most work come first.
    void add_full_tiles(const Plan::Segment& segment, int32_t queries) {
        close();
        const auto run = static_cast<int32_t>(made_.runs.size());
        for (int32_t j = segment.span; j < segment.span + segment.spans; j++)
            made_.runs.push_back({plan_.spans[j].position, plan_.spans[j].begin});
        for (int32_t first = queries - most_; first >= 0; first -= most_) {
            const int32_t seen = plan_.causal ? segment.keys - segment.queries + 1 + first : segment.keys,
                          columns = plan_.causal ? seen + most_ - 1 : seen;
            made_.glimpses.push_back({0, columns, 0});
            made_.tiles.push_back({run, segment.spans, columns, chunk(), 1, most_, -1});
            made_.chunks.push_back(
                {segment.query + first, most_, seen, plan_.causal, static_cast<int32_t>(made_.glimpses.size()) - 1, 1});
        }
        close();
    }

    const Plan& plan_;
    const std::vector<Plan::Piece>& pieces_;
    const int32_t most_;
    const bool shared_;
    std::vector<Place> places_;
    Tiles made_;
    Tile open_{0, 0, 0, 0, 0, 0, -1};
    int64_t tiles_closed_ = 0;  // the number of the open tile
};

class KeyTiler {
   public:
    KeyTiler(const Plan& plan, int32_t keys, int32_t queries) : plan_(plan), keys_(keys), most_(queries) {}

    Tiles cut() {
        // Two passes over (segment, span, tile): count, then fill in segment order.
        const size_t tiles = (static_cast<size_t>(plan_.key_rows) + keys_ - 1) / keys_;
        std::vector<size_t> begin(tiles + 1, 0);
        each_sight([&](size_t tile, const Sight&) { begin[tile + 1]++; });
        for (size_t i = 0; i < tiles; i++) begin[i + 1] += begin[i];
        std::vector<Sight> sights(begin[tiles]);
        std::vector<size_t> end = begin;
        each_sight([&](size_t tile, const Sight& sight) { sights[end[tile]++] = sight; });
        for (size_t i = 0; i < tiles; i++)
            add_tile(static_cast<int32_t>(i), sights.data() + begin[i], sights.data() + begin[i + 1]);
        return std::move(made_);
    }

   private:
    // A segment sees columns of a tile.
    struct Sight {
        int32_t segment;
        Glimpse glimpse;
    };

    template <class Visit>
    void each_sight(Visit&& visit) const {
        for (size_t s = 0; s < plan_.segments.size(); s++)
            for (int32_t j = plan_.segments[s].span; j < plan_.segments[s].span + plan_.segments[s].spans; j++) {
                const Plan::Span& span = plan_.spans[j];
                const int32_t end = span.begin + span.length;
                for (int32_t at = span.begin, next; at < end; at = next) {
                    const int32_t tile = at / keys_;
                    next = std::min(end, (tile + 1) * keys_);
                    visit(static_cast<size_t>(tile),
                          Sight{static_cast<int32_t>(s), {at - tile * keys_, next - at, span.position + at - span.begin}});
                }
            }
    }

    void add_tile(int32_t index, const Sight* sight, const Sight* end) {
        chunks_.clear();
        int64_t queries = 0;
        for (const Sight* next; sight != end; sight = next) {
            for (next = sight; next != end && next->segment == sight->segment;) next++;
            for (const Sight* at = sight; at != next;) queries += add_chunk(at, next);
        }
        // Equal parts of what is too much for one tile.
        const int64_t parts = std::max<int64_t>(1, (queries + most_ - 1) / most_), most = (queries + parts - 1) / parts;
        const int32_t row = index * keys_, rows = std::min(keys_, plan_.key_rows - row);
        if (parts > 1) made_.sums.push_back({row, rows, made_.partials, static_cast<int32_t>(parts)});
        auto chunk = chunks_.begin();
        for (int64_t part = 0; part < parts; part++) {
            Tile tile{static_cast<int32_t>(made_.runs.size()), 1, rows, static_cast<int32_t>(made_.chunks.size()), 0, 0,
                      parts > 1 ? made_.partials++ : -1};
            made_.runs.push_back({0, row});
            while (chunk != chunks_.end() && tile.queries < most) {
                Chunk taken = *chunk;
                taken.queries = std::min(taken.queries, static_cast<int32_t>(most) - tile.queries);
                made_.chunks.push_back(taken);
                tile.chunks++;
                tile.queries += taken.queries;
                if (taken.queries == chunk->queries) {
                    ++chunk;
                    continue;
                }
                chunk->query += taken.queries;
                chunk->queries -= taken.queries;
                chunk->seen += taken.queries * chunk->step;
            }
            made_.tiles.push_back(tile);
        }
    }

    // A chunk of one segment's sights, up to one of a column that the chunk has already: that begins another. The queries
    // of the chunk are those that see any of it; returns how many.
    int32_t add_chunk(const Sight*& sight, const Sight* end) {
        const Plan::Segment& segment = plan_.segments[sight->segment];
        const auto first_glimpse = static_cast<int32_t>(made_.glimpses.size());
        int32_t first = segment.queries - 1;
        for (; sight != end; ++sight) {
            const Glimpse& glimpse = sight->glimpse;
            bool again = false;
            for (size_t i = first_glimpse; i < made_.glimpses.size(); i++)
                again |= glimpse.column < made_.glimpses[i].column + made_.glimpses[i].length &&
                         made_.glimpses[i].column < glimpse.column + glimpse.length;
            if (again) break;
            first = std::min(first, plan_.causal ? glimpse.position - (segment.keys - segment.queries) : 0);
            Glimpse* last = static_cast<int32_t>(made_.glimpses.size()) > first_glimpse ? &made_.glimpses.back() : nullptr;
            if (last && last->column + last->length == glimpse.column && last->position + last->length == glimpse.position)
                last->length += glimpse.length;
            else
                made_.glimpses.push_back(glimpse);
        }
        first = std::max(first, 0);
        chunks_.push_back({segment.query + first, segment.queries - first,
                           plan_.causal ? segment.keys - segment.queries + 1 + first : segment.keys, plan_.causal,
                           first_glimpse, static_cast<int32_t>(made_.glimpses.size()) - first_glimpse});
        return segment.queries - first;
    }

    const Plan& plan_;
    const int32_t keys_, most_;
    Tiles made_;
    std::vector<Chunk> chunks_;  // of the tile
};

}  // namespace

Tiles query_tiles(const Plan& plan, int32_t queries, bool shared) { return QueryTiler(plan, queries, shared).cut(); }

Tiles key_tiles(const Plan& plan, int32_t keys, int32_t queries) { return KeyTiler(plan, keys, queries).cut(); }

DeviceTiles DevicePlan::query_tiles(Context& context, const Plan& plan, int32_t queries, bool shared) {
    return find(context, plan, {false, 0, queries, shared});
}

DeviceTiles DevicePlan::key_tiles(Context& context, const Plan& plan, int32_t keys, int32_t queries) {
    return find(context, plan, {true, keys, queries, false});
}

Tiles DevicePlan::make(const Plan& plan, const Cut& cut) {
    return cut.of_keys ? cuda::key_tiles(plan, cut.keys, cut.queries) : cuda::query_tiles(plan, cut.queries, cut.shared);
}

DevicePlan::Sizes DevicePlan::sizes(const Tiles& t) {
    return {t.tiles.size(), t.chunks.size(), t.glimpses.size(), t.runs.size(), t.sums.size(), static_cast<size_t>(t.partials)};
}

DeviceTiles DevicePlan::find(Context& context, const Plan& plan, const Cut& cut) {
    std::lock_guard lock(mutex_);
    auto at = held_.find(cut);
    if (at == held_.end()) {
        if (context.capture)
            fail(HLLM_UNSUPPORTED,
                 "attention: the first call with a plan prepares it for the model's heads, which cannot be "
                 "captured; make that call before the capture");
        const Tiles tiles = make(plan, cut);
        Held held;
        held.room = sizes(tiles);
        if (cut.of_keys) {
            // Who sees what has no bound in the plan: some room.
            for (size_t* n : {&held.room.tiles, &held.room.runs, &held.room.sums, &held.room.partials}) *n += 32;
            for (size_t* n : {&held.room.chunks, &held.room.glimpses}) *n = 2 * *n + 1024;
        } else {
            // What tiles that are not shared need for any content.
            const size_t chunks = 2 * static_cast<size_t>(plan.segment_capacity) + 1 + plan.query_rows / cut.queries;
            held.room.tiles = held.room.chunks = chunks;
            held.room.glimpses = std::max(held.room.glimpses, chunks);
            held.room.runs = std::max(held.room.runs, 2 * static_cast<size_t>(plan.span_capacity));
        }
        upload(context, tiles, held);
        at = held_.emplace(cut, std::move(held)).first;
    }
    at->second.upload.await(context);
    DeviceTiles found = at->second.tiles;
    if (context.capture) {  // what an update may bring
        found.tiles = static_cast<int>(at->second.room.tiles);
        found.sums = static_cast<int>(at->second.room.sums);
        found.partials = static_cast<int64_t>(at->second.room.partials);
    }
    return found;
}

void DevicePlan::update(Context& context, const Plan& plan) {
    std::lock_guard lock(mutex_);
    std::vector<Tiles> made;  // all, before any is replaced
    for (const auto& [cut, held] : held_) {
        made.push_back(make(plan, cut));
        if (cut.shared && !fits(sizes(made.back()), held.room)) made.back() = cuda::query_tiles(plan, cut.queries, false);
        if (!fits(sizes(made.back()), held.room))
            fail(HLLM_INVALID_ARGUMENT,
                 "plan_update: many more pairs of segments and the keys they see than at plan_create; create a new plan");
    }
    auto tiles = made.begin();
    for (auto& [cut, held] : held_) upload(context, *tiles++, held);
    flash_.reset();
}

bool DevicePlan::fits(const Sizes& sizes, const Sizes& room) {
    return sizes.tiles <= room.tiles && sizes.chunks <= room.chunks && sizes.glimpses <= room.glimpses &&
           sizes.runs <= room.runs && sizes.sums <= room.sums && sizes.partials <= room.partials;
}

// One array behind the other, each with its room, in one copy.
void DevicePlan::upload(Context& context, const Tiles& tiles, Held& held) {
    const int32_t counts[] = {static_cast<int32_t>(tiles.tiles.size()), static_cast<int32_t>(tiles.sums.size())};
    std::vector<std::byte> image;
    auto add = [&](const auto* items, size_t count, size_t room) {
        const size_t offset = image.size();
        image.resize(offset + room * sizeof *items);
        if (count > 0) std::memcpy(image.data() + offset, items, count * sizeof *items);
        return offset;
    };
    const Sizes& room = held.room;
    const size_t at_counts = add(counts, 2, 2), at_tiles = add(tiles.tiles.data(), tiles.tiles.size(), room.tiles),
                 at_chunks = add(tiles.chunks.data(), tiles.chunks.size(), room.chunks),
                 at_glimpses = add(tiles.glimpses.data(), tiles.glimpses.size(), room.glimpses),
                 at_runs = add(tiles.runs.data(), tiles.runs.size(), room.runs),
                 at_sums = add(tiles.sums.data(), tiles.sums.size(), room.sums);
    if (!held.buffer) held.buffer = std::make_shared<Buffer>(context, static_cast<int64_t>(image.size()));
    auto* base = static_cast<std::byte*>(held.buffer->data);
    context.backend->write(context, base, image.data(), static_cast<int64_t>(image.size()));
    held.tiles = {{reinterpret_cast<const int32_t*>(base + at_counts), reinterpret_cast<const Tile*>(base + at_tiles),
                   reinterpret_cast<const Chunk*>(base + at_chunks), reinterpret_cast<const Glimpse*>(base + at_glimpses),
                   reinterpret_cast<const Run*>(base + at_runs), reinterpret_cast<const PartialSums*>(base + at_sums)},
                  counts[0],
                  counts[1],
                  tiles.partials};
    held.upload.enqueued(context);
}

void Upload::enqueued(Context& context) {
    by_ = &context;
    done_ = context.backend->make_event();
    done_->record(context);
}

void Upload::await(Context& context) const {
    // A capture follows a call of its own context, which has waited; in itself it must not.
    if (&context != by_ && !context.capture) done_->wait(context);
}

void CudaBackend::prepare(Context& context, Plan& plan) {
    if (plan.device)
        static_cast<DevicePlan*>(plan.device.get())->update(context, plan);
    else
        plan.device = std::make_shared<DevicePlan>();
}

}  // namespace hllm::cuda
