// Opaque handles are (generation, slot) numbers, not addresses: a handle used after destroy is recognised for certain.
#pragma once
#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <vector>

#include "abi/error.h"

namespace hllm {

template <class T, class Opaque>
class HandleTable {
   public:
    explicit HandleTable(const char* kind) : kind_(kind) {}

    Opaque* add(std::shared_ptr<T> object) {
        std::unique_lock lock(mutex_);
        uint32_t slot;
        if (free_.empty()) {
            slot = static_cast<uint32_t>(slots_.size());
            slots_.emplace_back();
        } else {
            slot = free_.back();
            free_.pop_back();
        }
        slots_[slot].object = std::move(object);
        return reinterpret_cast<Opaque*>(static_cast<uintptr_t>(slots_[slot].generation) << 32 | (slot + 1));
    }

    // `where` (an operation or a tensor) is for the message. Shared ownership keeps the object alive for the duration of a call
    // that races with destroy.
    std::shared_ptr<T> get(const char* where, const Opaque* handle) const {
        std::shared_lock lock(mutex_);
        return find(where, handle).object;
    }

    void remove(const char* where, const Opaque* handle) {
        if (handle == nullptr) return;
        std::shared_ptr<T> last;  // dies outside the lock
        std::unique_lock lock(mutex_);
        Slot& slot = const_cast<Slot&>(find(where, handle));
        last = std::move(slot.object);
        slot.object.reset();
        slot.generation++;
        free_.push_back(static_cast<uint32_t>(&slot - slots_.data()));
        lock.unlock();
    }

   private:
    struct Slot {
        std::shared_ptr<T> object;
        uint32_t generation = 1;
    };

    const Slot& find(const char* where, const Opaque* handle) const {
        auto bits = reinterpret_cast<uintptr_t>(handle);
        auto slot = static_cast<uint32_t>(bits), generation = static_cast<uint32_t>(static_cast<uint64_t>(bits) >> 32);
        if (bits == 0) fail(HLLM_INVALID_ARGUMENT, "%s: %s is NULL", where, kind_);
        if (slot == 0 || slot > slots_.size() || slots_[slot - 1].generation != generation || !slots_[slot - 1].object)
            fail(HLLM_INVALID_ARGUMENT, "%s: %s is closed (or was never created)", where, kind_);
        return slots_[slot - 1];
    }

    const char* kind_;
    mutable std::shared_mutex mutex_;
    std::vector<Slot> slots_;
    std::vector<uint32_t> free_;
};

static_assert(sizeof(uintptr_t) == 8, "handles need 64-bit pointers");

}  // namespace hllm
