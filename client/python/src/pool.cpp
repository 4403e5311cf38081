#include "pool.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace cmpool::python {
namespace {

cmpool_error no_error() {
    cmpool_error error;
    error.size = sizeof error;
    error.text[0] = '\0';
    return error;
}

/// Throws what a call that is no batch said.
void need(cmpool_code code, const cmpool_error& error) {
    if (code != CMPOOL_OK) throw Failed{code, error.text};
}

/// `ask(error)` with the interpreter's lock given to others meanwhile.
template <class Ask>
cmpool_code unlocked(cmpool_error& error, Ask&& ask) {
    const py::gil_scoped_release others;
    return ask(&error);
}

template <auto Free, class T>
std::shared_ptr<T> shared(T* handle) {
    return std::shared_ptr<T>(handle, [](T* last) {
        const py::gil_scoped_release others;
        Free(last);
    });
}

/// One key: 32 bytes. Errors: ValueError.
cmpool_digest read_key(py::handle from) {
    char* data = nullptr;
    Py_ssize_t bytes = 0;
    if (PyBytes_AsStringAndSize(from.ptr(), &data, &bytes) != 0) throw py::error_already_set();
    cmpool_digest key;
    if (bytes != sizeof key.bytes)
        throw py::value_error("expected a key of 32 bytes, saw " + std::to_string(bytes));
    std::memcpy(key.bytes, data, sizeof key.bytes);
    return key;
}

/// What a caller names: a chain, which is looked at where it is, or a list of keys.
///
///   Lifetime  the caller holds `from` longer
class Keys {
public:
    explicit Keys(const py::object& from) : chain_(py::isinstance<Chain>(from)) {
        if (chain_) {
            all_ = &from.cast<const Chain&>().keys;
        } else {
            for (const auto& each : from) own_.push_back(read_key(each));
        }
    }
    Keys(const Keys&) = delete;
    Keys& operator=(const Keys&) = delete;

    [[nodiscard]] bool chain() const noexcept { return chain_; }
    [[nodiscard]] const cmpool_digest* data() const noexcept { return all_->data(); }
    [[nodiscard]] std::size_t size() const noexcept { return all_->size(); }
    [[nodiscard]] const cmpool_digest& operator[](std::size_t index) const { return (*all_)[index]; }

    /// Errors: ValueError where `blocks` buffers are not those of a chain from `first` on, or of a list of as
    /// many keys.
    void check(std::size_t blocks, std::size_t first) const {
        if (chain_ ? first <= size() && blocks <= size() - first : first == 0 && blocks == size()) return;
        throw py::value_error("expected a buffer for each key, saw " + std::to_string(blocks) +
                              " buffers, beginning at " + std::to_string(first) + ", for " +
                              std::to_string(size()) + " keys");
    }

private:
    bool chain_;
    std::vector<cmpool_digest> own_;
    const std::vector<cmpool_digest>* all_ = &own_;
};

template <class Ask>
Report report_of(std::size_t count, Ask&& ask) {
    Report report;
    report.blocks.resize(count);
    if (count > 0) report.blocks.front().size = sizeof(cmpool_result);
    auto error = no_error();
    report.code = unlocked(error, [&](auto* told) { return ask(report.blocks.data(), told); });
    if (report.code == CMPOOL_FAULT) throw Failed{report.code, error.text};
    report.trouble = error.text;
    return report;
}

Lease lease_of(cmpool_lease* handle, std::size_t blocks, cmpool_code code, const cmpool_error& error) {
    Lease lease{shared<cmpool_release>(handle), blocks, code, error.text};
    if (code == CMPOOL_FAULT) throw Failed{code, error.text};
    return lease;
}

std::unique_ptr<Call> started(std::size_t count, bool match, std::unique_ptr<Batch> batch, cmpool_code code,
                              cmpool_call* call, const cmpool_error& error) {
    need(code, error);
    return std::make_unique<Call>(call, count, match, std::move(batch));
}

}  // namespace

std::size_t Report::count(std::uint32_t outcome) const noexcept {
    return static_cast<std::size_t>(std::count_if(
        blocks.begin(), blocks.end(), [&](const cmpool_result& block) { return block.outcome == outcome; }));
}

