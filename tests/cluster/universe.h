#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <cmpool/base/bytes.h>
#include <cmpool/base/clock.h>
#include <cmpool/base/rng.h>
#include <cmpool/meta/controller.h>
#include <cmpool/model/digest.h>
#include <cmpool/model/namespace.h>

namespace cmpool::testing {

inline constexpr std::size_t kNoBlock = SIZE_MAX;

/// A block that somebody may put: its bytes follow from its namespace and its place in it alone.
struct KnownBlock {
    model::Digest key;
    std::size_t parent = kNoBlock;  ///< in its space
    model::Digest parent_key;
    std::uint32_t position = 0;
    std::uint64_t group = 0;
    std::vector<std::byte> bytes;
    bool ever_put = false;  ///< some put of it has begun
    bool ever_removed = false;
    Instant known_since = Instant::never();  ///< a put of it has ended well
};

/// A namespace, and all blocks that anybody will ever name in it: chains that share prefixes, and
/// blocks under opaque keys.
struct Space {
    model::NamespaceSpec spec;
    std::string tenant_key;
    std::vector<KnownBlock> blocks;
    std::vector<std::vector<std::size_t>> chains;    ///< root first
    std::vector<std::vector<std::uint32_t>> tokens;  ///< of each chain
    std::vector<std::size_t> opaque;

    [[nodiscard]] std::vector<model::Digest> keys(std::span<const std::size_t> indices) const;
};

struct UniverseOptions {
    std::size_t chains = 8;
    std::size_t chain_blocks_max = 8;
    std::size_t opaque = 12;
    std::uint64_t block_bytes_max = 200 * 1024;
    bool sealed = false;  ///< clients encrypt them
};

/// Opens a namespace at the controller and draws its blocks.
[[nodiscard]] Space draw_space(meta::Controller& controller, Rng& rng, std::string tenant,
                               std::string revision, const UniverseOptions& options);

/// The bytes that belong to a number; fast, and different everywhere for another number.
void derive_bytes(std::uint64_t number, MutableBytes out) noexcept;

}  // namespace cmpool::testing
