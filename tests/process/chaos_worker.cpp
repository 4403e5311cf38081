// A client that writes or reads blocks of a pool until somebody kills it. What a block holds is a
// function of its key, so a reader knows every byte of what it gets.
//
//   chaos_worker URI writer|reader SEED
//
// Prints what it has counted so far, a line at a time; on a wrong byte it says where, and exits with 1.
#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <cmpool/base/rng.h>
#include <cmpool/base/units.h>
#include <cmpool/client/pool_client.h>
#include <cmpool/model/index_layout.h>
#include <cmpool/model/placement.h>

#include <fmt/format.h>
#include <sys/prctl.h>

namespace {

using namespace cmpool;
using namespace std::chrono_literals;
using client::PoolClient;
using SteadyClock = std::chrono::steady_clock;

// 64 chains of 40 blocks of 64 KiB on average: 160 MiB.
constexpr std::uint32_t kChains = 64;
constexpr std::uint32_t kBlocks = 40;
constexpr std::uint32_t kBlockTokens = 4;
constexpr std::size_t kBlockBytes = 128 * KiB;  ///< at most
constexpr std::size_t kMatchesKept = 4;
constexpr auto kReportInterval = 20ms;

/// Word `index` of a block: a counter, mixed with whose it is.
std::uint64_t word_of(const client::Digest& key, std::uint64_t index) {
    return model::mix64(key.prefix() + index * 0x9e3779b97f4a7c15);
}
std::size_t bytes_of(const client::Digest& key) { return 1 + model::mix64(~key.prefix()) % kBlockBytes; }

void fill(MutableBytes out, const client::Digest& key) {
    for (std::size_t at = 0; at < out.size(); at += 8) {
        const std::uint64_t word = word_of(key, at / 8);
        std::memcpy(out.data() + at, &word, std::min<std::size_t>(8, out.size() - at));
    }
}

/// How much longer everything may take, as under emulation.
int slowness() {
    static const char* factor = std::getenv("CMPOOL_SLOWNESS");
    return factor == nullptr ? 1 : std::max(std::atoi(factor), 1);
}

[[noreturn]] void wrong(const std::string& what) {
    fmt::print("wrong {}\n", what);
    std::fflush(stdout);
    std::_Exit(1);
}

void verify(Bytes seen, const client::Digest& key, const char* how) {
    if (seen.size() != bytes_of(key)) wrong(fmt::format("length by {}: {}", how, seen.size()));
    for (std::size_t at = 0; at < seen.size(); at += 8) {
        std::uint64_t word = word_of(key, at / 8);
        if (std::memcmp(seen.data() + at, &word, std::min<std::size_t>(8, seen.size() - at)) != 0) {
            wrong(fmt::format("bytes by {} at {} of {}", how, at, seen.size()));
        }
    }
}

class Worker {
    [[nodiscard]] std::uint64_t group(std::span<const client::Digest> chain, std::size_t index) const {
        return model::group_key(chain, static_cast<std::uint32_t>(index), pool_->spec().group_blocks);
    }

    template <class Call>
    auto timed(Call call) {
        const Nanos deadline = rng_.chance(0.01) ? 2ms : 200ms * slowness();
        const auto begun = SteadyClock::now();
        auto result = call(client::CallOptions{.deadline = deadline});
        overrun_ = std::max<Nanos>(overrun_, SteadyClock::now() - begun - deadline);
        ++calls_;
        return result;
    }

public:
    Worker(const std::string& uri, std::uint64_t seed) : rng_(seed), memory_(kBlocks * kBlockBytes) {
        const client::NamespaceSpec spec{
            .model = "chaos", .revision = "1", .dtype = "u8", .block_tokens = kBlockTokens};
        auto opened = PoolClient::open(uri, spec);
        if (!opened) wrong(opened.error().detail);
        pool_ = std::move(*opened);
        std::vector<std::uint32_t> tokens(kBlocks * kBlockTokens);
        for (std::uint32_t chain = 0; chain < kChains; ++chain) {
            std::fill(tokens.begin(), tokens.end(), chain);
            auto keys = pool_->chain(tokens);
            const auto until = SteadyClock::now() + 20s;
            for (; !keys && SteadyClock::now() < until; keys = pool_->chain(tokens)) pool_->progress();
            if (!keys) wrong(keys.error().detail);
            chains_.push_back(std::move(*keys));
        }
    }

