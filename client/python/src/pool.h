#pragma once

#include "buffers.h"

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <cmpool.h>

namespace cmpool::python {

/// A code and a sentence, on their way to becoming an exception.
struct Failed {
    cmpool_code code;
    std::string text;
};

/// Keys of a token sequence's full blocks, root first: what places and orders each of them comes along.
struct Chain {
    std::vector<cmpool_digest> keys;
};

/// What became of a batch.
struct Report {
    std::vector<cmpool_result> blocks;
    cmpool_code code = CMPOOL_OK;
    std::string trouble;

    [[nodiscard]] std::size_t count(std::uint32_t outcome) const noexcept;
};

using LeaseHandle = std::shared_ptr<cmpool_lease>;

/// A run of present blocks. It is given back when it and the last of its views are gone.
struct Lease {
    LeaseHandle handle;
    std::size_t blocks = 0;
    cmpool_code code = CMPOOL_OK;
    std::string trouble;

    [[nodiscard]] py::memoryview view(std::size_t index, std::uint32_t part) const;
};

/// Memory of a pool, which its lease keeps.
struct View {
    LeaseHandle lease;
    cmpool_view bytes;
};

/// Memory that need not be told of at each call.
struct Memory {
    Buffers buffers;
    std::shared_ptr<cmpool_memory> handle;
};

/// A call that is on its way, and the memory of its blocks.
class Call {
public:
    Call(cmpool_call* handle, std::size_t count, bool match, std::unique_ptr<Batch> batch)
        : handle_(handle), count_(count), match_(match), batch_(std::move(batch)) {}
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;
    /// Waits, so that nobody writes to memory that is no longer held.
    ~Call();

    [[nodiscard]] bool done() const;
    void wait() const;
    /// A Report or a Lease, once it is done. Once.
    [[nodiscard]] py::object result();

private:
    cmpool_call* handle_;
    std::size_t count_;
    bool match_;
    std::unique_ptr<Batch> batch_;
};

/// How one call differs from usual.
struct How {
    std::optional<double> deadline;  ///< seconds
    std::uint32_t lease_ms = 0;
    bool lease = true;
    bool verify = false;

    [[nodiscard]] cmpool_options options() const;
};

/// A namespace of a pool. The interpreter's lock is not held while a call waits.
class Pool {
public:
    Pool(const std::string& uri, const cmpool_namespace& space);

    /// Nothing can be asked any more; it closes when the last call of another thread has returned.
    void close() { handle_.reset(); }
    [[nodiscard]] Chain chain(const py::object& tokens) const;
    [[nodiscard]] py::bytes key(const py::object& own_key) const;
    [[nodiscard]] Lease match(const py::object& keys, const How& how) const;
    [[nodiscard]] Report get(const py::object& keys, const py::sequence& into, std::size_t first,
                             const How& how) const;
    [[nodiscard]] Report put(const py::object& keys, const py::sequence& from, std::size_t first,
                             std::uint32_t cost_us, const How& how) const;
    [[nodiscard]] Report exists(const py::object& keys, const How& how) const;
    [[nodiscard]] Report remove(const py::object& keys, const How& how) const;
    [[nodiscard]] std::unique_ptr<Call> start_match(const py::object& keys, const How& how) const;
    [[nodiscard]] std::unique_ptr<Call> start_get(const py::object& keys, const py::sequence& into,
                                                  std::size_t first, const How& how) const;
    [[nodiscard]] std::unique_ptr<Call> start_put(const py::object& keys, const py::sequence& from,
                                                  std::size_t first, std::uint32_t cost_us,
                                                  const How& how) const;
    [[nodiscard]] std::unique_ptr<Call> start_exists(const py::object& keys, const How& how) const;
    [[nodiscard]] std::unique_ptr<Call> start_remove(const py::object& keys, const How& how) const;
    [[nodiscard]] std::unique_ptr<Memory> register_memory(const py::object& memory) const;
    [[nodiscard]] py::dict stats(const How& how) const;
    [[nodiscard]] py::dict status() const;
    [[nodiscard]] int fileno() const;
    void progress() const;

private:
    /// Errors: ValueError once it is closed.
    [[nodiscard]] std::shared_ptr<cmpool_pool> handle() const;
    [[nodiscard]] std::unique_ptr<Batch> gets(const py::object& keys, const py::sequence& into,
                                              std::size_t first) const;
    [[nodiscard]] std::unique_ptr<Batch> puts(const py::object& keys, const py::sequence& from,
                                              std::size_t first, std::uint32_t cost_us) const;

    std::shared_ptr<cmpool_pool> handle_;
    std::uint32_t block_tokens_ = 0;
};

}  // namespace cmpool::python
