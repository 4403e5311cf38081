#include <cmpool/engine/paged_kv.h>

using namespace cmpool;
using engine::BlockShape;
using engine::PagedKv;

TEST_CASE("a block shape without tokens or above the limit is refused") {
    CHECK(BlockShape{6, 16, 7, 64, 4}.check());
    CHECK_FALSE(BlockShape{6, 0, 7, 64, 4}.check());
    CHECK_FALSE(BlockShape{1024, 1024, 8, 128, 2}.check());
    CHECK(BlockShape::latent(61, 64, 576, 2).check());
    CHECK_FALSE(BlockShape::latent(0, 64, 576, 2).check());
    CHECK_FALSE(BlockShape{6, 16, 7, 64, 4, 0}.check());
    CHECK_FALSE(BlockShape{6, 16, 7, 64, 4, 3}.check());
    CHECK_FALSE(BlockShape{UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX}.check());
}

// An engine that takes one for the other would read beyond a row.
TEST_CASE("a latent block and one of keys and values are never the same shape") {
    CHECK(BlockShape{6, 16, 1, 64, 4} != BlockShape::latent(6, 16, 64, 4));
    CHECK(BlockShape{6, 16, 1, 64, 4}.bytes() == 2 * BlockShape::latent(6, 16, 64, 4).bytes());
    CHECK(BlockShape{6, 16, 1, 64, 4}.layer_bytes() * 6 == BlockShape{6, 16, 1, 64, 4}.bytes());
}

TEST_CASE("blocks lie one after the other and are handed out once each") {
    const BlockShape shape{2, 4, 1, 8, 4};
    auto kv = PagedKv::create(shape, 3).value();
    CHECK(kv.bytes().size() == 3 * shape.bytes());
    CHECK(kv.block_bytes(2).data() == kv.bytes().data() + 2 * shape.bytes());
    CHECK(kv.acquire() == 0);
    CHECK(kv.acquire() == 1);
    CHECK(kv.acquire() == 2);
    CHECK(kv.acquire().error().code == Errc::NoCapacity);
    kv.release(1);
    CHECK(kv.acquire() == 1);
}

TEST_CASE("a table gives its blocks back, also those of a reservation that failed") {
    auto kv = PagedKv::create({2, 4, 1, 8, 4}, 3).value();
    {
        engine::BlockTable table(kv);
        REQUIRE(table.reserve(9));
        CHECK(table.blocks().size() == 3);
        CHECK(table.reserve(12));
        CHECK_FALSE(table.reserve(13));
        CHECK(kv.free_blocks() == 0);
    }
    CHECK(kv.free_blocks() == 3);
}

TEST_CASE("memory without blocks or beyond the limit is refused") {
    CHECK_FALSE(PagedKv::create({2, 4, 1, 8, 4}, 0));
    CHECK_FALSE(PagedKv::create({2, 0, 1, 8, 4}, 1));
    CHECK_FALSE(PagedKv::create({32, 16, 8, 128, 2}, UINT32_MAX));
}
