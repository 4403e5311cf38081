// What bench_get.py compares with: the same gets, by the C++ client itself. A line of input is a slice's time
// to work; the answer is how many blocks a second it got.
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include <cmpool/client/pool_client.h>

#include <fmt/format.h>

using namespace cmpool;

int main(int argc, char** argv) {
    if (argc != 6) {
        fmt::print(stderr, "usage: bench_get URI BYTES BATCH SLICE_SECONDS BLOCKS\n");
        return 2;
    }
    const std::size_t bytes = std::stoull(argv[2]), batch = std::stoull(argv[3]),
                      blocks = std::stoull(argv[5]);
    const std::chrono::duration<double> slice(std::stod(argv[4]));
    const auto pool =
        client::PoolClient::open(argv[1], {.model = "bench", .revision = argv[2], .dtype = "u8"});
    if (!pool) {
        fmt::print(stderr, "{}\n", pool.error().detail);
        return 1;
    }
    std::vector<std::vector<std::byte>> pages(blocks, std::vector<std::byte>(bytes));
    std::vector<MutableBytes> into(pages.begin(), pages.end());
    std::vector<client::GetItem> items;
    for (std::size_t at = 0; at < blocks; ++at)
        items.push_back({.key = (*pool)->key(as_bytes(std::to_string(at))).value(), .into = {&into[at], 1}});
    for (std::string line; std::getline(std::cin, line);) {
        const auto begun = std::chrono::steady_clock::now();
        std::chrono::duration<double> passed{};
        std::size_t got = 0;
        while ((passed = std::chrono::steady_clock::now() - begun) < slice) {
            const auto report =
                (*pool)->get(std::span(items).subspan(got % blocks, std::min(batch, blocks - got % blocks)));
            if (report.count(client::Outcome::Hit) != report.blocks.size()) return 1;
            got += report.blocks.size();
        }
        fmt::print("{}\n", static_cast<double>(got) / passed.count());
        std::fflush(stdout);
    }
}
