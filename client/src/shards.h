#pragma once

#include "session.h"
#include "windows.h"

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <cmpool/client/environment.h>
#include <cmpool/model/placement.h>

namespace cmpool::client {

/// The shards of one pool, a session to each. The first is where the URI leads and says how many there
/// are; a group's blocks lie on the one that its key names. A shard that cannot be reached has misses,
/// the others go on.
///
///   Threads  one
///   Limits   wire::kShardsMax sessions; none ends before the last call that knows it
class Shards {
public:
    Shards(const Environment& environment, PoolUri uri, NamespaceSpec spec);

    void progress();
    [[nodiscard]] Instant next_deadline() const noexcept;
    /// All that a waiter has to watch; valid until the next call.
    [[nodiscard]] std::span<transport::Lane* const> lanes();

    [[nodiscard]] std::uint32_t count() const noexcept { return count_; }
    [[nodiscard]] Session& operator[](std::uint32_t shard) const noexcept { return *sessions_[shard]; }
    [[nodiscard]] std::weak_ptr<Session> weak(std::uint32_t shard) const { return sessions_[shard]; }
    /// The shard of a block. A block that names no group is a group of its own.
    [[nodiscard]] std::uint32_t of(std::uint64_t group, const Digest& key) const noexcept {
        return count_ == 1 ? 0 : model::shard_of(group != 0 ? group : key.prefix(), count_);
    }

    [[nodiscard]] bool ready() const noexcept;
    /// Some shard may yet become ready, and nobody has waited too long for it.
    [[nodiscard]] bool undecided() const noexcept;
    /// Some shard does not know yet whether it can be read one-sided.
    [[nodiscard]] bool connecting() const noexcept;

    /// Forgets all requests of an asker; afterwards no buffer that it placed or sent is used.
    void forget(Asker& asker);
    /// The same, and gives up for now the shards that owed it an answer.
    void give_up(Asker& asker, const Error& why);
    /// Gives up whatever is not ready.
    void overdue(const Error& why);

    [[nodiscard]] Windows& windows() noexcept { return windows_; }
    [[nodiscard]] const Environment& environment() const noexcept { return environment_; }
    [[nodiscard]] const PoolUri& uri() const noexcept { return sessions_.front()->uri(); }
    [[nodiscard]] const NamespaceSpec& spec() const noexcept { return sessions_.front()->spec(); }
    [[nodiscard]] Status status() const;

private:
    void follow();

    Environment environment_;
    Windows windows_;
    std::vector<std::shared_ptr<Session>> sessions_;
    std::uint32_t count_ = 1;  ///< of sessions that blocks are looked for on
    std::vector<transport::Lane*> lanes_;
};

}  // namespace cmpool::client
