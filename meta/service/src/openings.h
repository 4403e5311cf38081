#pragma once

#include <list>
#include <string>
#include <unordered_map>

#include <cmpool/base/result.h>
#include <cmpool/meta/office.h>

namespace cmpool::meta {

/// Openings that meta has allowed, so that a node can answer them while meta is away. What was used last is
/// kept, up to kRememberedMax.
class Openings {
public:
    /// All that meta judges by.
    [[nodiscard]] static std::string key_of(const model::NamespaceSpec& spec,
                                            const model::Credential& credential);
    /// Also as another member would open it.
    void remember(const model::NamespaceSpec& spec, const model::Credential& credential,
                  const model::NamespaceRecord& record);
    /// `why` where nothing is remembered.
    [[nodiscard]] Result<model::NamespaceRecord> recall(const std::string& key, const Error& why);
    /// What is told without meta later is what meta would tell.
    void take(const wire::NamespaceInfo& info);

private:
    struct Opening {
        std::string key;
        model::NamespaceRecord record;
    };
    using Memory = std::list<Opening>;

    void remember(const std::string& key, const model::NamespaceRecord& record);

    Memory memory_;  ///< what was used last comes first
    std::unordered_map<std::string, Memory::iterator> by_key_;
};

/// Whether meta has said nothing, rather than no.
[[nodiscard]] inline bool is_silence(Errc code) noexcept {
    return code == Errc::PeerDown || code == Errc::Deadline || code == Errc::Again;
}

}  // namespace cmpool::meta