py::memoryview Lease::view(std::size_t index, std::uint32_t part) const {
    auto view = std::make_unique<View>(View{handle, {}});
    auto error = no_error();
    need(unlocked(
             error,
             [&](auto* told) { return cmpool_lease_view(handle.get(), index, part, &view->bytes, told); }),
         error);
    return py::memoryview(py::cast(std::move(view)));
}

// ---- calls ----

Call::~Call() {
    if (handle_ == nullptr) return;
    const py::gil_scoped_release others;
    cmpool_drop(handle_);
}

bool Call::done() const {
    const py::gil_scoped_release others;
    return handle_ == nullptr || cmpool_call_done(handle_) != 0;
}

void Call::wait() const {
    const py::gil_scoped_release others;
    if (handle_ != nullptr) (void)cmpool_wait(handle_, nullptr);
}

py::object Call::result() {
    if (handle_ == nullptr) throw py::value_error("the result of this call was taken already");
    if (!done()) throw Failed{CMPOOL_AGAIN, "the call is not done yet"};
    auto* const finished = std::exchange(handle_, nullptr);
    if (match_) {
        cmpool_lease* lease = nullptr;
        std::size_t blocks = 0;
        auto error = no_error();
        const auto code =
            unlocked(error, [&](auto* told) { return cmpool_finish_match(finished, &lease, &blocks, told); });
        return py::cast(lease_of(lease, blocks, code, error));
    }
    auto report = report_of(
        count_, [&](auto* results, auto* told) { return cmpool_finish(finished, results, count_, told); });
    batch_.reset();
    return py::cast(std::move(report));
}

cmpool_options How::options() const {
    cmpool_options options{
        .size = sizeof options, .lease_ms = lease_ms, .verify = verify, .no_lease = !lease};
    if (deadline) {
        if (!(*deadline > 0) || *deadline > 3600)
            throw py::value_error("expected a deadline above 0 and up to 3600 seconds, saw " +
                                  std::to_string(*deadline));
        options.deadline_ns = static_cast<std::int64_t>(std::ceil(*deadline * 1e9));
    }
    return options;
}

// ---- a pool ----

Pool::Pool(const std::string& uri, const cmpool_namespace& space) : block_tokens_(space.block_tokens) {
    cmpool_pool* opened = nullptr;
    auto error = no_error();
    need(unlocked(error, [&](auto* told) { return cmpool_open(uri.c_str(), &space, &opened, told); }), error);
    handle_ = shared<cmpool_close>(opened);
}

std::shared_ptr<cmpool_pool> Pool::handle() const {
    if (!handle_) throw py::value_error("this pool is closed");
    return handle_;
}

Chain Pool::chain(const py::object& tokens) const {
    const auto pool = handle();
    std::vector<std::uint32_t> copy;
    if (PyObject_CheckBuffer(tokens.ptr()) != 0) {
        const auto array = py::reinterpret_borrow<py::buffer>(tokens).request();
        if (array.ndim != 1 || array.itemsize != 4 || (array.format != "I" && array.format != "i") ||
            (array.size > 1 && array.strides[0] != 4))
            throw py::value_error("expected tokens as a row of 32-bit integers, saw format " + array.format +
                                  " in " + std::to_string(array.ndim) + " dimensions");
        const auto* begin = static_cast<const std::uint32_t*>(array.ptr);
        copy.assign(begin, begin + array.size);
    } else {
        for (const auto& token : tokens) copy.push_back(token.cast<std::uint32_t>());
    }
    Chain chain;
    chain.keys.resize(block_tokens_ == 0 ? 0 : copy.size() / block_tokens_);
    std::size_t count = 0;
    auto error = no_error();
    need(unlocked(error,
                  [&](auto* told) {
                      return cmpool_chain(pool.get(), copy.data(), copy.size(), chain.keys.data(),
                                          chain.keys.size(), &count, told);
                  }),
         error);
    return chain;
}

py::bytes Pool::key(const py::object& own_key) const {
    const auto pool = handle();
    Buffers buffers;
    const auto& bytes = buffers.add(own_key, false);
    cmpool_digest key{};
    auto error = no_error();
    need(unlocked(error,
                  [&](auto* told) {
                      return cmpool_key(pool.get(), bytes.buf, static_cast<std::size_t>(bytes.len), &key,
                                        told);
                  }),
         error);
    return {reinterpret_cast<const char*>(key.bytes), sizeof key.bytes};
}

