#pragma once

#include "near_keeper.h"
#include "seal.h"
#include "session.h"
#include "view_book.h"
#include "windows.h"

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <cmpool/client/environment.h>
#include <cmpool/model/placement.h>

namespace cmpool::client {

/// Servers that a client keeps sessions to.
inline constexpr std::size_t kNodesMax = model::kMembersMax;

/// The shards of all servers of a pool, numbered through, a session to each. The servers that the URI names
/// tell which others there are; a group's blocks lie on the members that its slot names, there on the
/// shard that its key names. A shard that cannot be reached has misses, the others go on.
///
///   Threads  one
///   Limits   kNodesMax servers with wire::kShardsMax shards each. A number stays with its shard as long as
///            views name the server; later it may be given to another's, after all requests have ended
class Shards {
public:
    Shards(const Environment& environment, PoolUri uri, NamespaceSpec spec);

    void progress();
    [[nodiscard]] Instant next_deadline() const noexcept;
    /// All that a waiter has to watch; valid until the next call.
    [[nodiscard]] std::span<transport::Lane* const> lanes();

    [[nodiscard]] std::uint32_t count() const noexcept {
        return static_cast<std::uint32_t>(sessions_.size());
    }
    [[nodiscard]] Session& operator[](std::uint32_t shard) const noexcept { return *sessions_[shard]; }
    [[nodiscard]] std::weak_ptr<Session> weak(std::uint32_t shard) const { return sessions_[shard]; }
    /// Where to read a block: its best owner that answers. A block that names no group is a group of its
    /// own.
    [[nodiscard]] std::uint32_t of(std::uint64_t group, const Digest& key) noexcept {
        const std::uint64_t whole = group != 0 ? group : key.prefix();
        if (placement_ != nullptr) return best_owner(whole);
        return of_node(nodes_[home_], whole);
    }
    /// Where to put it: all its owners, best first.
    using Owners = std::array<std::uint32_t, model::kReplicasMax>;
    [[nodiscard]] std::span<const std::uint32_t> owners(std::uint64_t group, const Digest& key,
                                                        Owners& into) noexcept;
    /// Another owner to ask, after those that were asked already; then who owned it and drains.
    [[nodiscard]] std::optional<std::uint32_t> next(std::uint64_t group, const Digest& key,
                                                    std::span<const std::uint32_t> asked) noexcept;
    /// There are several members.
    [[nodiscard]] bool cluster() const noexcept { return placement_ != nullptr; }
    [[nodiscard]] std::uint32_t replicas() const noexcept {
        return placement_ != nullptr ? placement_->replicas() : 1;
    }
    [[nodiscard]] std::uint64_t epoch() const noexcept { return book_->view.epoch; }
    [[nodiscard]] const model::View& view() const noexcept { return book_->view; }
    /// Acts on a view that a server has just told.
    void catch_up() {
        if (book_->news) adopt();
    }
    /// The shards of a server that blocks may lie on: of one that the view names, or of the first.
    [[nodiscard]] bool in_use(std::uint32_t shard) const noexcept;
    /// Those of the server that speaks for all: the first one of the URI that answers.
    [[nodiscard]] std::span<const std::uint32_t> home() const noexcept {
        return std::span(nodes_[home_].shards).first(nodes_[home_].count);
    }
    [[nodiscard]] Session& home_session() const noexcept { return *sessions_[nodes_[home_].shards.front()]; }
    /// The shards of a member; none where there is no connection to it.
    [[nodiscard]] std::span<const std::uint32_t> of_member(std::uint64_t node_id) const noexcept;
    /// Null until the namespace has been opened once.
    [[nodiscard]] const model::Digester* digester() const noexcept;

    [[nodiscard]] bool ready() const noexcept;
    [[nodiscard]] bool undecided(std::uint32_t shard) const noexcept {
        const Session& session = *sessions_[shard];
        return !session.ready() && !session.hopeless() && !session.refused();
    }
    /// Some shard may yet become ready, and nobody has waited too long for it.
    [[nodiscard]] bool undecided() const noexcept;
    /// Some shard does not know yet whether it can be read one-sided.
    [[nodiscard]] bool connecting() const noexcept;

    /// Forgets all requests of an asker; afterwards no buffer that it placed or sent is used.
    void forget(Asker& asker);
    /// The same, and gives up for now the shards that owed it an answer.
    void give_up(Asker& asker, const Error& why);
    /// The same, and tells the asker what it has lost.
    void fail_over(Asker& asker, const Error& why);
    /// Gives up whatever is not ready.
    void overdue(const Error& why);

    /// What was held back because the pool asked for that.
    struct HeldBack {
        std::uint64_t stores_delayed = 0;
        std::uint64_t stores_dropped = 0;
        std::uint64_t loads_delayed = 0;
    };
    [[nodiscard]] HeldBack& held_back() noexcept { return held_back_; }

