#include "seal.h"

#include <algorithm>
#include <cstring>

#include <cmpool/base/assert.h>

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <sodium.h>

namespace cmpool::client {
namespace {

constexpr std::size_t kSaltBytes = 12;
constexpr std::size_t kHeadBytes = kSaltBytes + sizeof(std::uint32_t);  // of a trailer, before its tag
constexpr std::size_t kTagBytes = 16;
static_assert(kHeadBytes + kTagBytes == kSealTrailerBytes);

/// Scratch that is kept for the next call: a few puts of the usual size.
constexpr std::size_t kKeptMax = 8;
constexpr std::size_t kKeptBytesMax = 8 * MiB;
constexpr std::size_t kScratchStep = 64 * KiB;

using Key = std::array<std::byte, 32>;
/// For blocks, and for digests.
struct NamespaceKeys {
    Key blocks, digests;
};

auto* raw(std::byte* bytes) noexcept { return reinterpret_cast<unsigned char*>(bytes); }
const auto* raw(const std::byte* bytes) noexcept { return reinterpret_cast<const unsigned char*>(bytes); }

struct FreeKdf {
    void operator()(EVP_KDF* kdf) const noexcept { EVP_KDF_free(kdf); }
    void operator()(EVP_KDF_CTX* context) const noexcept { EVP_KDF_CTX_free(context); }
};

// A namespace is its tenant and its fingerprint; each with its length, so that no two run into one.
NamespaceKeys derive(const SealKey& key, const model::NamespaceSpec& spec) {
    static constexpr char kSalt[] = "cmpool sealed namespace 1";
    char digest_name[] = "SHA256";
    SealKey secret = key;
    const auto fingerprint = spec.fingerprint();
    std::string info = fmt::format("{}:{};", spec.tenant.size(), spec.tenant);
    info.append(as_text(fingerprint.bytes));

    const std::unique_ptr<EVP_KDF, FreeKdf> kdf(EVP_KDF_fetch(nullptr, "HKDF", nullptr));
    const std::unique_ptr<EVP_KDF_CTX, FreeKdf> context(EVP_KDF_CTX_new(kdf.get()));
    const OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest_name, 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, secret.data(), secret.size()),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, const_cast<char*>(kSalt), sizeof kSalt - 1),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info.data(), info.size()),
        OSSL_PARAM_construct_end()};
    NamespaceKeys keys;
    static_assert(sizeof keys == 2 * sizeof(Key));
    CMPOOL_ASSERT(context != nullptr && EVP_KDF_derive(context.get(), reinterpret_cast<unsigned char*>(&keys),
                                                       sizeof keys, parameters) == 1);
    ::sodium_memzero(secret.data(), secret.size());
    return keys;
}

/// A chunk's nonce is its number.
std::array<unsigned char, 12> nonce_of(std::uint32_t chunk) noexcept {
    std::array<unsigned char, 12> nonce{};
    std::memcpy(nonce.data(), &chunk, sizeof chunk);
    return nonce;
}

Key block_key(const Key& key, const std::byte* trailer, const model::Digest& digest) noexcept {
    std::array<std::byte, kHeadBytes + sizeof digest.bytes> input;
    std::memcpy(input.data(), trailer, kHeadBytes);
    std::memcpy(input.data() + kHeadBytes, digest.bytes.data(), sizeof digest.bytes);
    Key made;
    ::crypto_generichash(raw(made.data()), made.size(), raw(input.data()), input.size(), raw(key.data()),
                         key.size());
    return made;
}

std::uint32_t plain_length(const std::byte* trailer) noexcept {
    std::uint32_t length = 0;
    std::memcpy(&length, trailer + kSaltBytes, sizeof length);
    return length;
}

}  // namespace

// ---- what lies where ----

SealedCut SealedCut::of(model::ByteRange range, std::optional<std::uint32_t> plain) noexcept {
    const std::uint64_t end = std::uint64_t{range.offset} + range.length;
    const std::uint64_t first = range.offset / kSealChunkBytes;
    const std::uint64_t ends =
        std::min<std::uint64_t>(round_up(end, kSealChunkBytes), plain.value_or(UINT32_MAX));
    return {.first = static_cast<std::uint32_t>(first),
            .skip = range.offset % kSealChunkBytes,
            .length = range.length,
            .covered = static_cast<std::uint32_t>(ends - first * kSealChunkBytes)};
}

