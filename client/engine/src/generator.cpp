#include <algorithm>
#include <utility>

#include <cmpool/engine/generator.h>

namespace cmpool::engine {

Generator::Generator(const Model& model, PagedKv& kv, PrefixStore* store, const Clock& clock,
                     GeneratorOptions options)
    : config_(model.config()),
      kv_(kv),
      store_(store),
      clock_(clock),
      options_(std::move(options)),
      forward_(model, kv, options_.chunk_tokens) {}

Result<Generation> Generator::generate(std::span<const std::uint32_t> prompt, std::size_t max_tokens) {
    if (auto sound = check(prompt); !sound) return fail(sound.error());
    // The last token is chosen but not computed, so it may stand just outside the context.
    const std::size_t count = std::min(max_tokens, config_.context - prompt.size() + 1);
    BlockTable table(kv_);
    if (auto reserved = table.reserve(prompt.size() + std::max<std::size_t>(count, 1) - 1); !reserved)
        return fail(reserved.error());

    Generation out{.prompt_tokens = prompt.size()};
    const Instant begin = clock_.now();
    const std::size_t hit_blocks = load(prompt, table.blocks());
    const Instant loaded = clock_.now();
    out.reused_tokens = hit_blocks * kv_.shape().tokens;
    prefill(prompt, out.reused_tokens, table.blocks());
    const Instant prefilled = clock_.now();
    const std::uint32_t first = argmax(forward_.logits(0));
    const Instant chosen = clock_.now();
    store(prompt, hit_blocks, table.blocks());
    if (count > 0 && !stops(first)) {
        out.tokens.push_back(first);
        const Instant decoding = clock_.now();
        decode(out.tokens, count, prompt.size(), table.blocks());
        out.decode = clock_.now() - decoding;
    }
    if (store_ != nullptr) store_->flush(options_.store_limit);  // the blocks are released next

    out.load = loaded - begin;
    out.prefill = prefilled - loaded;
    out.first_token = chosen - begin;
    return out;
}

Result<void> Generator::check(std::span<const std::uint32_t> prompt) const {
    if (prompt.empty() || prompt.size() > config_.context) {
        return fail(Errc::Invalid, "expected a prompt of 1 to {} tokens, the model's context, saw {}",
                    config_.context, prompt.size());
    }
    const std::uint32_t largest = std::ranges::max(prompt);
    if (largest >= config_.vocab)
        return fail(Errc::Invalid, "expected token ids below {}, saw {}", config_.vocab, largest);
    return {};
}

std::size_t Generator::load(std::span<const std::uint32_t> prompt, std::span<const std::uint32_t> blocks) {
    const std::size_t block_tokens = kv_.shape().tokens;
    const std::size_t most = (prompt.size() - 1) / block_tokens;
    if (store_ == nullptr || most == 0) return 0;
    std::vector<MutableBytes> pages;
    pages.reserve(most);
    for (const std::uint32_t index : blocks.first(most)) pages.push_back(kv_.block_bytes(index));
    return std::min(most, store_->load(prompt.first(most * block_tokens), pages));
}

void Generator::prefill(std::span<const std::uint32_t> prompt, std::size_t start,
                        std::span<const std::uint32_t> blocks) {
    while (start < prompt.size()) {
        const std::size_t count = std::min(forward_.rows_max(), prompt.size() - start);
        const Slice slice{prompt.subspan(start, count), start, blocks};
        forward_.step({&slice, 1});
        start += count;
    }
}

void Generator::store(std::span<const std::uint32_t> prompt, std::size_t first,
                      std::span<const std::uint32_t> blocks) {
    const std::size_t full = prompt.size() / kv_.shape().tokens;
    if (store_ == nullptr || first == full) return;
    std::vector<Bytes> pages;
    pages.reserve(full);
    for (const std::uint32_t index : blocks.first(full)) pages.push_back(kv_.block_bytes(index));
    store_->store(prompt.first(full * kv_.shape().tokens), first, pages);
}

void Generator::decode(std::vector<std::uint32_t>& tokens, std::size_t count, std::size_t position,
                       std::span<const std::uint32_t> blocks) {
    for (; tokens.size() < count; ++position) {
        const std::uint32_t last = tokens.back();
        const Slice slice{{&last, 1}, position, blocks};
        forward_.step({&slice, 1});
        const std::uint32_t next = argmax(forward_.logits(0));
        if (stops(next)) return;
        tokens.push_back(next);
    }
}

bool Generator::stops(std::uint32_t token) const noexcept {
    return std::ranges::find(options_.stop_tokens, token) != options_.stop_tokens.end();
}

}  // namespace cmpool::engine
