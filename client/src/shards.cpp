#include "shards.h"

#include <algorithm>

namespace cmpool::client {

Shards::Shards(const Environment& environment, PoolUri uri, NamespaceSpec spec)
    : environment_(environment), windows_(environment) {
    sessions_.push_back(std::make_shared<Session>(environment, std::move(uri), std::move(spec), 0));
}

void Shards::progress() {
    for (std::uint32_t shard = 0; shard < count_; ++shard) sessions_[shard]->progress();
    windows_.follow_planes();
    if (sessions_.front()->shards() != count_) follow();
}

// A server that was started again may have another number of shards.
void Shards::follow() {
    const std::uint32_t before = count_;
    count_ = sessions_.front()->shards();
    if (sessions_.size() < count_) sessions_.resize(count_);
    for (std::uint32_t shard = before; shard < count_; ++shard) {
        sessions_[shard] = std::make_shared<Session>(environment_, uri(), spec(), shard);
        sessions_[shard]->progress();
    }
    // A call that has yet to ask one of those finds it closed.
    for (std::uint32_t shard = count_; shard < before; ++shard) sessions_[shard]->close();
}

Instant Shards::next_deadline() const noexcept {
    Instant next = Instant::never();
    for (std::uint32_t shard = 0; shard < count_; ++shard)
        next = std::min(next, sessions_[shard]->next_deadline());
    return next;
}

std::span<transport::Lane* const> Shards::lanes() {
    lanes_.clear();
    for (std::uint32_t shard = 0; shard < count_; ++shard) sessions_[shard]->add_lanes(lanes_);
    return lanes_;
}

bool Shards::ready() const noexcept {
    return std::all_of(sessions_.begin(), sessions_.begin() + count_,
                       [](const auto& session) { return session->ready() && !session->hopeless(); });
}

bool Shards::undecided() const noexcept {
    return std::any_of(sessions_.begin(), sessions_.begin() + count_, [](const auto& session) {
        return !session->ready() && !session->hopeless() && !session->refused();
    });
}

bool Shards::connecting() const noexcept {
    return std::any_of(sessions_.begin(), sessions_.begin() + count_,
                       [](const auto& session) { return session->reader().connecting(); });
}

void Shards::forget(Asker& asker) {
    for (const auto& session : sessions_) session->forget(asker);
}

void Shards::give_up(Asker& asker, const Error& why) {
    for (const auto& session : sessions_) {
        if (session->forget(asker)) session->overdue(why);
    }
}

void Shards::overdue(const Error& why) {
    for (std::uint32_t shard = 0; shard < count_; ++shard) {
        Session& session = *sessions_[shard];
        if (!session.ready()) session.overdue(session.trouble().value_or(why));
    }
}

Status Shards::status() const {
    Status status = sessions_.front()->status();
    status.shards = count_;
    for (std::uint32_t shard = 0; shard < count_; ++shard) {
        const Session& session = *sessions_[shard];
        if (session.attachment() != nullptr) ++status.shards_mapped;
        if (session.ready() && !session.hopeless()) continue;
        status.ready = false;
        status.trouble = session.trouble();
    }
    return status;
}

}  // namespace cmpool::client
