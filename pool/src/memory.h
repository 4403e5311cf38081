#pragma once

#include "domain_store.h"

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include <cmpool/base/clock.h>
#include <cmpool/base/result.h>
#include <cmpool/pool/server.h>
#include <cmpool/transport/fabric.h>

namespace cmpool::pool {

/// All memory of a server, and who has it: segments lie ready until a domain needs one, and move, empty and
/// new, from a domain that borrows to one whose quotas they belong to, or which borrows less (quotas.h).
///
///   Always  segments ready + segments of the domains + those that the host lacks == capacity / segment size
class Memory {
public:
    [[nodiscard]] static Result<std::unique_ptr<Memory>> create(const ServerConfig& config,
                                                                const Clock& clock, transport::Fabric& fabric,
                                                                std::uint64_t incarnation);

    /// The domain's store; made at its first use. Errors: NoCapacity.
    [[nodiscard]] Result<DomainStore*> domain(std::uint32_t domain_id);
    /// Begins a block in a domain and makes the room that it needs.
    [[nodiscard]] DomainStore::Begun begin(DomainStore& store, const BlockSpec& spec);

    [[nodiscard]] Quotas& quotas() noexcept { return quotas_; }
    [[nodiscard]] const Quotas& quotas() const noexcept { return quotas_; }
    /// Somebody who stays within its quota has found no room lately: nobody's lease may keep what is lent.
    [[nodiscard]] bool lent_is_wanted() const noexcept { return clock_.now() < lent_wanted_until_; }
    [[nodiscard]] std::uint64_t owners_refused() const noexcept { return owners_refused_; }

    [[nodiscard]] transport::Fabric& fabric() noexcept { return fabric_; }
    [[nodiscard]] std::uint64_t segment_bytes() const noexcept { return segment_bytes_; }
    [[nodiscard]] std::uint64_t capacity_bytes() const noexcept {
        return (segments_total_ - segments_missing_) * segment_bytes_;
    }
    [[nodiscard]] std::uint64_t block_bytes_max() const noexcept;
    [[nodiscard]] std::size_t segments_ready() const noexcept { return ready_.size(); }
    [[nodiscard]] const std::map<std::uint32_t, std::unique_ptr<DomainStore>>& domains() const {
        return domains_;
    }
    [[nodiscard]] std::string check_invariants() const;

private:
    Memory(const Clock& clock, transport::Fabric& fabric, transport::Fabric* one_sided,
           std::uint64_t incarnation)
        : clock_(clock), fabric_(fabric), one_sided_(one_sided), incarnation_(incarnation) {}
    /// Memory that clients may read, over whatever fabrics there are. Errors: NoCapacity.
    [[nodiscard]] Result<std::unique_ptr<transport::Segment>> allocate(std::uint64_t bytes, bool prefault,
                                                                       const char* name);
    [[nodiscard]] DomainStore::Begun begin_near(DomainStore& store, const BlockSpec& spec);
    [[nodiscard]] bool make_missing();
    [[nodiscard]] bool grow(DomainStore& store, const Claim& claim);
    [[nodiscard]] std::unique_ptr<transport::Segment> take_segment(const Claim& claim);
    [[nodiscard]] bool find_room(DomainStore& store, const Claim& claim, std::uint64_t length);

    const Clock& clock_;
    transport::Fabric& fabric_;
    transport::Fabric* one_sided_;
    std::uint64_t incarnation_;
    std::uint64_t segment_bytes_ = 0;
    std::size_t segments_total_ = 0;
    std::size_t segments_missing_ = 0;  ///< of them, that the host could not make anew
    Instant try_missing_at_{};
    unsigned bucket_bits_ = 0;
    std::vector<std::unique_ptr<transport::Segment>> ready_;
    Quotas quotas_;
    std::map<std::uint32_t, std::unique_ptr<DomainStore>> domains_;
    std::map<std::uint32_t, Instant> gave_none_until_;  ///< domains that could not give up a segment
    Instant lent_wanted_until_{};
    std::uint64_t owners_refused_ = 0;
};

}  // namespace cmpool::pool