    /// This host has a member whose memory is mapped here, and which keeps copies of other members' blocks
    /// there.
    [[nodiscard]] bool keeps_near() const noexcept { return near_node_.has_value(); }
    /// The shards of it; none where there is no such member.
    [[nodiscard]] std::span<const std::uint32_t> near_shards() const noexcept {
        return near_node_ ? std::span(nodes_[*near_node_].shards).first(nodes_[*near_node_].count)
                          : std::span<const std::uint32_t>{};
    }
    /// Where in its memory a block is that `owner` would be asked for by message, if it was there just now:
    /// it may be read there as on any other owner.
    [[nodiscard]] std::optional<std::uint32_t> near_copy(std::uint32_t owner, std::uint64_t group,
                                                         const Digest& key) const noexcept;
    /// As of(), but there if it is there.
    [[nodiscard]] std::uint32_t nearest(std::uint64_t group, const Digest& key) noexcept {
        const std::uint32_t owner = of(group, key);
        return near_node_ ? near_copy(owner, group, key).value_or(owner) : owner;
    }
    /// Where a copy would have to lie; none for what belongs to this host's member itself.
    [[nodiscard]] std::optional<std::uint32_t> near_shard(std::uint64_t group, const Digest& key) noexcept;
    [[nodiscard]] NearKeeper& near_keeper() noexcept { return near_keeper_; }

    /// Some shard takes another put; whoever waits for that is told by room().
    void has_room() noexcept { room_ = true; }
    /// Whether there has been any since the last call.
    [[nodiscard]] bool room() noexcept { return std::exchange(room_, false); }

    /// Of a sealed namespace; else null.
    [[nodiscard]] Sealer* sealer() const noexcept { return sealer_.get(); }
    /// Blocks of a shard did not open.
    void broken_seals(std::uint32_t shard, std::uint32_t blocks);

    [[nodiscard]] Windows& windows() noexcept { return windows_; }
    [[nodiscard]] const Environment& environment() const noexcept { return environment_; }
    [[nodiscard]] const PoolUri& uri() const noexcept { return uri_; }
    [[nodiscard]] const NamespaceSpec& spec() const noexcept { return sessions_.front()->spec(); }
    [[nodiscard]] Status status() const;

private:
    struct Node {
        std::uint64_t node_id = 0;  ///< 0: it has not said yet
        std::string address;
        std::vector<std::uint32_t> shards;  ///< by its own numbers; more than `count` where it had more once
        std::uint32_t count = 1;
        bool named = true;  ///< by the URI or the view
    };

    [[nodiscard]] std::uint32_t of_node(const Node& node, std::uint64_t group) const noexcept {
        return node.count == 1 ? node.shards.front() : node.shards[model::shard_of(group, node.count)];
    }
    [[nodiscard]] std::uint32_t best_owner(std::uint64_t group) noexcept;
    [[nodiscard]] bool answers(std::uint32_t shard) const noexcept {
        return sessions_[shard]->ready() && !sessions_[shard]->hopeless();
    }
    void add_node(std::string address, std::uint64_t node_id);
    [[nodiscard]] std::uint32_t add_session(const Node& node, std::uint32_t shard);
    [[nodiscard]] Node* node_of(const model::Member& member);
    /// One that the URI names: its address may be another than the one that views know.
    [[nodiscard]] bool is_seed(const Node& node) const noexcept {
        return static_cast<std::size_t>(&node - nodes_.data()) < seeds_;
    }
    void follow(Node& node);
    void find_home();
    void find_near();
    void adopt();
    void seat_drainers(const model::View& view, std::uint32_t replicas);
    [[nodiscard]] bool may_answer(std::uint32_t shard) const noexcept;
    void let_go();

    Environment environment_;
    PoolUri uri_;
    NamespaceSpec spec_;
    Windows windows_;
    HeldBack held_back_;
    bool room_ = false;
    std::unique_ptr<Sealer> sealer_;
    NearKeeper near_keeper_{*this};  ///< its memory outlives the sessions' lanes
    std::optional<std::size_t> near_node_;
    std::shared_ptr<ViewBook> book_ = std::make_shared<ViewBook>();
    std::vector<std::shared_ptr<Session>> sessions_;
    std::vector<Node> nodes_;  ///< those of the URI first
    std::size_t home_ = 0;
    std::size_t seeds_;
    std::unique_ptr<model::Placement> placement_;  ///< where there are several members
    std::vector<std::size_t> node_of_seat_;
    /// Where blocks lay before somebody began to drain; null where nobody does.
    std::unique_ptr<model::Placement> before_;
    std::vector<std::optional<std::size_t>> drainer_of_seat_;
    bool letting_go_ = false;
    std::vector<std::uint32_t> free_;  ///< numbers of servers that are named no more
    std::vector<transport::Lane*> lanes_;
};

}  // namespace cmpool::client
