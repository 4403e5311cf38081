#include "universe.h"

#include <algorithm>
#include <cstring>
#include <map>

#include <cmpool/base/units.h>
#include <cmpool/model/index_layout.h>
#include <cmpool/model/placement.h>

#include <doctest/doctest.h>

namespace cmpool::testing {

namespace {

constexpr std::uint32_t kBlockTokens = 4;
constexpr std::uint32_t kGroupBlocks = 3;

std::uint64_t draw_length(Rng& rng, std::uint64_t most) {
    const std::uint64_t kind = rng.below(100);
    const std::uint64_t top = kind < 50 ? 4 * KiB : kind < 80 ? 32 * KiB : kind < 97 ? 200 * KiB : 420 * KiB;
    return 64 + rng.below(std::min(top, most) - 63);
}

}  // namespace

void derive_bytes(std::uint64_t number, MutableBytes out) noexcept {
    std::uint64_t word = model::mix64(number + 1);
    std::size_t at = 0;
    for (; at + sizeof word <= out.size(); at += sizeof word) {
        word = word * 0x9e3779b97f4a7c15 + 0x2545f4914f6cdd1d;
        std::memcpy(out.data() + at, &word, sizeof word);
    }
    for (; at < out.size(); ++at) out[at] = static_cast<std::byte>(word >> (at % 8 * 8));
}

std::vector<model::Digest> Space::keys(std::span<const std::size_t> indices) const {
    std::vector<model::Digest> keys;
    keys.reserve(indices.size());
    for (const std::size_t index : indices) keys.push_back(blocks[index].key);
    return keys;
}

Space draw_space(meta::Controller& controller, Rng& rng, std::string tenant, std::string revision,
                 const UniverseOptions& options) {
    Space space;
    space.tenant_key = "key of " + tenant;
    space.spec = {.tenant = std::move(tenant),
                  .model = "m",
                  .revision = std::move(revision),
                  .dtype = "bf16",
                  .layout = "bytes",
                  .parallel = "tp1",
                  .engine = "simulated 1",
                  .block_tokens = kBlockTokens,
                  .group_blocks = kGroupBlocks,
                  .sealed = options.sealed};
    const auto record = controller.open_namespace(space.spec, space.spec.fingerprint(),
                                                  {.uid = {}, .tenant_key = space.tenant_key});
    REQUIRE(record);
    const model::Digester digester(record->secret);

    const auto add = [&](const model::Digest& key) -> KnownBlock& {
        auto& block = space.blocks.emplace_back();
        block.key = key;
        block.bytes.resize(draw_length(rng, options.block_bytes_max));
        derive_bytes(model::mix64(key.prefix()), block.bytes);
        return block;
    };
    std::map<std::uint64_t, std::size_t> known;
    for (std::size_t number = 0; number < options.chains; ++number) {
        // A prefix of an earlier chain, and tokens of its own.
        std::vector<std::uint32_t> tokens;
        if (number > 0) {
            const auto& earlier = space.tokens[rng.below(number)];
            tokens.assign(earlier.begin(),
                          earlier.begin() + static_cast<std::ptrdiff_t>(
                                                rng.below(earlier.size() / kBlockTokens + 1) * kBlockTokens));
        }
        const std::size_t blocks = 1 + rng.below(options.chain_blocks_max);
        while (tokens.size() < blocks * kBlockTokens)
            tokens.push_back(static_cast<std::uint32_t>(rng.below(1000)));
        const auto keys = digester.chain(tokens, kBlockTokens);
        std::vector<std::size_t> chain;
        for (std::size_t position = 0; position < keys.size(); ++position) {
            const auto [found, fresh] = known.try_emplace(keys[position].prefix(), space.blocks.size());
            if (fresh) {
                KnownBlock& block = add(keys[position]);
                block.position = static_cast<std::uint32_t>(position);
                block.parent = chain.empty() ? kNoBlock : chain.back();
                block.parent_key = chain.empty() ? model::kNoParent : keys[position - 1];
                block.group = model::group_key(keys, block.position, kGroupBlocks);
            }
            chain.push_back(found->second);
        }
        space.chains.push_back(std::move(chain));
        space.tokens.push_back(std::move(tokens));
    }
    for (std::size_t number = 0; number < options.opaque; ++number) {
        const std::string name = "block " + std::to_string(number);
        space.opaque.push_back(space.blocks.size());
        add(digester.opaque(as_bytes(name)));
    }
    return space;
}

}  // namespace cmpool::testing
