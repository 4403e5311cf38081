#pragma once

#include <algorithm>
#include <map>
#include <vector>

#include <cmpool/client/context_cache.h>
#include <cmpool/engine/paged_kv.h>

namespace cmpool::testing {

/// A ContextCache in a map: the key of a block is the whole prefix that ends with it. What it loads is
/// there at once; of a hit, `from_the_back` blocks are, as if computing had met loading before them.
class MemoryCache final : public client::ContextCache {
public:
    explicit MemoryCache(engine::PagedKv& kv) : kv_(kv) {}

    client::Prefix match(std::span<const std::uint32_t> tokens) override {
        client::Prefix prefix;
        const std::size_t most = std::min(tokens.size() / kv_.shape().tokens, blocks_max);
        while (prefix.blocks < most && blocks_.contains(key(tokens, prefix.blocks))) ++prefix.blocks;
        prefix.present = prefix.blocks;
        asked_.assign(tokens.begin(), tokens.end());
        return prefix;
    }
    std::unique_ptr<client::Load> load(client::Prefix prefix, std::span<const std::uint32_t> pages,
                                       std::size_t) override {
        auto state = std::make_shared<client::Load::State>(prefix.blocks, clock_);
        const auto range = state->meeting.claim_back(std::min(prefix.blocks, from_the_back));
        for (std::size_t index = range.first; index < range.first + range.count; ++index)
            std::ranges::copy(blocks_.at(key(asked_, index)), kv_.block_bytes(pages[index]).begin());
        state->meeting.landed(range.count);
        state->meeting.stop();
        return std::make_unique<client::Load>(std::move(state), client::Match{});
    }
    client::Store store(std::span<const std::uint32_t> tokens, std::size_t first,
                        std::span<const std::uint32_t> pages) override {
        for (std::size_t index = first; index < pages.size(); ++index) {
            const auto bytes = kv_.block_bytes(pages[index]);
            blocks_[key(tokens, index)].assign(bytes.begin(), bytes.end());
        }
        stored_blocks += pages.size() - first;
        return {};
    }
    void computed(std::size_t tokens, Nanos) override { computed_tokens += tokens; }

    [[nodiscard]] bool same_blocks(const MemoryCache& other) const { return blocks_ == other.blocks_; }

    std::size_t blocks_max = SIZE_MAX;  ///< match() finds at most so many
    std::size_t from_the_back = SIZE_MAX;
    std::size_t stored_blocks = 0;
    std::size_t computed_tokens = 0;

private:
    [[nodiscard]] std::vector<std::uint32_t> key(std::span<const std::uint32_t> tokens,
                                                 std::size_t index) const {
        const auto run = tokens.first((index + 1) * kv_.shape().tokens);
        return {run.begin(), run.end()};
    }

    engine::PagedKv& kv_;
    SystemClock clock_;
    std::vector<std::uint32_t> asked_;
    std::map<std::vector<std::uint32_t>, std::vector<std::byte>> blocks_;
};

}  // namespace cmpool::testing
