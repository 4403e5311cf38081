#include <algorithm>

#include <cmpool/base/assert.h>
#include <cmpool/base/units.h>
#include <cmpool/client/kv_pages.h>
#include <cmpool/model/digest.h>

namespace cmpool::client {

ByteRange KvPages::layer_range(std::uint32_t first, std::uint32_t count) const noexcept {
    return {static_cast<std::uint32_t>(first * layer_bytes()),
            static_cast<std::uint32_t>(count * layer_bytes())};
}

ByteRange KvPages::stripe(std::uint32_t index, std::uint32_t count) const noexcept {
    constexpr std::uint64_t kGrain = 64;
    const std::uint64_t grains = page_bytes() / kGrain;
    const std::uint64_t begin = grains * index / count * kGrain;
    const std::uint64_t end = index + 1 == count ? page_bytes() : grains * (index + 1) / count * kGrain;
    return {static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(end - begin)};
}

void KvPages::append_pieces(std::size_t index, ByteRange range, std::vector<MutableBytes>& out) const {
    const auto within = range.within(static_cast<std::uint32_t>(page_bytes()));
    CMPOOL_ASSERT(within.has_value());
    if (order == Order::PageFirst) {
        out.push_back(memory.subspan(index * page_bytes() + within->offset, within->length));
        return;
    }
    const std::size_t row = pages() * piece_bytes();
    const std::uint64_t end = std::uint64_t{within->offset} + within->length;
    for (std::uint64_t at = within->offset; at < end;) {
        const std::uint64_t piece = at / piece_bytes();
        const std::uint64_t inside = at % piece_bytes();
        const std::uint64_t count = std::min(piece_bytes() - inside, end - at);
        out.push_back(memory.subspan(piece * row + index * piece_bytes() + inside, count));
        at += count;
    }
}

Result<void> KvPages::check() const {
    std::uint64_t product = 1;
    for (const std::uint64_t factor : {layers, parts, heads, head_size, elem_bytes, block_tokens}) {
        if (factor == 0) return fail(Errc::Invalid, "expected KV pages without zeros in their shape");
        product *= factor;
        if (product > model::kBlockBytesMax) {
            return fail(Errc::Invalid,
                        "expected a page of at most {}, saw {} x {} x {} x {} x {} of {} bytes",
                        format_bytes(model::kBlockBytesMax), layers, parts, block_tokens, heads, head_size,
                        elem_bytes);
        }
    }
    if (memory.empty() || memory.size() % page_bytes() != 0) {
        return fail(Errc::Invalid, "expected memory of whole pages of {} bytes, saw {} bytes", page_bytes(),
                    memory.size());
    }
    return {};
}

}  // namespace cmpool::client