std::uint32_t SealedCut::chunk_bytes(std::uint32_t chunk) const noexcept {
    return std::min(kSealChunkBytes, covered - chunk * kSealChunkBytes);
}

std::pair<std::uint32_t, std::uint32_t> SealedCut::wanted(std::uint32_t chunk) const noexcept {
    return {chunk == 0 ? skip : 0, std::min(chunk_bytes(chunk), skip + length - chunk * kSealChunkBytes)};
}

bool SealedCut::edge(std::uint32_t chunk) const noexcept {
    return wanted(chunk) != std::pair(0U, chunk_bytes(chunk));
}

std::size_t SealedCut::aside_bytes() const noexcept {
    std::size_t bytes = std::size_t{chunks()} * kSealTrailerBytes;
    if (edge(0)) bytes += chunk_bytes(0);
    if (const std::uint32_t last = chunks() - 1; last > 0 && edge(last)) bytes += chunk_bytes(last);
    return bytes;
}

/// Where in a caller's pieces of memory the next bytes go.
class Sealer::Cursor {
public:
    explicit Cursor(std::span<const MutableBytes> pieces) noexcept : pieces_(pieces) {}
    /// The next bytes that lie together, at most so many; there are some.
    MutableBytes take(std::size_t most) noexcept {
        while (at_ == pieces_.front().size()) {
            pieces_ = pieces_.subspan(1);
            at_ = 0;
        }
        const MutableBytes some = pieces_.front().subspan(at_, std::min(most, pieces_.front().size() - at_));
        at_ += some.size();
        return some;
    }

private:
    std::span<const MutableBytes> pieces_;
    std::size_t at_ = 0;
};

void Sealer::land(const SealedCut& cut, std::span<const MutableBytes> into, MutableBytes aside,
                  std::vector<MutableBytes>& out) {
    Cursor cursor(into);
    for (std::uint32_t chunk = 0; chunk < cut.chunks(); ++chunk) {
        std::uint32_t left = cut.chunk_bytes(chunk);
        std::size_t beside = kSealTrailerBytes;
        if (cut.edge(chunk)) {
            const auto [from, to] = cut.wanted(chunk);
            for (std::uint32_t skipped = to - from; skipped > 0;)
                skipped -= static_cast<std::uint32_t>(cursor.take(skipped).size());
            beside += left;
            left = 0;
        }
        while (left > 0) {
            out.push_back(cursor.take(left));
            left -= static_cast<std::uint32_t>(out.back().size());
        }
        out.push_back(aside.first(beside));
        aside = aside.subspan(beside);
    }
}

// ---- keys ----

struct Sealer::Contexts {
    struct Free {
        void operator()(EVP_CIPHER_CTX* context) const noexcept { EVP_CIPHER_CTX_free(context); }
        void operator()(EVP_CIPHER* gone) const noexcept { EVP_CIPHER_free(gone); }
    };
    std::unique_ptr<EVP_CIPHER, Free> cipher{EVP_CIPHER_fetch(nullptr, "AES-256-GCM", nullptr)};
    std::unique_ptr<EVP_CIPHER_CTX, Free> to_seal{EVP_CIPHER_CTX_new()};
    std::unique_ptr<EVP_CIPHER_CTX, Free> to_open{EVP_CIPHER_CTX_new()};
};

Sealer::Sealer(const SealKey& key, const model::NamespaceSpec& spec, Entropy& entropy)
    : key_(derive(key, spec).blocks),
      entropy_(entropy),
      contexts_(std::make_unique<Contexts>()),
      edge_(std::make_unique<std::byte[]>(kSealChunkBytes)) {
    CMPOOL_ASSERT(::sodium_init() >= 0);
    const auto& [cipher, to_seal, to_open] = *contexts_;
    CMPOOL_ASSERT(cipher != nullptr && to_seal != nullptr && to_open != nullptr);
    CMPOOL_ASSERT(EVP_EncryptInit_ex2(to_seal.get(), cipher.get(), nullptr, nullptr, nullptr) == 1);
    CMPOOL_ASSERT(EVP_DecryptInit_ex2(to_open.get(), cipher.get(), nullptr, nullptr, nullptr) == 1);
}

