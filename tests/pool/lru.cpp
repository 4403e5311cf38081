// The policy against a list, and against counts that others computed from a recorded trace.
#include <algorithm>
#include <fstream>
#include <list>
#include <optional>
#include <unordered_map>

#include <cmpool/base/rng.h>
#include <cmpool/pool/eviction.h>
#include <cmpool/testing/shared_data.h>

#include <nlohmann/json.hpp>

using namespace cmpool;
using namespace cmpool::pool;

namespace {

using Order = std::list<GroupId>;  // coldest first

Order order_of(const Lru& lru, std::size_t count_max) {
    Order order;
    for (GroupId group = lru.coldest(); group != kNoGroup && order.size() <= count_max;
         group = lru.warmer(group))
        order.push_back(group);
    return order;
}

}  // namespace

TEST_CASE("random operations keep the order of a plain list") {
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
        CAPTURE(seed);
        Rng rng(seed);
        Lru lru;
        Order naive;
        std::vector<GroupId> present, absent;
        for (GroupId group = 0; group < 40; ++group) absent.push_back(group);
        for (int step = 0; step < 1000; ++step) {
            CAPTURE(step);
            const auto dice = rng.below(3);
            if (present.empty() || (dice == 0 && !absent.empty())) {
                std::swap(absent[rng.below(absent.size())], absent.back());
                const GroupId group = absent.back();
                absent.pop_back();
                const GroupId parent =
                    present.empty() || rng.chance(0.3) ? kNoGroup : present[rng.below(present.size())];
                lru.insert(group, parent);
                // Next to the parent, on its colder side; without one the warmest.
                naive.insert(std::find(naive.begin(), naive.end(), parent), group);
                present.push_back(group);
            } else {
                std::swap(present[rng.below(present.size())], present.back());
                const GroupId group = present.back();
                naive.remove(group);
                if (dice == 1) {
                    lru.touch(group);
                    naive.push_back(group);
                } else {
                    lru.erase(group);
                    present.pop_back();
                    absent.push_back(group);
                }
            }
            REQUIRE(order_of(lru, 40) == naive);
        }
    }
}

// Touched from its last group to its first, a chain keeps every parent warmer than its children; and
// who evicts from the cold end then never takes a parent before its child.
TEST_CASE("children never outlive their parents when chains are touched from last to first") {
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
        CAPTURE(seed);
        Rng rng(seed);
        Lru lru;
        std::unordered_map<GroupId, GroupId> parents;  // of what is present
        std::vector<GroupId> present;
        GroupId next = 0;
        for (int step = 0; step < 1000; ++step) {
            CAPTURE(step);
            const auto dice = rng.below(3);
            if (present.empty() || dice == 0) {
                const bool root = present.empty() || rng.chance(0.2);
                const GroupId parent = root ? kNoGroup : present[rng.below(present.size())];
                lru.insert(next, parent);
                parents[next] = parent;
                present.push_back(next++);
            } else if (dice == 1) {
                for (GroupId group = present[rng.below(present.size())]; group != kNoGroup;
                     group = parents[group])
                    lru.touch(group);
            } else {
                const GroupId gone = lru.coldest();
                for (const auto& [child, parent] : parents) REQUIRE(parent != gone);
                lru.erase(gone);
                parents.erase(gone);
                std::erase(present, gone);
            }
        }
    }
}

// ---- the recorded trace ----

namespace {

using Request = std::vector<std::uint32_t>;

std::optional<std::vector<Request>> load_trace() {
    const auto path = testing::shared_data("traces/mooncake/conversation_head1000.jsonl");
    if (!path) return std::nullopt;
    std::vector<Request> requests;
    std::ifstream file(*path);
    for (std::string line; std::getline(file, line);)
        requests.push_back(nlohmann::json::parse(line)["hash_ids"].get<Request>());
    return requests;
}

struct Counted {
    std::uint64_t hits = 0;
    std::uint64_t evictions = 0;
    std::uint64_t matched_evicted = 0;  ///< of evictions: blocks that this very request had hit
};

/// A cache of blocks, each a group of its own.
class Cache {
public:
    explicit Cache(std::size_t capacity) : capacity_(capacity) {}

