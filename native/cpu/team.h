// The one team of compute threads of the process.
#pragma once
#include <algorithm>
#include <cstdint>

namespace hllm {

class Team {
   public:
    // Runs body(index, worker) for every index in [0, count): indices are handed out one by one, the caller is worker 0.
    // worker < size(). A body must write only what its index owns, so that no result depends on the schedule. Called from
    // inside a body, or while another thread's call runs, it runs on the caller alone.
    template <class Body>
    void run(int64_t count, const Body& body) {
        run(
            count, [](const void* b, int64_t index, int worker) { (*static_cast<const Body*>(b))(index, worker); }, &body);
    }
    // run() over consecutive ranges of at most `grain` of [0, count): body(begin, end, worker).
    template <class Body>
    void ranges(int64_t count, int64_t grain, const Body& body) {
        grain = std::max<int64_t>(grain, 1);
        run((count + grain - 1) / grain,
            [&](int64_t index, int worker) { body(index * grain, std::min(count, (index + 1) * grain), worker); });
    }
    int size() const;
    void resize(int count);  // 0: as many as the process may use

   private:
    using Function = void (*)(const void* body, int64_t index, int worker);
    void run(int64_t count, Function function, const void* body);
};

Team& team();

}  // namespace hllm
