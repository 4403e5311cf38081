#include <array>
#include <cstring>
#include <vector>

#include <cmpool/engine/model.h>

using namespace cmpool;
using engine::Model;

namespace {

using Header = std::array<std::int32_t, 7>;

// dim 8, hidden 6, 1 layer, 2 heads, 1 kv head, vocab 5, context 4, output matrix shared.
constexpr Header kSound{8, 6, 1, 2, 1, 5, 4};
// embedding + norm + q, k, v, o + norm + gate, down, up + norm + two rotation tables
constexpr std::size_t kSoundFloats = 40 + 8 + 64 + 32 + 32 + 64 + 8 + 48 + 48 + 48 + 8 + 8 + 8;

std::vector<std::byte> file_with(const Header& header, std::size_t floats) {
    std::vector<std::byte> file(sizeof(Header) + floats * sizeof(float));
    std::memcpy(file.data(), header.data(), sizeof(Header));
    return file;
}

}  // namespace

TEST_CASE("a llama2.c file is read when its header accounts for every byte") {
    const auto model = Model::parse(file_with(kSound, kSoundFloats));
    REQUIRE(model);
    CHECK(model->config().head_dim() == 4);
    CHECK(model->config().shared_embedding);
    Header separate = kSound;
    separate[5] = -5;
    const auto larger = Model::parse(file_with(separate, kSoundFloats + 40));
    REQUIRE(larger);
    CHECK_FALSE(larger->config().shared_embedding);
    CHECK(model->identity() != larger->identity());
}

TEST_CASE("a file of another size is refused with both sizes") {
    const auto whole = file_with(kSound, kSoundFloats);
    const auto expected = std::to_string(whole.size());
    for (const std::size_t bytes : {whole.size() - 1, whole.size() / 2, sizeof(Header), whole.size() + 4}) {
        auto file = whole;
        file.resize(bytes);
        const auto model = Model::parse(file);
        REQUIRE_FALSE(model);
        CHECK(model.error().code == Errc::Invalid);
        CHECK(model.error().detail.find(expected) != std::string::npos);
        CHECK(model.error().detail.find(std::to_string(bytes)) != std::string::npos);
    }
    for (std::size_t bytes = 0; bytes < sizeof(Header); ++bytes)
        CHECK_FALSE(Model::parse(Bytes(whole).first(bytes)));
}

// A lying header must neither overflow a size nor make the reader allocate.
TEST_CASE("a header with absurd fields is refused before anything is allocated") {
    for (std::size_t field = 0; field < kSound.size(); ++field) {
        for (const std::int32_t value : {0, 3, 1 << 16, -1, INT32_MAX, INT32_MIN}) {
            Header header = kSound;
            header[field] = value;
            CAPTURE(field);
            CAPTURE(value);
            CHECK_FALSE(Model::parse(file_with(header, kSoundFloats)));
        }
    }
    constexpr Header kLargest{1 << 16, 1 << 18, 1 << 10, 1 << 10, 1 << 10, 1 << 20, 1 << 20};
    CHECK_FALSE(Model::parse(file_with(kLargest, kSoundFloats)));
}

TEST_CASE("a missing file is named") {
    const auto model = Model::load("/nowhere/model.bin");
    REQUIRE_FALSE(model);
    CHECK(model.error().detail.find("/nowhere/model.bin") != std::string::npos);
}

TEST_CASE("a synthetic model has about the size that was asked for") {
    for (const std::uint64_t asked : {20'000U, 300'000U, 1'000'000U}) {
        const auto model = Model::synthetic(asked);
        REQUIRE(model);
        CHECK(model->config().check());
        CHECK(double(model->config().parameters()) > double(asked) * 0.6);
        CHECK(double(model->config().parameters()) < double(asked) * 1.6);
        CHECK(model->config().context >= 4096);
    }
    CHECK_FALSE(Model::synthetic(0));
    CHECK_FALSE(Model::synthetic(UINT64_MAX));
    CHECK(Model::synthetic(20'000, 1)->identity() != Model::synthetic(20'000, 2)->identity());
}

TEST_CASE("synthetic sizes are read as counts, and anything else is refused with what was seen") {
    CHECK(engine::parse_synthetic("synthetic") == engine::kSyntheticParameters);
    CHECK(engine::parse_synthetic("synthetic:20000") == 20'000);
    CHECK(engine::parse_synthetic("synthetic:60M") == 60'000'000);
    CHECK(engine::parse_synthetic("synthetic:1g") == 1'000'000'000);
    for (const char* wrong : {"synthetic:", "synthetic:x", "synthetic:1.5M", "synthetic:1", "synthetic:3G",
                              "synthetic:-1M", "synthetic:99999999999999999999G", "synthetic:1MM"}) {
        const auto size = engine::parse_synthetic(wrong);
        REQUIRE_FALSE(size);
        CHECK(size.error().detail.find(wrong) != std::string::npos);
    }
    CHECK_FALSE(engine::is_synthetic("synthetically.bin"));
}