    void write() {
        const auto keys = some_chain();
        std::vector<Bytes> blocks;
        for (std::size_t index = 0; index < keys.size(); ++index) {
            const auto block = memory(index).first(bytes_of(keys[index]));
            fill(block, keys[index]);
            blocks.push_back(block);
        }
        std::vector<client::PutItem> items;
        for (std::size_t index = 0; index < keys.size(); ++index) {
            items.push_back({.key = keys[index],
                             .from = {&blocks[index], 1},
                             .parent = index == 0 ? model::kNoParent : keys[index - 1],
                             .position = static_cast<std::uint32_t>(index),
                             .group = group(keys, index)});
        }
        const auto report = timed([&](const auto& options) { return pool_->put(items, options); });
        stored_ += report.count(client::Outcome::Stored);
        present_ += report.count(client::Outcome::Present);
        if (report.trouble) trouble(*report.trouble);
    }

    void read() {
        const auto keys = some_chain();
        const auto asked = SteadyClock::now();
        auto match = timed([&](const auto& options) { return pool_->match(keys, kLeaseMs, options); });
        matched_ += match.blocks();
        look_at(match, keys);
        if (match.trouble()) trouble(*match.trouble());

        std::vector<std::array<MutableBytes, 2>> pieces(keys.size());
        std::vector<client::GetItem> items;
        for (std::size_t index = 0; index < keys.size(); ++index) {
            const auto room = memory(index);
            const auto cut = rng_.below(room.size());
            pieces[index] = {room.first(cut), room.subspan(cut)};
            items.push_back({keys[index], pieces[index], group(keys, index)});
        }
        const bool check = rng_.chance(0.2);
        const auto report = timed([&](client::CallOptions options) {
            options.verify = check;
            return pool_->get(items, options);
        });
        if (report.trouble) trouble(*report.trouble);
        // A lease holds for as long as the whole of it has not passed since before it was given.
        const bool leased = match.leased() && !report.trouble &&
                            SteadyClock::now() - asked < std::chrono::milliseconds(kLeaseMs);
        for (std::size_t index = 0; index < keys.size(); ++index) {
            const auto& block = report.blocks[index];
            if (block.outcome == client::Outcome::TooSmall) wrong("outcome: too small");
            if (block.outcome == client::Outcome::Hit) {
                verify(memory(index).first(block.bytes), keys[index], "get");
                ++hits_;
                bytes_ += block.bytes;
            } else if (leased && index < match.blocks()) {
                ++leased_misses_;
            }
        }
        if (rng_.chance(0.5)) return;
        kept_.push_back({std::move(match), keys});
        if (kept_.size() <= kMatchesKept) return;
        look_at(kept_.front().match, kept_.front().keys);  // as it was, however long ago
        kept_.pop_front();
    }

    void report() {
        if (SteadyClock::now() - reported_ < kReportInterval) return;
        reported_ = SteadyClock::now();
        fmt::print(
            "calls {} stored {} present {} matched {} views {} hits {} bytes {} leased_misses {} "
            "troubles {} overrun_us {}\n",
            calls_, stored_, present_, matched_, views_, hits_, bytes_, leased_misses_, troubles_,
            overrun_.count() / 1000);
        std::fflush(stdout);
    }

private:
    static constexpr std::uint32_t kLeaseMs = 1000;
    struct Kept {
        client::Match match;
        std::span<const client::Digest> keys;
    };

    std::span<const client::Digest> some_chain() {
        const auto& chain = chains_[rng_.below(kChains)];
        return std::span(chain).first(1 + rng_.below(chain.size()));
    }
    MutableBytes memory(std::size_t index) {
        return MutableBytes(memory_).subspan(index * kBlockBytes, kBlockBytes);
    }
    void look_at(const client::Match& match, std::span<const client::Digest> keys) {
        for (std::size_t index = 0; index < match.blocks(); ++index) {
            const auto view = match.view(index);
            if (!view && view.error().code == Errc::Corrupt) wrong(view.error().detail);
            if (!view) return;
            verify(*view, keys[index], "view");
            ++views_;
            bytes_ += view->size();
        }
    }
    void trouble(const Error& why) {
        ++troubles_;
        // Invalid: a parent that was there when the writer asked is gone when the child comes.
        if (why.code == Errc::Corrupt || why.code == Errc::Denied) {
            wrong(fmt::format("answer: {}", why.detail));
        }
    }

    Rng rng_;
    std::vector<std::byte> memory_;
    std::unique_ptr<PoolClient> pool_;
    std::vector<std::vector<client::Digest>> chains_;
    std::deque<Kept> kept_;
    SteadyClock::time_point reported_{};
    Nanos overrun_{};
    std::uint64_t calls_ = 0, stored_ = 0, present_ = 0, matched_ = 0, views_ = 0, hits_ = 0, bytes_ = 0;
    std::uint64_t leased_misses_ = 0, troubles_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
    if (argc != 4) return 2;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const bool writes = std::string(argv[2]) == "writer";
    Worker worker(argv[1], std::strtoull(argv[3], nullptr, 10));
    for (;;) {
        writes ? worker.write() : worker.read();
        worker.report();
    }
}
