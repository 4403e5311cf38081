#include "net.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include <poll.h>
#include <unistd.h>

namespace cmpool::testing {

namespace {

using namespace std::chrono_literals;

/// Two fabrics in one process, on real sockets.
class RealNet : public Net {
public:
    [[nodiscard]] Fabric& server() override { return *server_; }
    [[nodiscard]] Fabric& client() override { return *client_; }

    bool idle(std::initializer_list<End*> ends, Listener* listener) override {
        std::vector<pollfd> waits;
        for (End* end : ends) {
            if (end->down) continue;
            const short events = static_cast<short>(POLLIN | (end->lane().wants_write() ? POLLOUT : 0));
            waits.push_back({end->lane().event_fd(), events, 0});
        }
        if (listener != nullptr) waits.push_back({listener->event_fd(), POLLIN, 0});
        // Short, because a faulty lane holds completions back that no descriptor announces.
        ::poll(waits.data(), waits.size(), 2);
        return true;
    }

protected:
    SystemEntropy entropy_;
    std::unique_ptr<Fabric> server_, client_;
};

constexpr FaultPlan kUnkind{.seed = 3, .delay_completion = 0.3, .reorder_completion = 0.3, .short_post = 0.3};

class TcpNet final : public RealNet {
public:
    explicit TcpNet(bool faulty) {
        server_ = open_tcp(entropy_);
        client_ = open_tcp(entropy_);
        if (!faulty) return;
        server_ = open_faulty(std::move(server_), kUnkind);
        client_ = open_faulty(std::move(client_), kUnkind);
    }
    [[nodiscard]] bool streams() const override { return true; }
    [[nodiscard]] std::string address() override { return "127.0.0.1:0"; }
};

class ShmNet final : public RealNet {
public:
    explicit ShmNet(bool faulty) {
        char folder[] = "/dev/shm/cmpool-test-XXXXXX";
        folder_ = ::mkdtemp(folder);
        server_ = open_shm({.runtime_dir = folder_}, entropy_);
        client_ = open_shm({.runtime_dir = folder_}, entropy_);
        if (!faulty) return;
        server_ = open_faulty(std::move(server_), kUnkind);
        client_ = open_faulty(std::move(client_), kUnkind);
    }
    ~ShmNet() override { std::filesystem::remove_all(folder_); }
    [[nodiscard]] bool streams() const override { return true; }
    [[nodiscard]] std::string address() override { return folder_ + "/socket"; }

private:
    std::string folder_;
};

/// Both ends on one device; which one, the fabric chooses.
class VerbsNet final : public RealNet {
public:
    explicit VerbsNet(bool faulty) {
        server_ = std::move(*open_verbs(entropy_));
        client_ = std::move(*open_verbs(entropy_));
        if (!faulty) return;
        server_ = open_faulty(std::move(server_), kUnkind);
        client_ = open_faulty(std::move(client_), kUnkind);
    }
    [[nodiscard]] std::string address() override { return "127.0.0.1:0"; }
};

class SimNet final : public Net {
public:
    explicit SimNet(SimProfile profile) : server_(world_.open("server", profile)) {
        client_ = world_.open("client", profile);
    }
    [[nodiscard]] Fabric& server() override { return *server_; }
    [[nodiscard]] Fabric& client() override { return *client_; }
    [[nodiscard]] std::string address() override { return "server:1"; }
    bool idle(std::initializer_list<End*>, Listener*) override { return world_.step(); }
    void kill_server(End&) override { world_.crash("server"); }

private:
    SimWorld world_{42};
    std::unique_ptr<Fabric> server_, client_;
};

template <class Made, class Argument>
BackEnd back_end(std::string name, Argument argument) {
    return {std::move(name), [argument] { return std::make_unique<Made>(argument); }};
}

}  // namespace

const std::vector<BackEnd>& back_ends() {
    static std::vector<BackEnd> all{
        back_end<ShmNet>("shm", false),
        back_end<TcpNet>("tcp", false),
        back_end<SimNet>("sim mapped", SimProfile::Mapped),
        back_end<SimNet>("sim messages", SimProfile::Messages),
        back_end<SimNet>("sim one-sided", SimProfile::OneSided),
        back_end<ShmNet>("faulty shm", true),
        back_end<TcpNet>("faulty tcp", true),
    };
    static const bool once = [] {
        SystemEntropy entropy;
        const auto verbs = open_verbs(entropy);
        if (!verbs) {
            MESSAGE("skipped on verbs: " << verbs.error().detail);
            return false;
        }
        for (const auto& line : (*verbs)->explain()) MESSAGE(line);
        all.push_back(back_end<VerbsNet>("verbs", false));
        all.push_back(back_end<VerbsNet>("faulty verbs", true));
        return true;
    }();
    (void)once;
    // One back end alone, where time is dear.
    if (const char* only = std::getenv("CMPOOL_BACK_END"))
        std::erase_if(all, [&](const BackEnd& each) { return each.name.find(only) == std::string::npos; });
    return all;
}

bool Net::until(std::initializer_list<End*> ends, const std::function<bool()>& done) {
    const auto deadline = std::chrono::steady_clock::now() + 10s;
    while (std::chrono::steady_clock::now() < deadline) {
        for (End* end : ends) end->pump();
        if (done()) return true;
        if (!idle(ends, nullptr)) {
            for (End* end : ends) end->pump();
            return done();
        }
    }
    return done();
}

Net::Pair Net::pair() {
    Pair pair;
    auto listener = server().listen(address());
    REQUIRE_MESSAGE(listener, (listener ? "" : listener.error().detail));
    pair.listener = std::move(*listener);
    auto lane = client().connect(pair.listener->address());
    REQUIRE(lane);
    pair.client = std::make_unique<End>(std::move(*lane));
    for (int tries = 0; tries < 5000 && !pair.server; ++tries) {
        auto incoming = pair.listener->accept();
        if (incoming) {
            pair.server = std::make_unique<End>(std::move(*incoming));
        } else {
            idle({pair.client.get()}, pair.listener.get());
        }
    }
    REQUIRE(pair.server);
    return pair;
}

std::vector<std::byte> pattern(std::size_t bytes, std::uint64_t seed) {
    std::vector<std::byte> out(bytes);
    Rng rng(seed);
    for (std::size_t at = 0; at < bytes; at += sizeof(std::uint64_t)) {
        const std::uint64_t word = rng.next();
        std::memcpy(out.data() + at, &word, std::min(sizeof word, bytes - at));
    }
    return out;
}

Result<void> post(Net& net, End& end, End& other, const Op& op) {
    for (int tries = 0; tries < 100000; ++tries) {
        auto taken = end.lane().post({&op, 1});
        if (taken && *taken == 1) return {};
        if (!taken && taken.error().code != Errc::Again) return fail(taken.error());
        end.pump();
        other.pump();
        if (tries > 10) net.idle({&end, &other}, nullptr);
    }
    return fail(Errc::Deadline, "the lane stays full");
}

Result<Completion> run(Net& net, End& end, End& other, Op op) {
    static std::uint64_t next = 1'000'000;
    op.cookie = ++next;
    if (auto posted = post(net, end, other, op); !posted) return fail(posted.error());
    net.until({&end, &other}, [&] { return end.completion(op.cookie) != nullptr; });
    const Completion* found = end.completion(op.cookie);
    if (found == nullptr) return fail(Errc::Deadline, "no completion");
    if (found->error) return fail(*found->error, "completed with an error");
    return *found;
}

Result<std::unique_ptr<RemoteSegment>> import(Net& net, End& end, End& other, const Descriptor& descriptor,
                                              Token token) {
    static std::uint64_t next = 2'000'000;
    const auto cookie = ++next;
    if (auto begun = end.lane().import(descriptor, token, cookie); !begun) return fail(begun.error());
    net.until({&end, &other}, [&] { return end.completion(cookie) != nullptr; });
    const Completion* found = end.completion(cookie);
    if (found == nullptr) return fail(Errc::Deadline, "no completion of the import");
    if (found->error) return fail(*found->error, "the import failed");
    return end.lane().imported(cookie);
}

}  // namespace cmpool::testing