std::unique_ptr<Batch> Pool::gets(const py::object& keys, const py::sequence& into, std::size_t first) const {
    const Keys named(keys);
    named.check(into.size(), first);
    const auto pool = handle();
    auto batch = std::make_unique<Batch>();
    batch->read(into, true);
    std::size_t begin = 0;
    for (std::size_t at = 0; at < batch->ends.size(); ++at) {
        const auto position = static_cast<std::uint32_t>(first + at);
        batch->gets.push_back(
            {.size = sizeof(cmpool_get_item),
             .key = named[first + at],
             .into = batch->into.data() + begin,
             .into_count = batch->ends[at] - begin,
             .group = named.chain() ? cmpool_group(pool.get(), named.data(), position) : 0});
        begin = batch->ends[at];
    }
    return batch;
}

std::unique_ptr<Batch> Pool::puts(const py::object& keys, const py::sequence& from, std::size_t first,
                                  std::uint32_t cost_us) const {
    const Keys named(keys);
    named.check(from.size(), first);
    const auto pool = handle();
    auto batch = std::make_unique<Batch>();
    batch->read(from, false);
    std::size_t begin = 0;
    for (std::size_t at = 0; at < batch->ends.size(); ++at) {
        const auto position = static_cast<std::uint32_t>(first + at);
        batch->puts.push_back(
            {.size = sizeof(cmpool_put_item),
             .key = named[first + at],
             .parent = named.chain() && position > 0 ? named[position - 1] : cmpool_digest{},
             .from = batch->from.data() + begin,
             .from_count = batch->ends[at] - begin,
             .group = named.chain() ? cmpool_group(pool.get(), named.data(), position) : 0,
             .position = named.chain() ? position : 0,
             .cost_us = cost_us});
        begin = batch->ends[at];
    }
    return batch;
}

Lease Pool::match(const py::object& keys, const How& how) const {
    const auto pool = handle();
    const Keys named(keys);
    const auto options = how.options();
    cmpool_lease* lease = nullptr;
    std::size_t blocks = 0;
    auto error = no_error();
    const auto code = unlocked(error, [&](auto* told) {
        return cmpool_match(pool.get(), named.data(), named.size(), &options, &lease, &blocks, told);
    });
    return lease_of(lease, blocks, code, error);
}

Report Pool::get(const py::object& keys, const py::sequence& into, std::size_t first, const How& how) const {
    const auto pool = handle();
    const auto batch = gets(keys, into, first);
    const auto options = how.options();
    return report_of(batch->gets.size(), [&](auto* results, auto* told) {
        return cmpool_get(pool.get(), batch->gets.data(), batch->gets.size(), &options, results, told);
    });
}

Report Pool::put(const py::object& keys, const py::sequence& from, std::size_t first, std::uint32_t cost_us,
                 const How& how) const {
    const auto pool = handle();
    const auto batch = puts(keys, from, first, cost_us);
    const auto options = how.options();
    return report_of(batch->puts.size(), [&](auto* results, auto* told) {
        return cmpool_put(pool.get(), batch->puts.data(), batch->puts.size(), &options, results, told);
    });
}

Report Pool::exists(const py::object& keys, const How& how) const {
    const auto pool = handle();
    const Keys named(keys);
    const auto options = how.options();
    return report_of(named.size(), [&](auto* results, auto* told) {
        return cmpool_exists(pool.get(), named.data(), named.size(), &options, results, told);
    });
}

Report Pool::remove(const py::object& keys, const How& how) const {
    const auto pool = handle();
    const Keys named(keys);
    const auto options = how.options();
    return report_of(named.size(), [&](auto* results, auto* told) {
        return cmpool_remove(pool.get(), named.data(), named.size(), &options, results, told);
    });
}

std::unique_ptr<Call> Pool::start_match(const py::object& keys, const How& how) const {
    const auto pool = handle();
    const Keys named(keys);
    const auto options = how.options();
    cmpool_call* call = nullptr;
    auto error = no_error();
    const auto code = unlocked(error, [&](auto* told) {
        return cmpool_start_match(pool.get(), named.data(), named.size(), &options, &call, told);
    });
    return started(named.size(), true, nullptr, code, call, error);
}

