#pragma once

#include <algorithm>
#include <map>
#include <vector>

#include <cmpool/engine/prefix_store.h>

namespace cmpool::testing {

/// A PrefixStore in a map: the key of a block is the whole prefix that ends with it.
class MemoryStore final : public engine::PrefixStore {
public:
    explicit MemoryStore(std::size_t block_tokens) : block_tokens_(block_tokens) {}

    std::size_t load(std::span<const std::uint32_t> tokens, std::span<const MutableBytes> pages) override {
        for (std::size_t index = 0; index < std::min(pages.size(), blocks_max); ++index) {
            const auto found = blocks_.find(prefix(tokens, index));
            if (found == blocks_.end()) return index;
            std::ranges::copy(found->second, pages[index].begin());
        }
        return std::min(pages.size(), blocks_max);
    }

    void store(std::span<const std::uint32_t> tokens, std::size_t first,
               std::span<const Bytes> pages) override {
        for (std::size_t index = first; index < pages.size(); ++index)
            blocks_[prefix(tokens, index)].assign(pages[index].begin(), pages[index].end());
        stored_blocks += pages.size() - first;
    }

    void flush(Nanos) override { ++flushes; }

    [[nodiscard]] bool same_blocks(const MemoryStore& other) const { return blocks_ == other.blocks_; }

    std::size_t blocks_max = SIZE_MAX;  ///< load() gives at most so many
    std::size_t stored_blocks = 0;
    std::size_t flushes = 0;

private:
    [[nodiscard]] std::vector<std::uint32_t> prefix(std::span<const std::uint32_t> tokens,
                                                    std::size_t index) const {
        const auto run = tokens.first((index + 1) * block_tokens_);
        return {run.begin(), run.end()};
    }

    std::size_t block_tokens_;
    std::map<std::vector<std::uint32_t>, std::vector<std::byte>> blocks_;
};

}  // namespace cmpool::testing
