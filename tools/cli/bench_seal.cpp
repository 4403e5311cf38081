// What encryption costs without a pool.
#include "bench.h"

#include <array>

#include <cmpool/base/assert.h>
#include <cmpool/model/index_layout.h>

#include <openssl/evp.h>

namespace cmpool::cli {
namespace {

constexpr int kTagBytes = 16;

/// Blocks at random places of the pages to the buffer, decrypted, or back for a put, encrypted: one message a
/// block, one key for all.
class CryptWork final : public Work {
public:
    CryptWork(const BenchCase& row, const SharedPages& pages, MutableBytes buffer)
        : row_(row),
          pages_(pages.bytes()),
          buffer_(buffer),
          rng_(SystemEntropy().next_u64()),
          places_(row.batch),
          context_(EVP_CIPHER_CTX_new()) {
        std::array<std::byte, 32> key;
        SystemEntropy().fill(key);
        const auto* bytes = reinterpret_cast<const unsigned char*>(key.data());
        CMPOOL_ASSERT(EVP_CipherInit_ex(context_.get(), EVP_aes_256_gcm(), nullptr, bytes, nullptr,
                                        row.op == BenchOp::Put ? 1 : 0) == 1);
    }
    void prepare() override {
        const std::uint64_t stride = round_up(row_.size, model::kUnitBytes);
        for (auto& place : places_) place = pages_.data() + rng_.below(pages_.size() / stride) * stride;
    }
    Result<void> run() override {
        for (std::size_t index = 0; index < places_.size(); ++index) {
            auto* theirs = reinterpret_cast<unsigned char*>(places_[index]);
            auto* ours = reinterpret_cast<unsigned char*>(buffer_.data() + index * row_.size);
            const bool put = row_.op == BenchOp::Put;
            if (!crypt(put ? theirs : ours, put ? ours : theirs))
                return fail(Errc::Corrupt, "AES-256-GCM failed without a pool");
        }
        return {};
    }

private:
    struct Free {
        void operator()(EVP_CIPHER_CTX* context) const noexcept { EVP_CIPHER_CTX_free(context); }
    };
    bool crypt(unsigned char* to, const unsigned char* from) {
        std::array<unsigned char, 12> nonce{};
        std::array<unsigned char, kTagBytes> tag{};
        int written = 0;
        auto* const context = context_.get();
        const bool put = row_.op == BenchOp::Put;
        bool fine = EVP_CipherInit_ex(context, nullptr, nullptr, nullptr, nonce.data(), -1) == 1 &&
                    EVP_CipherUpdate(context, to, &written, from, static_cast<int>(row_.size)) == 1;
        // Nothing was sealed here, so no tag can be right: that it is compared is what costs.
        if (!put)
            fine = fine && EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, kTagBytes, tag.data()) == 1;
        const int ended = EVP_CipherFinal_ex(context, tag.data(), &written);
        if (put)
            fine = fine && ended == 1 &&
                   EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, kTagBytes, tag.data()) == 1;
        return fine;
    }

    BenchCase row_;
    MutableBytes pages_, buffer_;
    Rng rng_;
    std::vector<std::byte*> places_;
    std::unique_ptr<EVP_CIPHER_CTX, Free> context_;
};

}  // namespace

std::unique_ptr<Work> crypt_work(const BenchCase& row, const SharedPages& pages, MutableBytes buffer) {
    return std::make_unique<CryptWork>(row, pages, buffer);
}

}  // namespace cmpool::cli
