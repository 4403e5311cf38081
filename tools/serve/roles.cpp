#include "roles.h"

#include "http.h"
#include "tokenizer.h"

#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <thread>

#include <cmpool/base/assert.h>
#include <cmpool/base/rng.h>
#include <cmpool/base/unique_fd.h>
#include <cmpool/engine/context.h>
#include <cmpool/loop/decode.h>
#include <cmpool/loop/prefill.h>
#include <cmpool/loop/router.h>

#include <fcntl.h>
#include <poll.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

namespace cmpool::serve {

namespace {

constexpr Nanos kFactsLimit = std::chrono::seconds(120);
constexpr std::uint32_t kWaitingMax = 1024;
constexpr int kFolderTries = 3;
constexpr const char* kModelEnding = ".bin";
constexpr const char* kTmpfs = "/dev/shm";
constexpr const char* kFolderPrefix = "cmpool-serve.";

void log_to_stderr() { spdlog::set_default_logger(spdlog::stderr_logger_mt("cmpool-serve")); }

void say_ready(const std::string& address) {
    fmt::print("ready {}\n", address);
    std::fflush(stdout);
}

/// A folder that goes with the process, where nobody gave one.
class RuntimeDir {
public:
    [[nodiscard]] static Result<RuntimeDir> open(const std::string& given) {
        if (!given.empty()) return RuntimeDir(given, false);
        auto made = make_runtime_dir();
        if (!made) return fail(made.error());
        return RuntimeDir(std::move(*made), true);
    }
    RuntimeDir(RuntimeDir&& other) noexcept
        : path_(std::exchange(other.path_, {})), ours_(std::exchange(other.ours_, false)) {}
    ~RuntimeDir() {
        std::error_code ignored;
        if (ours_) std::filesystem::remove_all(path_, ignored);
    }
    [[nodiscard]] const std::string& path() const noexcept { return path_; }

private:
    RuntimeDir(std::string path, bool ours) : path_(std::move(path)), ours_(ours) {}
    std::string path_;
    bool ours_;
};

void remove_stale_folders() {
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator(kTmpfs, ignored)) {
        if (!entry.path().filename().string().starts_with(kFolderPrefix)) continue;
        const UniqueFd folder(::open(entry.path().c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        struct stat status {};
        if (!folder || ::fstat(folder.get(), &status) != 0 || status.st_uid != ::geteuid()) continue;
        if (::flock(folder.get(), LOCK_EX | LOCK_NB) == 0) std::filesystem::remove_all(entry.path(), ignored);
    }
}

engine::SchedulerOptions scheduler_options(const RoleOptions& options, const engine::Model& model) {
    return {.step_tokens = options.step_tokens,
            .running_max = std::min(options.running_max, options.step_tokens),
            .waiting_max = kWaitingMax,
            .context = model.config().context};
}

/// As many blocks as fit the memory, at least one whole context, at most what can be used at once.
std::uint32_t blocks_for(const RoleOptions& options, const engine::Model& model) {
    const auto shape = model.config().block_shape(options.block_tokens);
    const std::uint64_t context = (model.config().context + options.block_tokens - 1) / options.block_tokens;
    const std::uint64_t most = context * options.running_max;
    const std::uint64_t fit = options.kv_bytes / std::max<std::uint64_t>(shape.bytes(), 1);
    return static_cast<std::uint32_t>(std::clamp<std::uint64_t>(fit, context, std::max(context, most)));
}

/// A folder's or file's name; of a file without its ending. "" at the end of a path is the folder before it.
std::string name_of(const std::string& model) {
    std::filesystem::path path(model);
    if (path.filename().empty()) path = path.parent_path();
    return path.extension() == kModelEnding ? path.stem().string() : path.filename().string();
}

/// What decides whether pages of one worker mean the same to another.
std::string identity_of(const engine::Model& model, const engine::PagedKv& kv) {
    return engine::namespace_of(model, kv.shape()).describe().substr(0, loop::kTextBytesMax);
}

}  // namespace

std::uint32_t default_threads() noexcept {
    const std::uint32_t cores = std::thread::hardware_concurrency();
    return std::clamp(cores / 2, 1U, std::uint32_t{engine::Forward::kThreadsMax});
}

int stop_descriptor() {
    sigset_t signals;
    ::sigemptyset(&signals);
    ::sigaddset(&signals, SIGTERM);
    ::sigaddset(&signals, SIGINT);
    ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    ::signal(SIGPIPE, SIG_IGN);
    const int fd = ::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    CMPOOL_ASSERT(fd >= 0);
    return fd;
}

// The lock on a folder ends with the process that made it, however it ends: what nobody locks is left over.
Result<std::string> make_runtime_dir() {
    remove_stale_folders();
    for (int tries = 0; tries < kFolderTries; ++tries) {
        std::string path = fmt::format("{}/{}XXXXXX", kTmpfs, kFolderPrefix);
        if (::mkdtemp(path.data()) == nullptr)
            return fail(Errc::PeerDown, "cannot make a folder in {}: {}", kTmpfs, std::strerror(errno));
        UniqueFd folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        struct stat status {};
        // Before it was locked, somebody who starts at this moment may have taken it for left over.
        if (!folder || ::flock(folder.get(), LOCK_EX | LOCK_NB) != 0 || ::fstat(folder.get(), &status) != 0 ||
            status.st_nlink == 0) {
            continue;
        }
        (void)folder.release();  // open until the process ends
        return path;
    }
    return fail(Errc::PeerDown, "cannot keep a folder in {}", kTmpfs);
}

Result<void> run_prefill(const RoleOptions& options) {
    const int stop = stop_descriptor();
    log_to_stderr();
    const auto model = engine::Model::open(options.model);
    if (!model) return fail(model.error());
    const auto shape = model->config().block_shape(options.block_tokens);
    auto kv = engine::PagedKv::create(shape, blocks_for(options, *model));
    if (!kv) return fail(kv.error());
    engine::Wake wake;
    auto cache = engine::open_cache(
        options.pool, *model, *kv,
        {.on_progress = [&] { wake.notify(); }, .load_bytes_per_s = options.load_bytes_per_s});
    if (!cache) return fail(cache.error());
    auto runtime = RuntimeDir::open(options.runtime_dir);
    if (!runtime) return fail(runtime.error());

    const SystemClock clock;
    SystemEntropy entropy;
    const auto network = transport::open_tcp(entropy);
    const auto local = transport::open_shm({.runtime_dir = runtime->path()}, entropy);
    engine::Engine engine(*model, *kv, cache->get(), clock,
                          {.scheduler = scheduler_options(options, *model), .threads = options.threads});
    loop::PrefillWorker worker(*kv, engine, wake, identity_of(*model, *kv), model->config().vocab,
                               model->config().context);
    const auto address = worker.courier().listen(*network, options.listen);
    if (!address) return fail(address.error());
    const auto socket =
        fmt::format("{}/prefill-{}.sock", runtime->path(), address->substr(address->rfind(':') + 1));
    if (const auto here = worker.courier().listen(*local, socket)) {
        worker.set_local_address(*here);
    } else {
        spdlog::warn("hand-offs on this host go over tcp: {}", here.error().detail);
    }
    say_ready(*address);
    worker.run(stop);
    return {};
}

Result<void> run_decode(const RoleOptions& options) {
    const int stop = stop_descriptor();
    log_to_stderr();
    const auto model = engine::Model::open(options.model);
    if (!model) return fail(model.error());
    const auto shape = model->config().block_shape(options.block_tokens);
    if (auto sound = shape.check(); !sound) return fail(sound.error());

    const SystemClock clock;
    SystemEntropy entropy;
    const auto network = transport::open_tcp(entropy);
    const auto local = transport::open_shm({}, entropy);
    // One memory under two names: on this host it is mapped by whoever writes, over a network it is not.
    auto local_pages = local->allocate({.bytes = shape.bytes() * blocks_for(options, *model),
                                        .access = transport::Access::ReadWrite,
                                        .name = "kv pages"});
    if (!local_pages) return fail(local_pages.error());
    auto network_pages = network->register_memory((*local_pages)->bytes(), transport::Access::ReadWrite);
    if (!network_pages) return fail(network_pages.error());
    auto kv = engine::PagedKv::over(shape, (*local_pages)->bytes());
    if (!kv) return fail(kv.error());

    engine::Wake wake;
    auto cache = engine::open_cache(options.store_decoded ? options.pool : "none", *model, *kv,
                                    {.on_progress = [&] { wake.notify(); }});
    if (!cache) return fail(cache.error());
    engine::Engine engine(*model, *kv, cache->get(), clock,
                          {.scheduler = scheduler_options(options, *model),
                           .store_prompt = false,
                           .store_output = options.store_decoded,
                           .threads = options.threads});
    loop::DecodeWorker worker(*kv, engine, wake, identity_of(*model, *kv), model->config().vocab,
                              model->config().context,
                              {network.get(), local.get(), network_pages->get(), local_pages->get()},
                              {.prefills = options.prefills,
                               .local_lanes = options.handoff != "tcp",
                               .prefill_limit = std::chrono::seconds(options.prefill_seconds)},
                              entropy);
    const auto address = worker.courier().listen(*network, options.listen);
    if (!address) return fail(address.error());
    say_ready(*address);
    worker.run(stop);
    return {};
}

Result<void> run_router(const RoleOptions& options) {
    const int stop = stop_descriptor();
    SystemEntropy entropy;
    const SystemClock clock;
    const auto network = transport::open_tcp(entropy);
    loop::Router router({.decodes = options.decodes, .prefills = options.prefills}, *network);
    // Vocabulary and context are the model's, which only workers open.
    const Instant until = clock.now() + kFactsLimit;
    auto facts = router.facts();
    while (!facts && clock.now() < until) {
        pollfd stopped{stop, POLLIN, 0};
        if (::poll(&stopped, 1, 20) > 0) return {};
        facts = router.facts();
    }
    if (!facts)
        return fail(Errc::PeerDown, "no decode worker answered within {} s",
                    kFactsLimit / std::chrono::seconds(1));
    auto tokenizer =
        open_tokenizer(options.tokenizer, options.model, static_cast<std::uint32_t>(facts->at("vocab")));
    if (!tokenizer) return fail(tokenizer.error());
    const auto name = options.model_name.empty() ? name_of(options.model) : options.model_name;
    Front front(router, std::move(*tokenizer),
                {.model = name,
                 .context = static_cast<std::uint32_t>(facts->at("context")),
                 .stop_tokens = stop_tokens_of(options.model),
                 .requests_max = options.requests_max,
                 .request_limit = std::chrono::seconds(options.request_seconds)});
    const auto address = front.bind(options.listen);
    if (!address) return fail(address.error());
    std::jthread server([&] { front.run(); });
    say_ready("http://" + *address);
    pollfd stopped{stop, POLLIN, 0};
    while (::poll(&stopped, 1, -1) < 0 && errno == EINTR) continue;
    front.stop();
    return {};
}

}  // namespace cmpool::serve
