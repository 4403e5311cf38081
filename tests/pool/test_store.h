#pragma once

#include "domain_store.h"
#include "fakes.h"
#include "memory.h"

#include <algorithm>
#include <memory>

#include <cmpool/base/units.h>
#include <cmpool/model/placement.h>

#include <doctest/doctest.h>

// One domain's store over heap memory, with a clock, processes and quotas that tests turn.
namespace cmpool::testing {

using namespace cmpool::pool;
using wire::Outcome;

inline constexpr std::uint32_t kSpace = 3;

/// A block of the test's world, named by a number.
struct Node {
    std::uint64_t number = 0;
    std::uint64_t parent = 0;  ///< 0: none
    std::uint32_t position = 0;
    std::uint32_t length = 192;
};

struct Store {
    explicit Store(std::uint64_t segment_bytes = 64 * KiB, std::size_t segments = 1, unsigned bucket_bits = 8,
                   std::uint32_t its_group_blocks = 8)
        : group_blocks(its_group_blocks),
          bytes_each(segment_bytes),
          store(std::make_unique<HeapSegment>(IndexWriter::table_bytes(bucket_bits)), bucket_bits,
                segment_bytes, 0x77, clock, quotas, 1) {
        for (std::size_t at = 0; at < segments; ++at) add_segment();
    }
    void add_segment() { store.add_segment(std::make_unique<HeapSegment>(bytes_each)); }

    [[nodiscard]] BlockSpec spec(const Node& node) const {
        return {.namespace_id = kSpace,
                .digest = digest_of(node.number),
                .parent = node.parent == 0 ? model::kNoParent : digest_of(node.parent),
                .position = node.position,
                .length = node.length,
                .begins_group =
                    node.parent == 0 || model::group_start(node.position, group_blocks) == node.position};
    }
    DomainStore::Begun begin(const BlockSpec& block) {
        auto begun = store.begin(block);
        if (begun.refused == Outcome::Refused && make_room(block.length)) begun = store.begin(block);
        return begun;
    }
    bool make_room(std::uint64_t length) {
        return store.make_room(length, {store.space(kSpace), model::units_for(length) * model::kUnitBytes});
    }
    /// For somebody of another domain, within its quota.
    std::unique_ptr<transport::Segment> give_up_segment() {
        const Space stranger{.domain_id = 2};
        return store.give_up_segment({stranger, 0});
    }
    Outcome put(const BlockSpec& block, Bytes bytes) {
        const auto begun = begin(block);
        if (begun.refused) return *begun.refused;
        REQUIRE(begun.payload.size() == bytes.size());
        std::ranges::copy(bytes, begun.payload.begin());
        return store.commit(begun.extent, model::checksum(bytes));
    }
    Outcome put(const Node& node) { return put(spec(node), bytes_of(node.number, node.length)); }
    [[nodiscard]] ExtentId find(std::uint64_t number) const { return store.find(digest_of(number)); }
    [[nodiscard]] bool has(std::uint64_t number) const { return find(number) != kNoExtent; }
    [[nodiscard]] bool holds_exactly(const Node& node) const {
        const ExtentId id = find(node.number);
        return id != kNoExtent && same(store.view(id).payload, bytes_of(node.number, node.length)) &&
               store.view(id).checksum == model::checksum(store.view(id).payload);
    }
    /// The header and payload of a live block, to be damaged.
    [[nodiscard]] MutableBytes raw(ExtentId id) {
        const Bytes payload = store.view(id).payload;
        return {const_cast<std::byte*>(payload.data()) - model::kHeaderBytes,
                model::kHeaderBytes + payload.size()};
    }
    [[nodiscard]] model::ControlPage& page() {
        auto memory = std::make_unique<HeapSegment>(sizeof(model::ControlPage));
        auto& control = *reinterpret_cast<model::ControlPage*>(memory->bytes().data());
        store.pins().add(std::move(memory), processes.handle());
        return control;
    }
    [[nodiscard]] model::Location location(ExtentId id) const {
        const Extent& extent = store.extent(id);
        return {extent.offset_units, extent.units, extent.generation};
    }
    void check() const { REQUIRE(store.check_invariants() == ""); }

    TestClock clock;
    FakeProcesses processes;
    Quotas quotas;
    std::uint32_t group_blocks;
    std::uint64_t bytes_each;
    DomainStore store;
};

}  // namespace cmpool::testing
