#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <cmpool/base/rng.h>
#include <cmpool/base/units.h>
#include <cmpool/testing/process.h>

#include <fmt/format.h>

namespace cmpool::testing {

/// Memory of a process that is its own, not the pool's.
inline std::uint64_t private_bytes(pid_t pid) {
    std::ifstream status(fmt::format("/proc/{}/status", pid));
    std::string name;
    while (status >> name) {
        std::uint64_t kilobytes = 0;
        if (name == "RssAnon:" && status >> kilobytes) return kilobytes * KiB;
    }
    return 0;
}

/// Four workers, to whom things happen: they are killed and begin anew, or are stopped for a while.
class Crowd {
public:
    Crowd(std::string uri, std::uint64_t seed) : rng_(seed), uri_(std::move(uri)) {
        for (const char* role : {"writer", "writer", "reader", "reader"}) {
            workers_.push_back({role, nullptr, {}});
            begin(workers_.back());
        }
    }

    [[nodiscard]] std::size_t size() const noexcept { return workers_.size(); }
    /// Listens to them for about so long.
    void listen(std::chrono::milliseconds limit) {
        Worker& worker = workers_[rng_.below(workers_.size())];
        if (const auto line = worker.process->read_line(limit)) hear(worker, *line);
        for (auto& each : workers_) drain(each);
    }
    /// Kills one of them, and another takes its place.
    void replace(std::size_t number) {
        end(workers_[number]);
        begin(workers_[number]);
    }
    void freeze(std::size_t number) { workers_[number].process->freeze(); }
    void thaw(std::size_t number) { workers_[number].process->signal(SIGCONT); }
    /// Whether each has begun another call by then.
    [[nodiscard]] bool all_go_on(std::chrono::milliseconds limit) {
        for (auto& worker : workers_) drain(worker);
        return std::ranges::all_of(workers_, [&](Worker& worker) {
            const auto until = std::chrono::steady_clock::now() + limit;
            const std::uint64_t before = worker.counts["calls"];
            while (worker.counts["calls"] <= before) {
                const auto line = worker.process->read_line(
                    std::chrono::ceil<std::chrono::milliseconds>(until - std::chrono::steady_clock::now()));
                if (!line) return false;
                hear(worker, *line);
            }
            return true;
        });
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
    using Counts = std::map<std::string, std::uint64_t>;
    struct Worker {
        std::string role;
        std::unique_ptr<Process> process;
        Counts counts;
    };
    static Counts parse(const std::string& line) {
        Counts counts;
        std::istringstream words(line);
        std::string name;
        for (std::uint64_t value = 0; words >> name >> value;) counts[name] = value;
        return counts;
    }
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
        while (const auto line = worker.process->read_line(std::chrono::milliseconds(0))) hear(worker, *line);
    }
    void hear(Worker& worker, const std::string& line) {
        if (line.starts_with("wrong")) wrong.push_back(worker.role + ": " + line);
        if (line.starts_with("calls")) worker.counts = parse(line);
    }

    Rng rng_;
    std::string uri_;
    std::vector<Worker> workers_;
    Counts sums_;
};

}  // namespace cmpool::testing
