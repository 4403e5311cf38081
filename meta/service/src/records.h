#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <cmpool/base/result.h>
#include <cmpool/model/namespace.h>
#include <cmpool/model/view.h>

// What lies under which key of the store. Decoding gives Corrupt for bytes that no encoder wrote.
namespace cmpool::meta {

inline constexpr std::string_view kNodeKey = "node";
inline constexpr std::string_view kCountersKey = "counters";
inline constexpr std::string_view kViewKey = "view";
inline constexpr std::string_view kNamespacePrefix = "namespace/";
/// Who is there, by its id in hex: the number of its run. Only in a store that several nodes share.
inline constexpr std::string_view kAlivePrefix = "alive/";

/// How a tenant is proven.
enum class Binding : std::uint8_t { Everybody = 1, Key = 2, Uid = 3 };

struct TenantRecord {
    std::uint32_t domain_id = 0;
    Binding binding = Binding::Everybody;
    std::uint32_t uid = 0;
    model::Digest key_digest;  ///< the key itself is nowhere
};

/// How many were ever made: also the last id given out.
struct CounterRecord {
    std::uint32_t namespaces = 0;
    std::uint32_t tenants = 0;
};

[[nodiscard]] std::string tenant_key(std::string_view tenant);
/// What the keys of a tenant's namespaces begin with.
[[nodiscard]] std::string tenant_prefix(std::string_view tenant);
[[nodiscard]] std::string namespace_key(const model::NamespaceSpec& spec);

[[nodiscard]] std::string alive_key(std::uint64_t node_id);
/// Zero, which is no node, for another key.
[[nodiscard]] std::uint64_t node_of_alive_key(std::string_view key) noexcept;

[[nodiscard]] std::string encode_node(std::uint64_t node_id);
[[nodiscard]] Result<std::uint64_t> decode_node(std::string_view bytes);
[[nodiscard]] std::string encode_counters(const CounterRecord& record);
[[nodiscard]] Result<CounterRecord> decode_counters(std::string_view bytes);
[[nodiscard]] std::string encode_tenant(const TenantRecord& record);
[[nodiscard]] Result<TenantRecord> decode_tenant(std::string_view bytes);
[[nodiscard]] std::string encode_namespace(const model::NamespaceRecord& record);
[[nodiscard]] Result<model::NamespaceRecord> decode_namespace(std::string_view bytes);
[[nodiscard]] std::string encode_view(const model::View& view);
[[nodiscard]] Result<model::View> decode_view(std::string_view bytes);

}  // namespace cmpool::meta