std::unique_ptr<Call> Pool::start_get(const py::object& keys, const py::sequence& into, std::size_t first,
                                      const How& how) const {
    const auto pool = handle();
    auto batch = gets(keys, into, first);
    const std::size_t count = batch->gets.size();
    const auto options = how.options();
    cmpool_call* call = nullptr;
    auto error = no_error();
    const auto code = unlocked(error, [&](auto* told) {
        return cmpool_start_get(pool.get(), batch->gets.data(), count, &options, &call, told);
    });
    return started(count, false, std::move(batch), code, call, error);
}

std::unique_ptr<Call> Pool::start_put(const py::object& keys, const py::sequence& from, std::size_t first,
                                      std::uint32_t cost_us, const How& how) const {
    const auto pool = handle();
    auto batch = puts(keys, from, first, cost_us);
    const std::size_t count = batch->puts.size();
    const auto options = how.options();
    cmpool_call* call = nullptr;
    auto error = no_error();
    const auto code = unlocked(error, [&](auto* told) {
        return cmpool_start_put(pool.get(), batch->puts.data(), count, &options, &call, told);
    });
    return started(count, false, std::move(batch), code, call, error);
}

std::unique_ptr<Call> Pool::start_exists(const py::object& keys, const How& how) const {
    const auto pool = handle();
    const Keys named(keys);
    const auto options = how.options();
    cmpool_call* call = nullptr;
    auto error = no_error();
    const auto code = unlocked(error, [&](auto* told) {
        return cmpool_start_exists(pool.get(), named.data(), named.size(), &options, &call, told);
    });
    return started(named.size(), false, nullptr, code, call, error);
}

std::unique_ptr<Call> Pool::start_remove(const py::object& keys, const How& how) const {
    const auto pool = handle();
    const Keys named(keys);
    const auto options = how.options();
    cmpool_call* call = nullptr;
    auto error = no_error();
    const auto code = unlocked(error, [&](auto* told) {
        return cmpool_start_remove(pool.get(), named.data(), named.size(), &options, &call, told);
    });
    return started(named.size(), false, nullptr, code, call, error);
}

std::unique_ptr<Memory> Pool::register_memory(const py::object& memory) const {
    const auto pool = handle();
    auto made = std::make_unique<Memory>();
    const auto& bytes = made->buffers.add(memory, true);
    cmpool_memory* registered = nullptr;
    auto error = no_error();
    need(unlocked(error,
                  [&](auto* told) {
                      return cmpool_register(pool.get(), bytes.buf, static_cast<std::size_t>(bytes.len),
                                             &registered, told);
                  }),
         error);
    made->handle = shared<cmpool_unregister>(registered);
    return made;
}

py::dict Pool::stats(const How& how) const {
    const auto pool = handle();
    const auto options = how.options();
    cmpool_stats* stats = nullptr;
    auto error = no_error();
    need(unlocked(error, [&](auto* told) { return cmpool_read_stats(pool.get(), &options, &stats, told); }),
         error);
    const std::unique_ptr<cmpool_stats, decltype(&cmpool_stats_free)> owned(stats, cmpool_stats_free);
    py::dict all;
    cmpool_stat one{.size = sizeof one};
    for (std::size_t at = 0; cmpool_stats_at(stats, at, &one) == CMPOOL_OK; ++at) all[one.name] = one.value;
    return all;
}

py::dict Pool::status() const {
    const auto pool = handle();
    cmpool_status seen{.size = sizeof seen};
    auto error = no_error();
    const auto code =
        unlocked(error, [&](auto* told) { return cmpool_read_status(pool.get(), &seen, told); });
    py::dict status;
    status["ready"] = seen.ready != 0;
    status["trouble"] = code == CMPOOL_OK ? py::object(py::none()) : py::str(error.text);
    status["transport"] = seen.transport;
    status["kv"] = seen.kv;
    status["version"] = seen.version;
    status["node"] = seen.node;
    status["shards"] = seen.shards;
    status["shards_mapped"] = seen.shards_mapped;
    status["members"] = seen.members;
    status["members_ready"] = seen.members_ready;
    status["epoch"] = seen.epoch;
    return status;
}

int Pool::fileno() const {
    const auto pool = handle();
    int fd = -1;
    auto error = no_error();
    need(unlocked(error, [&](auto* told) { return cmpool_event_fd(pool.get(), &fd, told); }), error);
    return fd;
}

void Pool::progress() const {
    const auto pool = handle();
    auto error = no_error();
    need(unlocked(error, [&](auto* told) { return cmpool_progress(pool.get(), told); }), error);
}

}  // namespace cmpool::python