    [[nodiscard]] bool has(std::uint32_t block) const { return block < present_.size() && present_[block]; }
    [[nodiscard]] bool full() const { return used_ == capacity_; }
    [[nodiscard]] GroupId coldest() const { return lru_.coldest(); }
    [[nodiscard]] std::size_t leading(const Request& request) const {
        std::size_t count = 0;
        while (count < request.size() && has(request[count])) ++count;
        return count;
    }
    void touch(std::uint32_t block) { lru_.touch(block); }
    void insert(std::uint32_t block, GroupId parent) {
        if (present_.size() <= block) present_.resize(block + 1);
        present_[block] = true;
        ++used_;
        lru_.insert(block, parent);
    }
    void evict() {
        const GroupId gone = lru_.coldest();
        lru_.erase(gone);
        present_[gone] = false;
        --used_;
        ++counted.evictions;
    }
    Counted counted;

private:
    std::size_t capacity_;
    std::size_t used_ = 0;
    std::vector<bool> present_;
    Lru lru_;
};

// As the reference counts were made: from last to first, what is there becomes the most recent and what
// is not takes the place of the least recent, even if that is a block of this request.
Counted plain_lru(const std::vector<Request>& requests, std::size_t capacity) {
    Cache cache(capacity);
    for (const Request& request : requests) {
        const std::size_t found = cache.leading(request);
        const auto matched_end = request.begin() + static_cast<std::ptrdiff_t>(found);
        cache.counted.hits += found;
        for (auto block = request.rbegin(); block != request.rend(); ++block) {
            if (cache.has(*block)) {
                cache.touch(*block);
                continue;
            }
            if (cache.full()) {
                if (std::find(request.begin(), matched_end, cache.coldest()) != matched_end)
                    ++cache.counted.matched_evicted;
                cache.evict();
            }
            cache.insert(*block, kNoGroup);
        }
    }
    return cache.counted;
}

// As the server does it: a match touches what it found, then the rest is put from first to last, each
// beside its parent. A block whose parent had to make way for it is refused, and all behind it.
Counted match_then_put(const std::vector<Request>& requests, std::size_t capacity) {
    Cache cache(capacity);
    for (const Request& request : requests) {
        const std::size_t found = cache.leading(request);
        cache.counted.hits += found;
        for (std::size_t at = found; at-- > 0;) cache.touch(request[at]);
        for (std::size_t at = found; at < request.size(); ++at) {
            REQUIRE_FALSE(cache.has(request[at]));  // what is present is closed under prefixes
            if (cache.full()) cache.evict();
            if (at > 0 && !cache.has(request[at - 1])) break;
            cache.insert(request[at], at == 0 ? kNoGroup : request[at - 1]);
        }
    }
    return cache.counted;
}

struct Expected {
    std::size_t capacity;
    Counted counted;
};
constexpr Expected kHead1000[] = {{300, {999, 26'006}},
                                  {1000, {1'038, 25'267}},
                                  {3000, {1'640, 22'673}},
                                  {10'000, {4'723, 12'582}},
                                  {30'000, {5'791, 0}}};

}  // namespace

TEST_CASE("a recorded trace gives the hits and evictions that other LRU programs counted") {
    const auto requests = load_trace();
    if (!requests) return;
    for (const auto& [capacity, expected] : kHead1000) {
        CAPTURE(capacity);
        const Counted seen = plain_lru(*requests, capacity);
        CHECK(seen.hits == expected.hits);
        CHECK(seen.evictions == expected.evictions);
    }
}

// The server touches what a request has hit before it puts the rest; the reference goes from last to
// first and may evict a block that the request has hit and not yet touched, only to insert it again.
// That is the whole difference: 8 evictions at 3000 blocks, none elsewhere.
TEST_CASE("matching, then putting each block beside its parent evicts no block that was just hit") {
    const auto requests = load_trace();
    if (!requests) return;
    for (const auto& [capacity, expected] : kHead1000) {
        CAPTURE(capacity);
        const Counted seen = match_then_put(*requests, capacity);
        CHECK(seen.hits == expected.hits);
        const std::uint64_t needless = plain_lru(*requests, capacity).matched_evicted;
        CHECK(needless == (capacity == 3000 ? 8 : 0));
        CHECK(seen.evictions == expected.evictions - needless);
    }
}
