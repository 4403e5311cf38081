#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <cmpool/base/result.h>
#include <cmpool/model/digest.h>

namespace cmpool::model {

/// Blocks of a chain that lie on one node and shard, after block 0, which is placed by itself.
inline constexpr std::uint32_t kGroupBlocksDefault = 64;
/// Longest text field of a namespace.
inline constexpr std::size_t kNameBytesMax = 512;
/// The tenant of callers who name none: open to everybody who reaches the pool.
inline constexpr const char* kDefaultTenant = "default";

/// Everything that decides a block's bytes. Two engines share blocks only when all of it is equal.
///
///   Limits  text up to kNameBytesMax
///   Errors  check() gives Invalid
struct NamespaceSpec {
    std::string tenant = kDefaultTenant;
    std::string model;     ///< such as "meta-llama/Llama-3-8B"
    std::string revision;  ///< of the weights; a new one makes the old blocks unreachable
    std::string dtype;     ///< such as "bf16"
    std::string layout;    ///< axes of a block, such as "layers,kv,tokens,heads,dim"; what else shapes it
    std::string parallel;  ///< tensor and pipeline shape, such as "tp1"
    std::string engine;    ///< name and version of what computes the bytes
    std::uint32_t block_tokens = 0;  ///< 0: opaque keys, no chains
    std::uint32_t group_blocks = kGroupBlocksDefault;
    /// Clients encrypt what they put, with a key that no server is told.
    bool sealed = false;

    [[nodiscard]] Result<void> check() const;
    /// The digest of all fields but the tenant, and of the hash scheme.
    [[nodiscard]] Digest fingerprint() const;
    /// "model=… revision=… dtype=…": all that goes into the fingerprint, for people.
    [[nodiscard]] std::string describe() const;

    friend bool operator==(const NamespaceSpec&, const NamespaceSpec&) = default;
};

/// What somebody showed to prove that a tenant is theirs.
struct Credential {
    std::optional<std::uint32_t> uid;  ///< the kernel's word; none over a network
    std::string tenant_key;            ///< empty: none
    /// Shown by a member of the cluster in a tenant's stead; whoever it lets in may only put.
    std::optional<std::string> cluster_key{};
};

/// Highest priority of a namespace.
inline constexpr std::uint32_t kPriorityMax = 255;
/// Longest life of blocks that a namespace can ask for: ten years.
inline constexpr std::uint32_t kTtlMax = 10 * 365 * 24 * 3600;

/// What a namespace can count on, and how long its blocks count. Room that its owner does not use is lent.
struct Quota {
    /// Of the whole pool's memory, with headers and all copies; 0: all that it has is borrowed.
    std::uint64_t bytes = 0;
    std::uint32_t priority = 0;  ///< higher ones borrow from lower ones, and give back after them
    std::uint32_t ttl_s = 0;     ///< older blocks are misses; 0: no end

    friend bool operator==(const Quota&, const Quota&) = default;
};

/// What of a quota changes; the rest stays as it is. Errors: check() gives Invalid above the limits.
struct QuotaChange {
    std::optional<std::uint64_t> bytes;
    std::optional<std::uint32_t> priority;
    std::optional<std::uint32_t> ttl_s;

    [[nodiscard]] Result<void> check() const;
    void apply(Quota& quota) const noexcept;
};

/// A namespace as the whole cluster knows it.
struct NamespaceRecord {
    std::uint32_t namespace_id = 0;  ///< small, from 1 on, below kNamespaceIdEnd
    std::uint32_t domain_id = 0;     ///< one per tenant: what may share memory
    Secret secret{};
    NamespaceSpec spec;
    std::uint32_t replicas = 1;  ///< equal copies that a put makes, from 1 to kReplicasMax
    Quota quota{};

    friend bool operator==(const NamespaceRecord&, const NamespaceRecord&) = default;
};

/// A block's header has 24 bits for the namespace.
inline constexpr std::uint32_t kNamespaceIdEnd = std::uint32_t{1} << 24;

/// Every field that differs: `dtype: ours "bf16", theirs "f32"; engine: ...`. Empty: none does.
[[nodiscard]] std::string difference(const NamespaceSpec& ours, const NamespaceSpec& theirs);

}  // namespace cmpool::model
