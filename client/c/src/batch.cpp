#include "batch.h"

#include "entry.h"
#include "sized.h"

#include <algorithm>
#include <cstring>

namespace cmpool::c {
namespace {

static_assert(CMPOOL_BATCH_MAX == model::kBatchMax && CMPOOL_BLOCK_BYTES_MAX == model::kBlockBytesMax);
static_assert(sizeof(cmpool_digest) == sizeof(model::Digest) && alignof(model::Digest) == 1);
static_assert(static_cast<int>(client::Outcome::Miss) == CMPOOL_MISS);
static_assert(static_cast<int>(client::Outcome::Hit) == CMPOOL_HIT);
static_assert(static_cast<int>(client::Outcome::Stored) == CMPOOL_STORED);
static_assert(static_cast<int>(client::Outcome::Present) == CMPOOL_PRESENT);
static_assert(static_cast<int>(client::Outcome::Dropped) == CMPOOL_DROPPED);
static_assert(static_cast<int>(client::Outcome::TooSmall) == CMPOOL_TOO_SMALL);
static_assert(static_cast<int>(client::Outcome::Outside) == CMPOOL_OUTSIDE);

Result<void> check_count(const void* from, std::size_t count, std::string_view what) {
    if (count > CMPOOL_BATCH_MAX)
        return fail(Errc::Invalid, "expected a batch of at most {} blocks, saw {}", CMPOOL_BATCH_MAX, count);
    if (from == nullptr && count > 0) return fail(missing(what));
    return {};
}

MutableBytes as_piece(const cmpool_span& span) noexcept {
    return {static_cast<std::byte*>(span.data), span.bytes};
}
Bytes as_piece(const cmpool_view& view) noexcept {
    return {static_cast<const std::byte*>(view.data), view.bytes};
}

client::GetItem as_item(const cmpool_get_item& item) noexcept {
    return {.key = read_digest(item.key), .group = item.group, .range = {item.offset, item.length}};
}
client::PutItem as_item(const cmpool_put_item& item) noexcept {
    return {.key = read_digest(item.key),
            .parent = read_digest(item.parent),
            .position = item.position,
            .group = item.group,
            .cost_us = item.cost_us};
}

auto pieces_of(const cmpool_get_item& item) noexcept { return std::pair{item.into, item.into_count}; }
auto pieces_of(const cmpool_put_item& item) noexcept { return std::pair{item.from, item.from_count}; }
auto& pieces_of(client::GetItem& item) noexcept { return item.into; }
auto& pieces_of(client::PutItem& item) noexcept { return item.from; }

template <class CItem, class Item, class Piece>
Result<void> read_batch(const CItem* from, std::size_t count, Batch<Item, Piece>& batch) {
    batch.items.clear();
    batch.pieces.clear();
    batch.ends.clear();
    if (auto fine = check_count(from, count, "items"); !fine || count == 0) return fine;
    const std::size_t stride = from->size;
    if (auto fine = check_size<CItem>(stride); !fine) return fine;
    batch.items.reserve(count);
    for (std::size_t index = 0; index < count; ++index) {
        const auto item =
            read_sized<CItem>(reinterpret_cast<const std::byte*>(from) + index * stride, stride);
        if (!item) return fail(item.error());
        if (item->size != stride)
            return fail(Errc::Invalid, "expected one size in all items, saw {} and, at {}, {}", stride, index,
                        item->size);
        const auto [pieces, piece_count] = pieces_of(*item);
        if (piece_count > CMPOOL_PIECES_MAX - batch.pieces.size())
            return fail(Errc::Invalid, "expected at most {} pieces in a call, saw more at item {}",
                        CMPOOL_PIECES_MAX, index);
        if (pieces == nullptr && piece_count > 0)
            return fail(Errc::Invalid, "expected {} pieces of item {}, saw NULL", piece_count, index);
        for (std::size_t piece = 0; piece < piece_count; ++piece) {
            if (pieces[piece].data == nullptr && pieces[piece].bytes > 0)
                return fail(Errc::Invalid, "expected {} bytes at piece {} of item {}, saw NULL",
                            pieces[piece].bytes, piece, index);
            batch.pieces.push_back(as_piece(pieces[piece]));
        }
        batch.items.push_back(as_item(*item));
        batch.ends.push_back(batch.pieces.size());
    }
    // Pieces may have moved while they were read, so items hear of them last.
    std::size_t begin = 0;
    for (std::size_t index = 0; index < count; ++index) {
        pieces_of(batch.items[index]) = std::span(batch.pieces).subspan(begin, batch.ends[index] - begin);
        begin = batch.ends[index];
    }
    return {};
}

}  // namespace

Result<void> GetBatch::read(const cmpool_get_item* from, std::size_t count) {
    return read_batch(from, count, *this);
}
Result<void> PutBatch::read(const cmpool_put_item* from, std::size_t count) {
    return read_batch(from, count, *this);
}

model::Digest read_digest(const cmpool_digest& digest) noexcept {
    model::Digest read;
    std::memcpy(read.bytes.data(), digest.bytes, sizeof digest.bytes);
    return read;
}

Result<std::span<const model::Digest>> read_keys(const cmpool_digest* keys, std::size_t count) {
    if (auto fine = check_count(keys, count, "keys"); !fine) return fail(fine.error());
    // Bytes either way, see the assertions above.
    return std::span(reinterpret_cast<const model::Digest*>(keys), count);
}

Result<Results> Results::open(cmpool_result* results, std::size_t count, bool needed,
                              client::Outcome outcome) {
    // One that is too long has no results that could be filled.
    if (auto fine = check_count(results, needed ? count : 0, "results"); !fine) return fail(fine.error());
    if (results == nullptr || count == 0) return Results(nullptr, 0);
    if (count > CMPOOL_BATCH_MAX) return fail(check_count(results, count, "results").error());
    if (auto fine = check_size<cmpool_result>(results->size); !fine) return fail(fine.error());
    const Results open(results, count);
    for (std::size_t index = 0; index < count; ++index) open.write(index, {.outcome = outcome});
    return open;
}

void Results::write(const client::Report& report) const noexcept {
    const std::size_t count = std::min(count_, report.blocks.size());
    for (std::size_t index = 0; index < count; ++index) write(index, report.blocks[index]);
}

void Results::write(std::size_t index, const client::BlockResult& block) const noexcept {
    write_sized(reinterpret_cast<std::byte*>(results_) + index * stride_, stride_,
                cmpool_result{.outcome = static_cast<std::uint32_t>(block.outcome),
                              .bytes = block.bytes,
                              .copies = block.copies});
}

Result<void> trouble_of(const std::optional<Error>& trouble) {
    if (trouble) return fail(*trouble);
    return {};
}

}  // namespace cmpool::c
