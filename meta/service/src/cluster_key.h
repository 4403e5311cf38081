#pragma once

#include <optional>
#include <string>

#include <cmpool/base/result.h>
#include <cmpool/meta/office.h>
#include <cmpool/model/digest.h>

#include <sodium.h>

namespace cmpool::meta {

/// Errors: Denied, which says what is expected and not what it is.
[[nodiscard]] inline Result<void> check_cluster_key(const std::string& ours, const std::string& shown) {
    if (ours.empty()) return {};
    // Digests, so that the time that this takes says nothing about either.
    const auto one = model::plain_digest(model::DigestKind::Credential, as_bytes(ours));
    const auto other = model::plain_digest(model::DigestKind::Credential, as_bytes(shown));
    if (sodium_memcmp(one.bytes.data(), other.bytes.data(), one.bytes.size()) == 0) return {};
    return fail(Errc::Denied, "expected the cluster's key, saw {}: give each node the same --cluster-key",
                shown.empty() ? "none" : "another one");
}

[[nodiscard]] inline bool is_admin(const OfficeConfig& config, std::optional<std::uint32_t> uid) {
    return uid && (*uid == 0 || uid == config.admin_uid);
}

}  // namespace cmpool::meta
