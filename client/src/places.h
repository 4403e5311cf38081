#pragma once

#include <span>
#include <unordered_map>

#include <cmpool/model/digest.h>
#include <cmpool/wire/messages.h>

namespace cmpool::client {

/// Where matched blocks lie, as long as some match knows of them.
///
///   Threads  one
class Places {
public:
    void learn(std::span<const model::Digest> keys, std::span<const wire::Place> places) {
        for (std::size_t at = 0; at < places.size(); ++at) {
            auto& known = known_[keys[at]];
            known.place = places[at];  // the newest word is the best
            ++known.matches;
        }
    }
    void forget(std::span<const model::Digest> keys) noexcept {
        for (const auto& key : keys) {
            const auto found = known_.find(key);
            if (found != known_.end() && --found->second.matches == 0) known_.erase(found);
        }
    }
    [[nodiscard]] const wire::Place* find(const model::Digest& key) const noexcept {
        const auto found = known_.find(key);
        return found == known_.end() ? nullptr : &found->second.place;
    }

private:
    struct Known {
        wire::Place place;
        std::size_t matches = 0;
    };
    std::unordered_map<model::Digest, Known> known_;
};

}  // namespace cmpool::client
