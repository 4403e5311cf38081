#pragma once

#include "extent_map.h"

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include <cmpool/base/bytes.h>
#include <cmpool/model/index_layout.h>

namespace cmpool::pool {

/// The one writer of a domain's index. Readers see every change as present or absent, never as
/// something else.
///
///   Layout  2^bucket_bits buckets and one guard bucket, in a segment that peers may read
class IndexWriter {
public:
    IndexWriter(MutableBytes table, unsigned bucket_bits, std::uint64_t incarnation);

    [[nodiscard]] static std::uint64_t table_bytes(unsigned bucket_bits) noexcept;

    /// Loads what find() will look at, ahead of need.
    void prefetch(std::uint64_t prefix) const noexcept;
    /// The extent that the index shows for this prefix; the caller compares the digest.
    [[nodiscard]] ExtentId find(std::uint64_t prefix) const noexcept;
    /// The extent behind a slot, whatever a client says about it; kNoExtent for an empty or absent one.
    [[nodiscard]] ExtentId at(std::uint64_t slot_index) const noexcept;

    /// False when both buckets of the prefix are full.
    [[nodiscard]] bool insert(std::uint64_t prefix, const model::Location& at, ExtentId extent) noexcept;
    /// Takes the entry out; it must be there. The caller fences before it reuses the memory. A prefix
    /// that is not the entry's own only costs a search.
    void erase(std::uint64_t prefix, ExtentId extent) noexcept;
    /// Which slot shows the entry, and its words, as readers see them; none where it shows none.
    struct Shown {
        std::uint64_t slot_index;
        model::Slot slot;
    };
    [[nodiscard]] std::optional<Shown> shown(std::uint64_t prefix, ExtentId extent) const noexcept;
    /// Whether readers still find the entry, and where it is: false once its words have changed by
    /// themselves.
    [[nodiscard]] bool shows(std::uint64_t prefix, const model::Location& at, ExtentId extent) const noexcept;
    /// Who fills the two buckets of a prefix.
    [[nodiscard]] std::vector<ExtentId> neighbours(std::uint64_t prefix) const;

    [[nodiscard]] std::uint64_t entries() const noexcept { return entries_; }

private:
    static constexpr std::uint64_t kNoSlot = UINT64_MAX;
    [[nodiscard]] std::uint64_t slot_of(std::uint64_t prefix, ExtentId extent) const noexcept;
    [[nodiscard]] std::uint64_t free_slot(std::uint64_t bucket, unsigned& used) const noexcept;
    [[nodiscard]] model::Slot& slot(std::uint64_t index) const noexcept;

    std::span<model::Bucket> buckets_;
    unsigned bucket_bits_;
    std::vector<ExtentId> owners_;  ///< beside the table: which extent each slot shows
    std::vector<bool> spilled_;     ///< beside the table: the slot's entry is at home one bucket before
    std::uint64_t incarnation_;
    std::uint64_t entries_ = 0;
};

}  // namespace cmpool::pool
