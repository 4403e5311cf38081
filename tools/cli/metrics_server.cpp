#include "metrics_server.h"

#include <csignal>
#include <mutex>
#include <thread>

#include <cmpool/tools/http_bind.h>

#include <httplib.h>

namespace cmpool::cli {
namespace {

// Prometheus asks from one place, now and then.
constexpr std::size_t kThreads = 2;
constexpr std::size_t kBodyBytesMax = 0;

sigset_t stops() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    return set;
}

}  // namespace

struct MetricsServer::Inside {
    explicit Inside(std::function<std::string()> its_collect) : collect(std::move(its_collect)) {
        server.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
        server.set_payload_max_length(kBodyBytesMax);
        server.Get("/metrics", [this](const auto&, auto& out) {
            const std::scoped_lock lock(mutex);
            out.set_content(collect(), "text/plain; version=0.0.4");
        });
    }
    std::function<std::string()> collect;
    std::mutex mutex;
    httplib::Server server;
};

MetricsServer::MetricsServer(std::function<std::string()> collect)
    : inside_(std::make_unique<Inside>(std::move(collect))) {
    // Before there are threads, so that none of them is interrupted instead of us.
    const sigset_t awaited = stops();
    pthread_sigmask(SIG_BLOCK, &awaited, nullptr);
}
MetricsServer::~MetricsServer() = default;

Result<std::string> MetricsServer::bind(const std::string& address) {
    return tools::bind_http(inside_->server, address);
}

void MetricsServer::run_until_signal() {
    std::thread serving([this] { inside_->server.listen_after_bind(); });
    const sigset_t awaited = stops();
    int seen = 0;
    sigwait(&awaited, &seen);
    while (!inside_->server.is_running()) std::this_thread::yield();  // stop() before that would be lost
    inside_->server.stop();
    serving.join();
}

}  // namespace cmpool::cli