Sealer::~Sealer() { ::sodium_memzero(key_.data(), key_.size()); }

model::Secret Sealer::digest_secret(const SealKey& key, const model::NamespaceSpec& spec,
                                    const model::Secret& secret) {
    const NamespaceKeys keys = derive(key, spec);
    model::Secret made;
    ::crypto_generichash(raw(made.data()), made.size(), raw(secret.data()), secret.size(),
                         raw(keys.digests.data()), keys.digests.size());
    return made;
}

// ---- sealing ----

std::uint64_t Sealer::seal(const model::Digest& digest, std::span<const Bytes> from, MutableBytes into) {
    const std::uint32_t plain = plain_bytes(into.size()).value();
    std::array<std::byte, kHeadBytes> head;
    entropy_.fill(std::span(head).first(kSaltBytes));
    std::memcpy(head.data() + kSaltBytes, &plain, sizeof plain);
    const Key key = block_key(key_, head.data(), digest);
    EVP_CIPHER_CTX* const context = contexts_->to_seal.get();
    model::ChecksumStream checksum;
    std::size_t taken = 0;  // of the first piece
    int written = 0;
    bool fine = EVP_EncryptInit_ex2(context, nullptr, raw(key.data()), nullptr, nullptr) == 1;
    for (std::uint32_t chunk = 0; !into.empty(); ++chunk) {
        const std::size_t bytes = std::min<std::size_t>(kSealChunkBytes, into.size() - kSealTrailerBytes);
        const auto nonce = nonce_of(chunk);
        fine = fine && EVP_EncryptInit_ex2(context, nullptr, nullptr, nonce.data(), nullptr) == 1;
        for (std::size_t done = 0; done < bytes;) {
            const Bytes some =
                from.front().subspan(taken, std::min(bytes - done, from.front().size() - taken));
            fine = fine && EVP_EncryptUpdate(context, raw(into.data() + done), &written, raw(some.data()),
                                             static_cast<int>(some.size())) == 1;
            done += some.size();
            taken += some.size();
            if (taken < from.front().size()) continue;
            from = from.subspan(1);
            taken = 0;
        }
        std::byte* const trailer = into.data() + bytes;
        std::memcpy(trailer, head.data(), head.size());
        fine = fine && EVP_EncryptFinal_ex(context, raw(trailer), &written) == 1;  // GCM writes nothing here
        fine =
            fine && EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, kTagBytes, trailer + kHeadBytes) == 1;
        checksum.update(into.first(bytes + kSealTrailerBytes));
        into = into.subspan(bytes + kSealTrailerBytes);
    }
    CMPOOL_ASSERT(fine);  // what is not encrypted must not leave
    return checksum.digest();
}

// ---- opening ----

struct Sealer::Opening {
    const model::Digest& digest;
    const SealedCut& cut;
    std::array<std::byte, kHeadBytes> head{};  ///< that all trailers have
};

// The length in the trailer is to be believed once its chunk has opened: it is part of the key.
bool Sealer::begin(Opening& opening, const std::byte* trailer) noexcept {
    std::memcpy(opening.head.data(), trailer, kHeadBytes);
    const SealedCut& cut = opening.cut;
    const std::uint64_t end = std::uint64_t{cut.first} * kSealChunkBytes + cut.covered;
    const std::uint32_t plain = plain_length(trailer);
    const bool full = cut.covered % kSealChunkBytes == 0;
    if (cut.whole ? plain != end : (plain < end || (plain > end && !full))) return false;
    const Key key = block_key(key_, trailer, opening.digest);
    return EVP_DecryptInit_ex2(contexts_->to_open.get(), nullptr, raw(key.data()), nullptr, nullptr) == 1;
}

