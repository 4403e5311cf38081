#include "xxh3.h"

#include <bit>

#include <cmpool/base/assert.h>
#include <cmpool/model/digest.h>

#include <sodium.h>

namespace cmpool::model {

static_assert(std::endian::native == std::endian::little, "token ids are hashed as they lie in memory");

struct Digester::State {
    crypto_generichash_state keyed;
};

namespace {

const auto* raw(const void* data) { return static_cast<const unsigned char*>(data); }

Digest finish(crypto_generichash_state state, DigestKind kind, Bytes parent, Bytes body) noexcept {
    crypto_generichash_update(&state, raw(&kind), sizeof kind);
    crypto_generichash_update(&state, raw(parent.data()), parent.size());
    crypto_generichash_update(&state, raw(body.data()), body.size());
    Digest digest;
    crypto_generichash_final(&state, reinterpret_cast<unsigned char*>(digest.bytes.data()),
                             digest.bytes.size());
    return digest;
}

}  // namespace

Digester::Digester(const Secret& secret) : state_(std::make_unique<State>()) {
    CMPOOL_ASSERT(sodium_init() >= 0);
    crypto_generichash_init(&state_->keyed, raw(secret.data()), secret.size(), sizeof(Digest));
}
Digester::~Digester() = default;
Digester::Digester(Digester&&) noexcept = default;
Digester& Digester::operator=(Digester&&) noexcept = default;

Digest Digester::block(const Digest& parent, std::span<const std::uint32_t> tokens) const noexcept {
    return finish(state_->keyed, DigestKind::Prefix, parent.bytes, std::as_bytes(tokens));
}

std::vector<Digest> Digester::chain(std::span<const std::uint32_t> tokens, std::uint32_t block_tokens) const {
    CMPOOL_ASSERT(block_tokens > 0);
    std::vector<Digest> digests(tokens.size() / block_tokens);
    Digest parent = kNoParent;
    for (std::size_t position = 0; position < digests.size(); ++position) {
        parent = digests[position] = block(parent, tokens.subspan(position * block_tokens, block_tokens));
    }
    return digests;
}

Digest Digester::opaque(Bytes key) const noexcept {
    return finish(state_->keyed, DigestKind::Opaque, kNoParent.bytes, key);
}

Digest plain_digest(DigestKind kind, Bytes bytes) noexcept {
    crypto_generichash_state state;
    crypto_generichash_init(&state, nullptr, 0, sizeof(Digest));
    return finish(state, kind, {}, bytes);
}

Digest part_digest(const Digest& block, std::uint32_t part, std::uint32_t parts) noexcept {
    crypto_generichash_state state;
    crypto_generichash_init(&state, nullptr, 0, sizeof(Digest));
    const std::uint32_t which[] = {part, parts};
    return finish(state, DigestKind::Part, block.bytes, std::as_bytes(std::span(which)));
}

std::uint64_t checksum(Bytes payload) noexcept { return XXH3_64bits(payload.data(), payload.size()); }

struct alignas(64) ChecksumStream::State {
    XXH3_state_t xxh3;
};

ChecksumStream::ChecksumStream() : state_(std::make_unique<State>()) { reset(); }
ChecksumStream::~ChecksumStream() = default;

void ChecksumStream::update(Bytes piece) noexcept {
    XXH3_64bits_update(&state_->xxh3, piece.data(), piece.size());
}

void ChecksumStream::reset() noexcept { XXH3_64bits_reset(&state_->xxh3); }

std::uint64_t ChecksumStream::digest() const noexcept { return XXH3_64bits_digest(&state_->xxh3); }

}  // namespace cmpool::model
