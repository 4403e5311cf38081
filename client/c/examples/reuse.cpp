// Computes a prompt's blocks once; run it twice, and the second run finds them.
#include <algorithm>
#include <cstdio>
#include <numeric>

#include <cmpool.hpp>

int main(int argc, char** argv) {
    const auto pool = cmpool::Pool::open(argc > 1 ? argv[1] : "cmpool://127.0.0.1:7411",
                                         {.model = "example", .dtype = "f32", .block_tokens = 16});
    if (!pool) return std::fprintf(stderr, "%s\n", pool.error().text.c_str()), 1;
    std::vector<std::uint32_t> tokens(100);  // six blocks of 16 tokens, and a rest that is not kept
    std::iota(tokens.begin(), tokens.end(), 0);
    const auto keys = pool->chain(tokens);
    if (!keys) return std::fprintf(stderr, "%s\n", keys.error().text.c_str()), 1;

    std::vector<std::vector<std::byte>> pages(keys->size(), std::vector<std::byte>(64 * 1024));
    auto lease = pool->match(*keys);  // the longest run that is there; it stays while this lives
    std::vector<cmpool::Get> gets;
    for (std::size_t index = 0; index < lease.blocks(); ++index)
        gets.push_back({.key = (*keys)[index], .into = pages[index], .group = pool->group(*keys, index)});
    const auto loaded = pool->get(gets);  // a failure of the pool is a miss, by the deadline

    std::size_t known = 0;
    while (known < loaded.blocks.size() && loaded.blocks[known].outcome == cmpool::Outcome::Hit) ++known;
    std::vector<cmpool::Put> puts;
    for (std::size_t index = known; index < keys->size(); ++index) {
        std::fill(pages[index].begin(), pages[index].end(), std::byte(index));  // "computed"
        puts.push_back({.key = (*keys)[index],
                        .from = pages[index],
                        .parent = index > 0 ? (*keys)[index - 1] : cmpool::Digest{},
                        .group = pool->group(*keys, index),
                        .position = static_cast<std::uint32_t>(index)});
    }
    const auto stored = pool->put(puts);
    std::printf("found %zu blocks, stored %zu\n", known, stored.count(cmpool::Outcome::Stored));
    return known + stored.count(cmpool::Outcome::Stored) == keys->size() ? 0 : 1;
}