bool Sealer::open_chunk(Opening& opening, std::uint32_t chunk, Cursor& cursor, std::byte* edge,
                        const std::byte* trailer, const std::byte* foreign) noexcept {
    if (chunk == 0 ? !begin(opening, trailer) : std::memcmp(trailer, opening.head.data(), kHeadBytes) != 0)
        return false;
    EVP_CIPHER_CTX* const context = contexts_->to_open.get();
    const auto nonce = nonce_of(opening.cut.first + chunk);
    int written = 0;
    bool fine = EVP_DecryptInit_ex2(context, nullptr, nullptr, nonce.data(), nullptr) == 1;
    const auto decrypt = [&](MutableBytes to) {
        const std::byte* from = to.data();
        if (foreign != nullptr) {
            std::memcpy(piece_.data(), foreign, to.size());
            from = piece_.data();
            foreign += to.size();
            // The piece behind the next one comes while this one is worked on, into the second cache: the
            // first takes too few lines at once. At the pool's end that asks for nothing, and harms nothing.
            for (std::size_t line = 0; line < to.size(); line += 64)
                __builtin_prefetch(foreign + to.size() + line, 0, 2);
        }
        fine = fine && EVP_DecryptUpdate(context, raw(to.data()), &written, raw(from),
                                         static_cast<int>(to.size())) == 1;
    };
    const std::size_t most = foreign != nullptr ? piece_.size() : kSealChunkBytes;
    const std::uint32_t bytes = opening.cut.chunk_bytes(chunk);
    for (std::size_t at = 0; at < bytes;) {
        const std::size_t some = std::min<std::size_t>(most, bytes - at);
        const MutableBytes to = edge != nullptr ? MutableBytes(edge + at, some) : cursor.take(some);
        decrypt(to);
        at += to.size();
    }
    unsigned char none[kTagBytes];
    std::array<std::byte, kTagBytes> tag;
    std::memcpy(tag.data(), trailer + kHeadBytes, tag.size());
    fine = fine && EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, kTagBytes, tag.data()) == 1 &&
           EVP_DecryptFinal_ex(context, none, &written) == 1;
    if (!fine || edge == nullptr) return fine;
    const auto [from, to] = opening.cut.wanted(chunk);
    for (std::uint32_t at = from; at < to;) {
        const MutableBytes some = cursor.take(to - at);
        std::memcpy(some.data(), edge + at, some.size());
        at += static_cast<std::uint32_t>(some.size());
    }
    return true;
}

bool Sealer::open(const model::Digest& digest, const SealedCut& cut, std::span<const MutableBytes> into,
                  MutableBytes aside) noexcept {
    Opening opening{digest, cut};
    Cursor cursor(into);
    for (std::uint32_t chunk = 0; chunk < cut.chunks(); ++chunk) {
        std::byte* const edge = cut.edge(chunk) ? aside.data() : nullptr;
        if (edge != nullptr) aside = aside.subspan(cut.chunk_bytes(chunk));
        if (!open_chunk(opening, chunk, cursor, edge, aside.data(), nullptr)) return false;
        aside = aside.subspan(kSealTrailerBytes);
    }
    return true;
}

bool Sealer::open_from(Bytes stored, const model::Digest& digest, const SealedCut& cut,
                       std::span<const MutableBytes> into) noexcept {
    Opening opening{digest, cut};
    Cursor cursor(into);
    for (std::uint32_t chunk = 0; chunk < cut.chunks(); ++chunk) {
        const std::uint32_t bytes = cut.chunk_bytes(chunk);
        std::array<std::byte, kSealTrailerBytes> trailer;
        std::memcpy(trailer.data(), stored.data() + bytes, trailer.size());
        std::byte* const edge = cut.edge(chunk) ? edge_.get() : nullptr;
        if (!open_chunk(opening, chunk, cursor, edge, trailer.data(), stored.data())) return false;
        stored = stored.subspan(bytes + kSealTrailerBytes);
    }
    return true;
}

// ---- scratch ----

Sealer::Scratch Sealer::borrow(std::size_t bytes) {
    const auto fits = std::ranges::find_if(kept_, [&](const Scratch& each) { return each.bytes >= bytes; });
    if (fits != kept_.end()) {
        Scratch found = std::move(*fits);
        kept_.erase(fits);
        return found;
    }
    const std::size_t room = round_up(bytes, kScratchStep);
    return {std::unique_ptr<std::byte[]>(new std::byte[room]), room};
}

void Sealer::give_back(Scratch scratch) noexcept {
    if (scratch.memory == nullptr || scratch.bytes > kKeptBytesMax) return;
    if (kept_.capacity() < kKeptMax) kept_.reserve(kKeptMax);
    if (kept_.size() == kKeptMax) kept_.erase(kept_.begin());
    kept_.push_back(std::move(scratch));
}

}  // namespace cmpool::client
