#include <limits>
#include <numeric>

#include "reference.h"
#include "support.h"

namespace hllm_test {
namespace {

constexpr float NOTHING = -std::numeric_limits<float>::infinity();

struct Case {
    int64_t B, N, D;
    std::vector<std::vector<int32_t>> excluded{};  // per query, or empty: none
    int32_t dtype = HLLM_F32;
    std::string name() const {
        return "B " + std::to_string(B) + " N " + std::to_string(N) + " D " + std::to_string(D) +
               (excluded.empty() ? "" : " excluding") + (dtype == HLLM_BF16 ? " bf16" : "");
    }
};

// scores[b * N + n], -inf where excluded.
std::vector<double> score_all(const Case& c, const std::vector<float>& queries, const std::vector<float>& table) {
    auto scores = product(c.B, c.N, c.D, queries, table, false, true);
    for (size_t b = 0; b < c.excluded.size(); b++)
        for (int32_t row : c.excluded[b]) scores[b * c.N + row] = NOTHING;
    return scores;
}

class Ranking : public OpTest {
   protected:
    // Small integers: inner products are exact in any dtype, and many are equal.
    std::vector<float> integers(int64_t n) {
        std::vector<float> values(n);
        for (float& value : values) value = static_cast<float>(uniform(-2, 2));
        return values;
    }
    // Unordered, with repetitions; some queries exclude nothing, some all rows.
    void exclude(Case& c, int64_t most) {
        for (int64_t b = 0; b < c.B; b++) {
            std::vector<int32_t> rows;
            if (b % 7 == 5)
                for (int64_t row = c.N; row-- > 0;) rows.push_back(static_cast<int32_t>(row));
            for (int64_t i = b % 4 == 0 ? 0 : uniform(0, most); i > 0; i--)
                rows.push_back(static_cast<int32_t>(uniform(0, c.N - 1)));
            if (rows.size() > 1) rows.push_back(rows[0]);
            c.excluded.push_back(rows);
        }
    }
    struct Exclusion {
        const hllm_tensor *offsets = nullptr, *rows = nullptr;
    };
    Exclusion exclusion(const Case& c) {
        if (c.excluded.empty()) return {};
        std::vector<int32_t> offsets{0}, rows;
        for (const auto& list : c.excluded) {
            rows.insert(rows.end(), list.begin(), list.end());
            offsets.push_back(static_cast<int32_t>(rows.size()));
        }
        return {ints(offsets), ints(rows)};
    }

    struct Top {
        std::vector<float> scores;
        std::vector<int32_t> rows;
    };
    Top topk(const Case& c, int64_t K, const std::vector<float>& queries, const std::vector<float>& table, int64_t gap = 0) {
        const auto e = exclusion(c);
        const auto *scores = output({c.B, K}, NAN, gap), *rows = ints(std::vector<int32_t>(c.B * K, 77), {c.B, K}, 2 * gap);
        EXPECT_EQ(HLLM_OK, hllm_topk(context, scores, rows, activation(c.dtype, queries, {c.B, c.D}, gap),
                                     activation(c.dtype, table, {c.N, c.D}, 2 * gap), e.offsets, e.rows))
            << hllm_error_message();
        return {read(scores), read_ints(rows)};
    }
    std::vector<int32_t> rank(const Case& c, const std::vector<int32_t>& targets, const std::vector<float>& queries,
                              const std::vector<float>& table, int64_t gap = 0) {
        const auto e = exclusion(c);
        const auto* ranks = ints(std::vector<int32_t>(c.B, 77));
        EXPECT_EQ(HLLM_OK, hllm_rank(context, ranks, activation(c.dtype, queries, {c.B, c.D}, gap),
                                     activation(c.dtype, table, {c.N, c.D}, 2 * gap), ints(targets), e.offsets, e.rows))
            << hllm_error_message();
        return read_ints(ranks);
    }

