#include "child.h"
#include "verbs.h"

#include <algorithm>
#include <cstring>

#include <cmpool/engine/paged_kv.h>
#include <cmpool/loop/router.h>
#include <cmpool/transport/fabric.h>

#include <nlohmann/json.hpp>

namespace cmpool::serve {

namespace {

constexpr Nanos kAnswerLimit = std::chrono::seconds(120);
constexpr Nanos kLookLimit = std::chrono::seconds(10);
constexpr const char* kWays[] = {"shm", "tcp"};

/// What a prefill worker counted since it began.
struct Counted {
    std::uint64_t bytes = 0, ns = 0;
};

/// A decode worker, and the way to it.
struct Decode {
    Decode(Child child, const std::string& address, const std::string& prefill, transport::Fabric& network)
        : process(std::move(child)), router({.decodes = {address}, .prefills = {prefill}}, network) {}

    Child process;
    loop::Router router;
};

/// Pages of an engine, and pages that another process can write to, as prefill and decode have them.
class Copy {
public:
    [[nodiscard]] static Result<Copy> make(const engine::BlockShape& shape, std::uint32_t blocks) {
        auto from = engine::PagedKv::create(shape, blocks);
        if (!from) return fail(from.error());
        static SystemEntropy entropy;
        auto fabric = transport::open_shm({}, entropy);
        auto to = fabric->allocate(
            {.bytes = shape.bytes() * blocks, .access = transport::Access::ReadWrite, .name = "copies"});
        if (!to) return fail(to.error());
        std::memset(from->bytes().data(), 1, from->bytes().size());
        return Copy(std::move(*from), std::move(fabric), std::move(*to));
    }
    /// Page by page, as a hand-off goes.
    Nanos run() {
        const std::size_t page = from_.shape().bytes();
        const SystemClock clock;
        const Instant begun = clock.now();
        for (std::size_t at = 0; at < from_.capacity_blocks() * page; at += page)
            std::memcpy(to_->bytes().data() + at, from_.bytes().data() + at, page);
        return clock.now() - begun;
    }

private:
    Copy(engine::PagedKv from, std::unique_ptr<transport::Fabric> fabric,
         std::unique_ptr<transport::Segment> to)
        : from_(std::move(from)), fabric_(std::move(fabric)), to_(std::move(to)) {}

    engine::PagedKv from_;
    std::unique_ptr<transport::Fabric> fabric_;
    std::unique_ptr<transport::Segment> to_;
};

class HandoffExperiment {
public:
    explicit HandoffExperiment(const Setup& setup)
        : setup_(setup),
          options_(setup.options),
          blocks_((options_.prompt_tokens + options_.block_tokens - 1) / options_.block_tokens),
          shape_(setup.model.config().block_shape(options_.block_tokens)),
          prompts_(setup.model.config().vocab, options_.prompt_tokens),
          network_(transport::open_tcp(entropy_)) {}

    [[nodiscard]] Result<void> open() {
        auto prefill = start({"prefill", "--step-tokens", fmt::format("{}", options_.step_tokens)});
        if (!prefill) return fail(prefill.error());
        prefill_.emplace(std::move(prefill->first));
        for (const char* way : kWays) {
            auto decode = start({"decode", "--prefill", prefill->second, "--handoff", way});
            if (!decode) return fail(decode.error());
            decodes_.push_back(std::make_unique<Decode>(std::move(decode->first), decode->second,
                                                        prefill->second, *network_));
        }
        auto copy = Copy::make(shape_, blocks_);
        if (!copy) return fail(copy.error());
        copy_.emplace(std::move(*copy));
        return {};
    }

