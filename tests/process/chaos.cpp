// Clients that are killed at any instant, and a pool ten times too small for what they write.
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>

#include <cmpool/base/units.h>
#include <cmpool/testing/daemon.h>
#include <cmpool/testing/pool.h>

using namespace cmpool;
using namespace std::chrono_literals;
using testing::Daemon;
using testing::Process;
using SteadyClock = std::chrono::steady_clock;

namespace {

using Counts = std::map<std::string, std::uint64_t>;

Counts parse(const std::string& line) {
    Counts counts;
    std::istringstream words(line);
    std::string name;
    for (std::uint64_t value = 0; words >> name >> value;) counts[name] = value;
    return counts;
}

std::chrono::seconds duration() {
    const char* seconds = std::getenv("CMPOOL_CHAOS_SECONDS");
    return std::chrono::seconds(seconds == nullptr ? 10 : std::atoi(seconds));
}

/// Memory of the process that is its own, not the pool's.
std::uint64_t private_bytes(pid_t pid) {
    std::ifstream status(fmt::format("/proc/{}/status", pid));
    std::string name;
    while (status >> name) {
        std::uint64_t kilobytes = 0;
        if (name == "RssAnon:" && status >> kilobytes) return kilobytes * KiB;
    }
    return 0;
}

/// Four workers, of which one or another is killed and begins anew.
class Crowd {
public:
    explicit Crowd(std::string uri) : uri_(std::move(uri)) {
        for (const char* role : {"writer", "writer", "reader", "reader"}) {
            workers_.push_back({role, nullptr, {}});
            begin(workers_.back());
        }
    }

    /// Lets them work, and kills about three a second.
    void run(SteadyClock::time_point until) {
        while (SteadyClock::now() < until) {
            Worker& worker = workers_[rng_.below(workers_.size())];
            if (const auto line = worker.process->read_line(50ms)) hear(worker, *line);
            for (auto& each : workers_) drain(each);
            if (rng_.chance(0.1)) {
                end(worker);
                begin(worker);
            }
        }
    }
    void end() {
        for (auto& worker : workers_) end(worker);
    }
    [[nodiscard]] std::uint64_t sum(const std::string& name) const {
        const auto found = sums_.find(name);
        return found == sums_.end() ? 0 : found->second;
    }
    std::size_t kills = 0;
    std::vector<std::string> wrong;  ///< what the workers complained about

private:
    struct Worker {
        std::string role;
        std::unique_ptr<Process> process;
        Counts counts;
    };
    void begin(Worker& worker) {
        worker.process = std::make_unique<Process>(
            std::vector<std::string>{CMPOOL_CHAOS_WORKER, uri_, worker.role, std::to_string(rng_.next())});
    }
    void end(Worker& worker) {
        drain(worker);
        worker.process->signal(SIGKILL);
        if (worker.process->wait() != -SIGKILL) wrong.push_back("a worker ended by itself");
        drain(worker);
        for (const auto& [name, value] : worker.counts) {
            auto& sum = sums_[name];
            sum = name == "overrun_us" ? std::max(sum, value) : sum + value;
        }
        worker.counts.clear();
        ++kills;
    }
    void drain(Worker& worker) {
        while (const auto line = worker.process->read_line(0ms)) hear(worker, *line);
    }
    void hear(Worker& worker, const std::string& line) {
        if (line.starts_with("wrong")) wrong.push_back(worker.role + ": " + line);
        if (line.starts_with("calls")) worker.counts = parse(line);
    }

    std::string uri_;
    Rng rng_{20260101};
    std::vector<Worker> workers_;
    Counts sums_;
};

void chaos(const std::string& transport) {
    Daemon daemon({"--capacity", "16M", "--shards", "2"});
    const auto watcher = testing::open_pool(daemon.uri("?transport=tcp"));
    const auto descriptors = daemon.descriptors();
    const auto begun = SteadyClock::now();
    const auto most = duration();

    Crowd crowd(daemon.uri("?transport=" + transport));
    crowd.run(begun + most / 3);
    const auto files = daemon.files();
    const auto memory = private_bytes(daemon.process().pid());
    crowd.run(begun + most);
    crowd.end();

    for (const auto& complaint : crowd.wrong) FAIL_CHECK(complaint);
    CHECK(crowd.sum("stored") > 100);
    CHECK(crowd.sum("hits") > 100);
    CHECK(crowd.sum("leased_misses") == 0);
    CHECK((transport == "shm") == (crowd.sum("views") > 100));
    // A loaded machine gives a process its turn when it likes; a call that waits for ever is seconds late.
    CHECK(crowd.sum("overrun_us") < 1'000'000);

    CHECK(daemon.process().wait(0ms) == std::nullopt);
    for (const char* name : {"leases", "leased_bytes", "doomed_bytes", "client_pages"}) {
        CAPTURE(name);
        CHECK(testing::comes_true([&] { return testing::statistic(*watcher, name) == 0; }));
    }
    CHECK(testing::comes_true([&] { return testing::statistic(*watcher, "clients") == 1; }));
    CHECK(testing::comes_true([&] { return daemon.descriptors() <= descriptors + 2; }));  // an index, twice
    CHECK(testing::statistic(*watcher, "corrupt_blocks") == 0);
    CHECK(testing::statistic(*watcher, "evicted_blocks") > 100);
    CHECK(daemon.files() == files);
    const auto grown = private_bytes(daemon.process().pid());
    CHECK(grown < memory + 8 * MiB);
    MESSAGE(transport << ": " << most.count() << " s, " << crowd.kills << " kills, " << crowd.sum("calls")
                      << " calls, " << crowd.sum("stored") << " blocks stored, " << crowd.sum("hits")
                      << " got, " << crowd.sum("views") << " viewed, " << crowd.sum("bytes") / MiB
                      << " MiB compared, " << crowd.sum("troubles") << " troubles, overrun at most "
                      << crowd.sum("overrun_us") << " us, server memory " << memory / KiB << " -> "
                      << grown / KiB << " KiB");
    CHECK(daemon.stop());
}

}  // namespace

TEST_CASE("on shm nobody ever reads a wrong byte, whoever is killed, and nothing stays behind") {
    chaos("shm");
}

TEST_CASE("over tcp nobody ever reads a wrong byte, whoever is killed, and nothing stays behind") {
    chaos("tcp");
}