    void compare(Case c, const std::vector<int64_t>& ks, int64_t gap = 1) {
        for (int32_t dtype : activation_dtypes()) {
            c.dtype = dtype;
            compare_as_it_is(c, ks, gap);
        }
    }
    void compare_as_it_is(const Case& c, const std::vector<int64_t>& ks, int64_t gap) {
        const auto queries = integers(c.B * c.D), table = integers(c.N * c.D);
        const auto all = score_all(c, queries, table);
        for (int64_t K : ks) {
            Top expected{std::vector<float>(c.B * K, NOTHING), std::vector<int32_t>(c.B * K, -1)};
            for (int64_t b = 0; b < c.B; b++) {
                const double* scores = all.data() + b * c.N;
                std::vector<int32_t> order(c.N);
                std::iota(order.begin(), order.end(), 0);
                std::stable_sort(order.begin(), order.end(), [&](int32_t i, int32_t j) { return scores[i] > scores[j]; });
                for (int64_t i = 0; i < std::min(K, c.N) && scores[order[i]] > NOTHING; i++) {
                    expected.rows[b * K + i] = order[i];
                    expected.scores[b * K + i] = static_cast<float>(scores[order[i]]);
                }
            }
            const Top top = topk(c, K, queries, table, gap);
            if (expected.rows.empty()) continue;
            EXPECT_EQ(expected.rows, top.rows) << c.name() << " K " << K;
            EXPECT_EQ(expected.scores, top.scores) << c.name() << " K " << K;
        }
        std::vector<int32_t> targets, expected;
        for (int64_t b = 0; b < c.B; b++) {
            targets.push_back(static_cast<int32_t>(uniform(0, c.N - 1)));
            const double* scores = all.data() + b * c.N;
            const double target = scores[targets[b]];
            const auto higher = std::count_if(scores, scores + c.N, [&](double score) { return score > target; });
            expected.push_back(static_cast<int32_t>(1 + (target > NOTHING ? higher : c.N)));
        }
        EXPECT_EQ(expected, rank(c, targets, queries, table, gap)) << c.name();
    }
};

// ---- Tests ----

TEST_F(Ranking, ExactWithTies) {
    // The other devices have no such edges, and an emulated one takes its time.
    const std::vector<int64_t> table_rows =
        on_cpu() ? std::vector<int64_t>{1, 5, 64, 65, 127, 128, 129, 400} : std::vector<int64_t>{1, 5, 129, 400};
    const std::vector<int64_t> queries = on_cpu() ? std::vector<int64_t>{1, 3, 15, 17, 64, 65} : std::vector<int64_t>{1, 3, 17};
    for (int64_t N : table_rows)
        for (int64_t B : queries) {
            Case c{B, N, 6};
            compare(c, {1, 5, 50});
            exclude(c, 20);
            compare(c, {1, 5, N, N + 3});
        }
}

TEST_F(Ranking, BlocksOfQueriesAndTilesOfTheTable) {
    using Sizes = std::vector<std::pair<int64_t, int64_t>>;
    const Sizes of_cpu{{300, 2300}, {257, 2049}, {256, 2048}, {5, 4100}, {1, 9000}, {513, 70}},
        of_gpu{{1030, 70}, {32, 270001}};
    for (const auto& [B, N] : on_cpu() ? of_cpu : of_gpu) {
        Case c{B, N, on_cpu() ? 9 : 4};
        compare(c, {N > 10000 ? 2000 : 10});  // more than share the best score
        exclude(c, 60);
        compare(c, {20});
    }
}

TEST_F(Ranking, Widths) {
    for (int64_t D : {1, 2, 16, 33, 577}) compare({20, 300, D}, {7});
}

// Rows that a GPU loads 16 bytes at a time.
TEST_F(Ranking, FewQueriesOfAlignedRows) {
    for (int64_t B : {1, 7, 8, 9})
        for (const auto& [N, D] : {std::pair<int64_t, int64_t>{1, 8}, {16, 128}, {17, 136}, {1000, 64}, {130, 520}}) {
            Case c{B, N, D};
            compare(c, {10}, 0);
            exclude(c, 30);
            compare(c, {10}, 8);
        }
}

// More than a step of the scan finds new rows in, and every row better than the one before.
TEST_F(Ranking, AscendingScores) {
    for (int32_t dtype : activation_dtypes()) {
        Case c{2, 9000, 8};
        c.dtype = dtype;
        std::vector<float> table(c.N * c.D), queries(c.B * c.D);
        for (int64_t n = 0; n < c.N; n++)  // two digits, each exact in bf16
            table[n * c.D] = static_cast<float>(n / 100), table[n * c.D + 1] = static_cast<float>(n % 100);
        queries[0] = 100, queries[1] = 1, queries[c.D] = -100, queries[c.D + 1] = -1;
        for (int64_t K : {1, 200, 1024, 4096}) {
            const Top top = topk(c, K, queries, table);
            for (int64_t i = 0; i < K; i++) {
                ASSERT_EQ(c.N - 1 - i, top.rows[i]) << c.name() << " K " << K;
                ASSERT_EQ(i, top.rows[K + i]) << c.name() << " K " << K;
            }
        }
        EXPECT_EQ((std::vector<int32_t>{101, 8900}), rank(c, {8899, 8899}, queries, table));
    }
}

TEST_F(Ranking, EveryRowExcluded) {
    Case c{3, 40, 4};
    std::vector<int32_t> rows(c.N);
    std::iota(rows.begin(), rows.end(), 0);
    c.excluded.assign(c.B, rows);
    const auto top = topk(c, 4, normal(c.B * c.D), normal(c.N * c.D));
    EXPECT_EQ(std::vector<float>(12, NOTHING), top.scores);
    EXPECT_EQ(std::vector<int32_t>(12, -1), top.rows);
    EXPECT_EQ(std::vector<int32_t>(3, 41), rank(c, {0, 20, 39}, normal(c.B * c.D), normal(c.N * c.D)));
}

TEST_F(Ranking, NothingToDo) {
    EXPECT_TRUE(topk({0, 10, 4}, 3, {}, normal(40)).rows.empty());
    EXPECT_TRUE(topk({2, 10, 4}, 0, normal(8), normal(40), 1).rows.empty());
    EXPECT_EQ(std::vector<int32_t>(6, -1), topk({2, 0, 4}, 3, normal(8), {}, 1).rows);
    EXPECT_TRUE(rank({0, 10, 4}, {}, {}, normal(40)).empty());
}

// Rounded scores: the position of a row in the list is its rank, also for few queries, which take a path of their own; on the
// CPU, from five on, a query gets the same bits among any others.
TEST_F(Ranking, ListsAndRanksAgree) {
    for (int32_t dtype : activation_dtypes())
        for (int64_t N : on_cpu() ? std::vector<int64_t>{50, 100, 2100} : std::vector<int64_t>{100, 700}) {
            Case c{270, N, 64};
            c.dtype = dtype;
            const auto queries = rounded(dtype, normal(c.B * c.D)), table = rounded(dtype, normal(c.N * c.D));
            const int64_t K = 30;
            const Top top = topk(c, K, queries, table);
            const auto all = score_all(c, queries, table);
            for (int64_t i = 0; i < c.B * K; i++) ASSERT_NEAR(all[i / K * N + top.rows[i]], top.scores[i], 1e-4);
            for (int64_t place : {0, 7, 29}) {
                std::vector<int32_t> targets;
                for (int64_t b = 0; b < c.B; b++) {
                    targets.push_back(top.rows[b * K + place]);
                    // Equal neighbours would rank higher than their place.
                    ASSERT_TRUE(place == 0 || top.scores[b * K + place] < top.scores[b * K + place - 1]);
                }
                EXPECT_EQ(std::vector<int32_t>(c.B, static_cast<int32_t>(place + 1)), rank(c, targets, queries, table));
            }
            for (int64_t b : {0, 100, 265})
                for (int64_t few = 1; few <= 5; few++) {
                    Case part{few, N, c.D};
                    part.dtype = dtype;
                    const std::vector<float> some_queries(queries.begin() + b * c.D, queries.begin() + (b + few) * c.D);
                    const Top some = topk(part, K, some_queries, table);
                    for (int64_t i = 0; i < few * K; i++) ASSERT_NEAR(top.scores[b * K + i], some.scores[i], 1e-4);
                    if (on_cpu() && few == 5) {
                        expect_same_bits(some.scores, {top.scores.begin() + b * K, top.scores.begin() + (b + 5) * K}, "five");
                        EXPECT_TRUE(std::equal(some.rows.begin(), some.rows.end(), top.rows.begin() + b * K));
                    }
                    for (int64_t place : {0, 7, 29}) {
                        std::vector<int32_t> targets;
                        for (int64_t i = 0; i < few; i++) targets.push_back(some.rows[i * K + place]);
                        EXPECT_EQ(std::vector<int32_t>(few, static_cast<int32_t>(place + 1)),
                                  rank(part, targets, some_queries, table));
                    }
                }
        }
}

TEST_F(Ranking, ABrokenModelDoesNotRankWell) {
    Case c{2, 30, 4};
    auto queries = normal(c.B * c.D);
    queries[1] = NAN;
    const auto table = normal(c.N * c.D);
    for (int32_t dtype : activation_dtypes()) {
        c.dtype = dtype;
        EXPECT_GE(rank(c, {3, 3}, queries, table)[0], 30);
        EXPECT_EQ(-1, topk(c, 5, queries, table).rows[0]);
    }
}

TEST_F(Ranking, BadIndicesAreRefused) {
    const int64_t B = 2, N = 5, D = 3, K = 2;
    const auto *queries = floats(normal(B * D), {B, D}), *table = floats(normal(N * D), {N, D});
    const auto *scores = output({B, K}, 9), *rows = ints(std::vector<int32_t>(B * K, 9), {B, K}), *ranks = ints({9, 9});
    auto refused = [&](std::vector<int32_t> targets, std::vector<int32_t> offsets, std::vector<int32_t> excluded,
                       const char* what) {
        const auto *o = ints(offsets), *e = ints(excluded);
        if (targets.empty()) {
            targets = {0, 1};
            EXPECT_EQ(HLLM_INVALID_ARGUMENT, status_of(hllm_topk(context, scores, rows, queries, table, o, e))) << what;
            EXPECT_NE(nullptr, std::strstr(hllm_error_message(), what)) << hllm_error_message();
        }
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, status_of(hllm_rank(context, ranks, queries, table, ints(targets), o, e))) << what;
        EXPECT_NE(nullptr, std::strstr(hllm_error_message(), what)) << hllm_error_message();
    };
    refused({}, {0, 1, 2}, {0, 5}, "excluded_rows[1] is 5");
    refused({}, {0, 1, 2}, {-1, 4}, "excluded_rows[0] is -1");
    refused({}, {0, 1, 3}, {0, 1}, "excluded_offsets");
    refused({}, {0, 2, 1}, {0, 1}, "excluded_offsets");
    refused({}, {-1, 1, 2}, {0, 1}, "excluded_offsets");
    refused({0, 5}, {0, 1, 2}, {0, 1}, "targets[1] is 5");
    refused({-1, 0}, {0, 1, 2}, {0, 1}, "targets[0] is -1");
    if (!on_cpu()) return;  // elsewhere the other queries are answered
    EXPECT_EQ(std::vector<float>(B * K, 9), read(scores));
    EXPECT_EQ(std::vector<int32_t>(B * K, 9), read_ints(rows));
    EXPECT_EQ(std::vector<int32_t>(B, 9), read_ints(ranks));
}

TEST_F(Ranking, SameBitsOnAnyTeam) {
    for (const auto& [B, N] : {std::pair<int64_t, int64_t>{on_cpu() ? 300 : 30, 2500}, {3, 5000}}) {
        Case c{B, N, 33};
        exclude(c, 50);
        const auto queries = normal(B * c.D), table = normal(N * c.D);
        std::vector<int32_t> targets(B);
        for (int32_t& target : targets) target = static_cast<int32_t>(uniform(0, N - 1));
        expect_same_on_any_team("scores", [&] { return topk(c, 50, queries, table).scores; });
        expect_same_on_any_team("rows", [&] { return topk(c, 50, queries, table).rows; });
        expect_same_on_any_team("ranks", [&] { return rank(c, targets, queries, table); });
    }
}

}  // namespace
}  // namespace hllm_test