    [[nodiscard]] Result<Findings> run() {
        std::vector<double> times[std::size(kWays)], ratios[std::size(kWays)];
        std::vector<double> copies;
        // The first round maps and warms all pages.
        for (std::uint32_t round = 0; round <= options_.rounds; ++round) {
            for (std::size_t way = 0; way < std::size(kWays); ++way) {
                const auto moved = hand_off(*decodes_[way]);
                if (!moved) return fail(moved.error());
                const double copy_ms = milliseconds(copy_->run());
                setup_.say(fmt::format("round {} of {}: {}", round, options_.rounds, kWays[way]));
                if (round == 0) continue;
                copies.push_back(copy_ms);
                times[way].push_back(milliseconds(*moved));
                ratios[way].push_back(copy_ms / milliseconds(*moved));
            }
        }
        Findings out;
        out.table = fmt::format("{} tokens, {}: a copy takes {:.1f} ms\n{:>6} | {:>12} | {:>8} | {:>12}\n",
                                options_.prompt_tokens, format_bytes(bytes()), median(copies), "path",
                                "hand-off, ms", "GB/s", "of a copy");
        for (std::size_t way = 0; way < std::size(kWays); ++way) {
            const double took = median(times[way]);
            const double ratio = median(ratios[way]);
            out.table += fmt::format("{:>6} | {:>12.1f} | {:>8.2f} | {:>12.2f}\n", kWays[way], took,
                                     double(bytes()) / took / 1e6, ratio);
            const nlohmann::ordered_json object{
                {"path", kWays[way]}, {"tokens", options_.prompt_tokens}, {"bytes", bytes()},
                {"handoff_ms", took}, {"memcpy_ms", median(copies)},      {"ratio", ratio}};
            out.json_lines += object.dump() + "\n";
        }
        return out;
    }

private:
    [[nodiscard]] std::uint64_t bytes() const noexcept { return shape_.bytes() * blocks_; }

    Result<std::pair<Child, std::string>> start(std::vector<std::string> flags) {
        std::vector<std::string> arguments{"cmpool-serve"};
        arguments.insert(arguments.end(), flags.begin(), flags.end());
        arguments.insert(arguments.end(), {"--model", options_.model, "--block-tokens",
                                           fmt::format("{}", options_.block_tokens), "--kv-memory",
                                           fmt::format("{}", 2 * bytes()), "--running-max", "1", "--threads",
                                           fmt::format("{}", options_.threads)});
        Child child("/proc/self/exe", std::move(arguments));
        if (auto started = child.start(); !started) return fail(started.error());
        auto address = child.ready();
        if (!address) return fail(address.error());
        return std::pair{std::move(child), std::move(*address)};
    }

    [[nodiscard]] static Result<Counted> count(loop::Router& router) {
        for (const auto& report : router.look(kLookLimit)) {
            if (report.role != "prefill" || !report.up) continue;
            const std::map<std::string, std::uint64_t> all(report.statistics.begin(),
                                                           report.statistics.end());
            return Counted{all.at("handoff_bytes_total"), all.at("handoff_ns_total")};
        }
        return fail(Errc::PeerDown, "the prefill worker does not answer");
    }

    [[nodiscard]] Result<Nanos> hand_off(Decode& decode) {
        const auto before = count(decode.router);
        if (!before) return fail(before.error());
        const auto answer = decode.router.ask(prompts_.with_prefix(0), 1, {});
        const auto piece = answer->next(kAnswerLimit);
        if (!piece)
            return fail(Errc::Deadline, "no token came within {} s", kAnswerLimit / std::chrono::seconds(1));
        if (piece->error) return fail(*piece->error);
        const auto after = count(decode.router);
        if (!after) return fail(after.error());
        if (after->bytes - before->bytes != bytes()) {
            return fail(Errc::Corrupt, "expected a hand-off of {} bytes, saw {}", bytes(),
                        after->bytes - before->bytes);
        }
        return Nanos(static_cast<std::int64_t>(after->ns - before->ns));
    }

    const Setup& setup_;
    const ExperimentOptions& options_;
    std::uint32_t blocks_;
    engine::BlockShape shape_;
    Prompts prompts_;
    SystemEntropy entropy_;
    std::unique_ptr<transport::Fabric> network_;
    std::optional<Child> prefill_;
    std::vector<std::unique_ptr<Decode>> decodes_;
    std::optional<Copy> copy_;
};

}  // namespace

Result<Findings> measure_handoff(const Setup& setup) {
    HandoffExperiment experiment(setup);
    if (auto opened = experiment.open(); !opened) return fail(opened.error());
    return experiment.run();
}

}  // namespace cmpool::serve
