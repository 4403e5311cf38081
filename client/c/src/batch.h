#pragma once

#include <span>
#include <vector>

#include <cmpool/client/pool_client.h>

#include <cmpool.h>

namespace cmpool::c {

/// Items of one call as the client takes them.
///
///   Lifetime  until the call is done
///   Errors    read() gives Invalid and Unsupported, with the item's index
template <class Item, class Piece>
struct Batch {
    std::vector<Item> items;
    std::vector<Piece> pieces;
    std::vector<std::size_t> ends;  ///< of each item's pieces
};
struct GetBatch : Batch<client::GetItem, MutableBytes> {
    [[nodiscard]] Result<void> read(const cmpool_get_item* from, std::size_t count);
};
struct PutBatch : Batch<client::PutItem, Bytes> {
    [[nodiscard]] Result<void> read(const cmpool_put_item* from, std::size_t count);
};

[[nodiscard]] model::Digest read_digest(const cmpool_digest& digest) noexcept;
/// Keys where they lie. Errors: Invalid for NULL, or more than a batch.
[[nodiscard]] Result<std::span<const model::Digest>> read_keys(const cmpool_digest* keys, std::size_t count);

/// Where a batch's results go. As soon as it is opened each of them says `outcome`.
class Results {
public:
    /// Errors: Invalid for NULL where it is needed, or a size that is none.
    [[nodiscard]] static Result<Results> open(cmpool_result* results, std::size_t count, bool needed,
                                              client::Outcome outcome);
    void write(const client::Report& report) const noexcept;

private:
    Results(cmpool_result* results, std::size_t count) noexcept
        : results_(results), stride_(results == nullptr ? 0 : results->size), count_(count) {}
    void write(std::size_t index, const client::BlockResult& block) const noexcept;

    cmpool_result* results_;
    std::size_t stride_;
    std::size_t count_;
};

/// What a batch returns: OK, or the trouble it had.
[[nodiscard]] Result<void> trouble_of(const std::optional<Error>& trouble);

}  // namespace cmpool::c
