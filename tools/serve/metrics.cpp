#include "metrics.h"

#include <algorithm>
#include <iterator>

#include <fmt/format.h>

namespace cmpool::serve {

std::size_t Metrics::enter() {
    const std::scoped_lock lock(mutex_);
    return ++running_;
}
void Metrics::leave() {
    const std::scoped_lock lock(mutex_);
    --running_;
}
void Metrics::answered(int status) {
    const std::scoped_lock lock(mutex_);
    ++answers_[status];
}
void Metrics::cancelled() {
    const std::scoped_lock lock(mutex_);
    ++cancelled_;
}
void Metrics::prompted(std::size_t tokens) {
    const std::scoped_lock lock(mutex_);
    prompt_tokens_ += tokens;
}
void Metrics::generated(std::size_t tokens) {
    const std::scoped_lock lock(mutex_);
    generated_tokens_ += tokens;
}
void Metrics::first_token(Nanos time) {
    const double seconds = std::chrono::duration<double>(time).count();
    const std::scoped_lock lock(mutex_);
    ++first_tokens_[std::size_t(std::ranges::lower_bound(kBounds, seconds) - kBounds.begin())];
    first_token_seconds_ += seconds;
}

std::string Metrics::text(const std::vector<loop::WorkerReport>& workers) const {
    std::string out;
    const auto into = std::back_inserter(out);
    const auto head = [&](const std::string& name, const char* type, const char* help) {
        fmt::format_to(into, "# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
    };
    const auto single = [&](const std::string& name, const char* type, const char* help,
                            std::uint64_t value) {
        head(name, type, help);
        fmt::format_to(into, "{} {}\n", name, value);
    };
    const std::scoped_lock lock(mutex_);
    single("cmpool_serve_requests_running", "gauge", "Completions that are being answered.", running_);
    head("cmpool_serve_requests_total", "counter", "Completion requests by HTTP status.");
    for (const auto& [status, count] : answers_)
        fmt::format_to(into, "cmpool_serve_requests_total{{code=\"{}\"}} {}\n", status, count);
    single("cmpool_serve_cancelled_total", "counter", "Completions that ended before their last token.",
           cancelled_);
    single("cmpool_serve_prompt_tokens_total", "counter", "Prompt tokens taken.", prompt_tokens_);
    single("cmpool_serve_generated_tokens_total", "counter", "Tokens given.", generated_tokens_);
    const std::string ttft = "cmpool_serve_time_to_first_token_seconds";
    head(ttft, "histogram", "From a request's arrival to its first token.");
    std::uint64_t below = 0;
    for (std::size_t index = 0; index < kBounds.size(); ++index) {
        below += first_tokens_[index];
        fmt::format_to(into, "{}_bucket{{le=\"{}\"}} {}\n", ttft, kBounds[index], below);
    }
    below += first_tokens_.back();
    fmt::format_to(into, "{}_bucket{{le=\"+Inf\"}} {}\n{}_sum {}\n{}_count {}\n", ttft, below, ttft,
                   first_token_seconds_, ttft, below);
    head("cmpool_serve_worker_up", "gauge", "Whether a worker answered just now.");
    std::map<std::string, std::string> lines;  // of one name, together
    for (const auto& worker : workers) {
        const auto labels = fmt::format("{{role=\"{}\",address=\"{}\"}}", worker.role, worker.address);
        fmt::format_to(into, "cmpool_serve_worker_up{} {}\n", labels, worker.up ? 1 : 0);
        for (const auto& [name, value] : worker.statistics)
            lines[name] += fmt::format("cmpool_serve_worker_{}{} {}\n", name, labels, value);
    }
    for (const auto& [name, text_lines] : lines) {
        const char* type = name.ends_with("_total") ? "counter" : "gauge";
        fmt::format_to(into, "# TYPE cmpool_serve_worker_{} {}\n{}", name, type, text_lines);
    }
    return out;
}

}  // namespace cmpool::serve
