#include "bench_row.h"

#include "connect.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include <cmpool/model/index_layout.h>

namespace cmpool::cli {
namespace {

constexpr std::uint64_t kThroughputBytes = 64 * KiB;
/// A working set that no processor's cache holds, where nobody names another.
constexpr std::uint64_t kWorkingBytes = 512 * MiB;
constexpr std::uint64_t kBlocksDefaultMax = 65536;
constexpr std::size_t kBufferAlignment = 2 * MiB;

struct Freer {
    void operator()(std::byte* memory) const { std::free(memory); }
};

/// A caller's memory: private, on a page's boundary, written once. Null where there is not enough.
std::unique_ptr<std::byte, Freer> open_buffer(std::uint64_t bytes) {
    const auto rounded = round_up(bytes, kBufferAlignment);
    std::unique_ptr<std::byte, Freer> buffer(
        static_cast<std::byte*>(std::aligned_alloc(kBufferAlignment, rounded)));
    if (buffer) std::memset(buffer.get(), 1, rounded);
    return buffer;
}

/// What of the pool a row uses.
struct Room {
    std::uint64_t capacity_bytes = 0;
    std::uint64_t blocks = 0;
};

/// Blocks of a row's size that the pool has room for, had nobody else any.
std::uint64_t blocks_that_fit(const PoolStats& stats, std::uint64_t size) {
    const std::uint64_t each = model::units_for(size) * model::kUnitBytes;
    const std::uint64_t segment = stats.of("segment_bytes");
    return segment == 0 ? 0 : stats.of("capacity_bytes") / segment * (segment / each);
}

// Three quarters at most: others may have blocks there too.
Result<Room> room_for(client::PoolClient& pool, const BenchCase& row, std::uint64_t wanted) {
    const auto stats = pool_stats(pool);
    if (!stats) return fail(stats.error());
    // In a fuller index some block may find no place, and a miss is no measurement.
    const std::uint64_t fit = blocks_that_fit(*stats, row.size) / 2;
    if (wanted == 0)
        wanted = std::min(kBlocksDefaultMax, std::max<std::uint64_t>(1, kWorkingBytes / row.size));
    const std::uint64_t blocks =
        std::min(std::max<std::uint64_t>(wanted, row.batch), fit) / row.batch * row.batch;
    if (blocks > 0) return Room{stats->of("capacity_bytes"), blocks};
    return fail(Errc::NoCapacity, "expected room for {} blocks of {}, saw room for {} in the pool", row.batch,
                format_bytes(row.size), fit);
}

Result<std::unique_ptr<client::PoolClient>> open_for(const BenchCase& row, const BenchPlan& plan) {
    auto uri = plan.uri;
    uri.transport = row.transport;
    if (row.sealed) uri.seal_key = plan.seal_key;
    return open_pool(uri, bench_namespace(row.op, row.sealed));
}

/// What one thread needs while its contestants run.
struct Seat {
    std::unique_ptr<client::PoolClient> pool;
    std::unique_ptr<std::byte, Freer> memory;
    MutableBytes buffer;  ///< a call's payload
};

Result<std::shared_ptr<Seat>> take_seat(const BenchCase& row, const BenchPlan& plan) {
    auto seat = std::make_shared<Seat>();
    auto pool = open_for(row, plan);
    if (!pool) return fail(pool.error());
    seat->pool = std::move(*pool);
    seat->memory = open_buffer(row.call_bytes());
    if (!seat->memory)
        return fail(Errc::NoCapacity, "no memory for a buffer of {}", format_bytes(row.call_bytes()));
    seat->buffer = {seat->memory.get(), row.call_bytes()};
    return seat;
}

Pace best_limit(const BenchCase& asked, const std::vector<Pace>& paces) {
    std::optional<Pace> best;
    for (const auto& pace : paces) {
        if (pace.side != Side::Limit) continue;
        const bool better = !best || (asked.by_throughput() ? pace.calls_per_s > best->calls_per_s
                                                            : pace.p50_us < best->p50_us);
        if (better) best = pace;
    }
    return best.value_or(Pace{});
}

Row row_of(const BenchCase& asked, const std::vector<Pace>& paces) {
    Row row{.asked = asked, .limit = best_limit(asked, paces)};
    for (const auto& pace : paces) {
        if (pace.side == Side::Ours) row.ours = pace;
        if (pace.side == Side::Redis) row.redis = pace;
    }
    return row;
}

void add_scaling(std::vector<Row>& rows) {
    const Row one = rows.front();
    for (auto& row : rows) {
        if (one.asked.threads != 1 || row.asked.threads == 1) continue;
        row.scaling = Scaling{.keys_per_s = row.ours.calls_per_s / one.ours.calls_per_s,
                              .p99_us = row.ours.p99_us / one.ours.p99_us,
                              .limit_keys_per_s = row.limit.calls_per_s / one.limit.calls_per_s};
    }
}

/// The same row with one of the plan's numbers of threads.
BenchCase with_threads(BenchCase row, std::uint32_t threads) {
    row.threads = threads;
    return row;
}

/// Blocks in the rival for as long as a row lasts.
class RivalFilling {
public:
    explicit RivalFilling(Rival* rival) : rival_(rival) {}
    RivalFilling(const RivalFilling&) = delete;
    RivalFilling& operator=(const RivalFilling&) = delete;
    ~RivalFilling() {
        if (rival_ != nullptr) rival_->clear();
    }

private:
    Rival* rival_;
};

}  // namespace

bool BenchCase::by_throughput() const noexcept {
    return op != BenchOp::Match && call_bytes() >= kThroughputBytes;
}

double Row::gbps(const Pace& pace) const {
    if (asked.op == BenchOp::Match) return 0;  // no payload moves
    return pace.calls_per_s * static_cast<double>(asked.call_bytes()) / 1e9;
}

double Row::ratio(const Pace& other) const {
    return asked.by_throughput() ? ours.calls_per_s / other.calls_per_s : other.p50_us / ours.p50_us;
}

Result<std::vector<Row>> measure(const BenchCase& row, const BenchPlan& plan, Progress& progress) {
    const auto pool = open_for(row, plan);
    if (!pool) return fail(pool.error());
    const auto room = room_for(**pool, row, plan.blocks);
    if (!room) return fail(room.error());
    Rival* rival = row.op == BenchOp::Match || row.sealed ? nullptr : plan.rival;

    const std::uint64_t blocks = row.op == BenchOp::Put ? 0 : room->blocks;
    progress.begin(fmt::format("{}: storing {} blocks", name_of(row), grouped(blocks)));
    const auto filling = Filling::put(**pool, row, blocks, progress);
    if (!filling) return fail(filling.error());
    const auto& keys = (*filling)->keys();
    const RivalFilling in_rival(rival);
    if (rival != nullptr) {
        progress.begin(fmt::format("{}: storing {} blocks in redis", name_of(row), grouped(blocks)));
        if (auto stored = rival->fill(keys, row.size, progress); !stored) return fail(stored.error());
    }
    const auto pages = SharedPages::open(std::filesystem::path((*pool)->status().local_address).parent_path(),
                                         limit_bytes(row, room->blocks, room->capacity_bytes));
    if (!pages) return fail(pages.error());

    const std::uint64_t own_blocks = room->blocks / plan.threads.back();
    const auto recruit = [&]() -> Result<Crew> {
        const auto seat = take_seat(row, plan);
        if (!seat) return fail(seat.error());
        const auto buffer = (*seat)->buffer;
        auto limits = limit_work(row, room->blocks, **pages, buffer);
        if (!limits) return fail(limits.error());
        Crew crew{.keep = *seat, .contestants = {}};
        crew.contestants.push_back(
            {Side::Ours, "pool", pool_work(row, *(*seat)->pool, keys, own_blocks, buffer)});
        for (auto& limit : *limits) crew.contestants.push_back(std::move(limit));
        if (rival == nullptr) return crew;
        auto other = rival->work(row, keys, own_blocks, buffer);
        if (!other) return fail(other.error());
        crew.contestants.push_back(std::move(*other));
        return crew;
    };
    progress.begin(fmt::format("{}: measuring", name_of(row)));
    const auto paces = race(recruit, plan.threads, plan.seconds, progress);
    if (!paces) return fail(paces.error());
    std::vector<Row> rows;
    for (std::size_t index = 0; index < plan.threads.size(); ++index)
        rows.push_back(row_of(with_threads(row, plan.threads[index]), (*paces)[index]));
    add_scaling(rows);
    return rows;
}

Result<std::vector<FullRow>> measure_full(const BenchCase& row, const BenchPlan& plan, Progress& progress) {
    const auto pool = open_for(row, plan);
    if (!pool) return fail(pool.error());
    progress.begin(fmt::format("{}: filling the pool", name_of(row)));
    const auto filling = Filling::fill_up(**pool, row, progress);
    if (!filling) return fail(filling.error());
    const auto before = pool_stats(**pool);
    if (!before) return fail(before.error());
    const std::uint64_t fit = std::max<std::uint64_t>(blocks_that_fit(*before, row.size), row.batch);

    const auto recruit = [&]() -> Result<Crew> {
        const auto seat = take_seat(row, plan);
        if (!seat) return fail(seat.error());
        const auto contestant = [&](Side side, const char* name, PutRoom room) {
            return Contestant{side, name, put_work(row, *(*seat)->pool, room, fit, (*seat)->buffer)};
        };
        Crew crew{.keep = *seat, .contestants = {}};
        crew.contestants.push_back(contestant(Side::Ours, "full", PutRoom::Evicted));
        crew.contestants.push_back(contestant(Side::Limit, "room", PutRoom::Refreshed));
        return crew;
    };
    progress.begin(fmt::format("{}: measuring", name_of(row)));
    const auto paces = race(recruit, plan.threads, plan.seconds, progress);
    if (!paces) return fail(paces.error());
    const auto after = pool_stats(**pool);
    if (!after) return fail(after.error());

    const auto grown = [&](const char* name) { return after->of(name) - before->of(name); };
    std::vector<FullRow> rows;
    for (std::size_t index = 0; index < plan.threads.size(); ++index) {
        rows.push_back({.asked = with_threads(row, plan.threads[index]),
                        .full = (*paces)[index].front(),
                        .room = (*paces)[index].back(),
                        .evicted_blocks = grown("evicted_blocks"),
                        .refused_blocks = grown("put_refused")});
    }
    if (rows.front().refused_blocks > 0)
        return fail(Errc::NoCapacity, "expected a full pool to refuse nothing, saw {} blocks refused",
                    rows.front().refused_blocks);
    if (rows.front().evicted_blocks == 0)
        return fail(Errc::NoCapacity, "expected puts to evict, saw none do: the pool was not full");
    return rows;
}

// ---- memory ----

double MemoryRow::own_per_block() const {
    return static_cast<double>(after_bytes - std::min(start_bytes, after_bytes)) /
           static_cast<double>(blocks);
}

double MemoryRow::index_per_block() const {
    return static_cast<double>(index_bytes) / static_cast<double>(blocks);
}

double MemoryRow::rounding_per_block() const {
    return static_cast<double>(extent_bytes) / static_cast<double>(blocks) -
           static_cast<double>(asked.size + model::kHeaderBytes);
}

double MemoryRow::beyond_payload() const {
    return own_per_block() + static_cast<double>(model::kHeaderBytes);
}

Result<MemoryRow> measure_memory(const BenchCase& row, const BenchPlan& plan, Progress& progress) {
    const auto pool = open_for(row, plan);
    if (!pool) return fail(pool.error());
    const auto before = pool_stats(**pool);
    if (!before) return fail(before.error());
    if (before->of("private_start_bytes") == 0)
        return fail(Errc::Invalid, "expected the pool to tell private_bytes, saw none: is it an older one?");
    // Records of blocks that are gone stay reserved: only a new pool shows what these blocks take.
    if (before->of("put_stored") != 0)
        return fail(Errc::Invalid,
                    "expected a pool that has stored nothing since its start, saw {} puts: start another",
                    grouped(before->of("put_stored")));
    const std::uint64_t fit = blocks_that_fit(*before, row.size);
    const std::uint64_t wanted = plan.blocks != 0 ? plan.blocks : fit;
    if (wanted > fit || fit == 0)
        return fail(Errc::NoCapacity, "expected room for {} blocks of {}, saw room for {} in the pool",
                    grouped(std::max<std::uint64_t>(wanted, 1)), format_bytes(row.size), grouped(fit));

    progress.begin(fmt::format("{}: storing {} blocks", name_of(row), grouped(wanted)));
    const auto filling = Filling::put(**pool, row, wanted, progress);
    if (!filling) return fail(filling.error());
    const auto after = pool_stats(**pool);
    if (!after) return fail(after.error());
    // A few lose their place to others where both buckets of the index are full.
    const std::uint64_t held = after->of("blocks");
    if (held > wanted || held < wanted - wanted / 100)
        return fail(Errc::NoCapacity,
                    "expected the pool to hold {} blocks, saw {}: others use it, or it evicts",
                    grouped(wanted), grouped(held));
    return MemoryRow{.asked = row,
                     .blocks = held,
                     .capacity_bytes = after->of("capacity_bytes"),
                     .start_bytes = after->of("private_start_bytes"),
                     .before_bytes = before->of("private_bytes"),
                     .after_bytes = after->of("private_bytes"),
                     .index_bytes = after->of("index_bytes"),
                     .extent_bytes = after->of("block_bytes")};
}

}  // namespace cmpool::cli
