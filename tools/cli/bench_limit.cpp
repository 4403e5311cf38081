// What the machine itself can do at most: copies, probes of a table, a bare socket.
#include "bench.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <thread>

#include <cmpool/base/unique_fd.h>
#include <cmpool/base/units.h>
#include <cmpool/model/index_layout.h>

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace cmpool::cli {
namespace {

constexpr std::uint64_t kPageBytes = 4 * KiB;
constexpr std::size_t kSliceBytes = 64 * KiB;
/// Shorter runs take several calls, lest the clock be what is measured.
constexpr std::uint64_t kLongBytes = 64 * KiB;
constexpr std::uint32_t kCallsPerRun = 16;
constexpr std::uint32_t kProbesAhead = 16;

/// Bytes of a message besides payload: so much, and so much more for each block.
constexpr std::size_t kRequestBytes = 100;
constexpr std::size_t kRequestBlockBytes = 32;
constexpr std::size_t kReplyBytes = 64;

std::uint32_t calls_for(const BenchCase& row) { return row.call_bytes() < kLongBytes ? kCallsPerRun : 1; }

// ---- copies ----

using Copy = void (*)(std::byte*, const std::byte*, std::size_t);

void copy_plain(std::byte* to, const std::byte* from, std::size_t bytes) { std::memcpy(to, from, bytes); }

// The C library changes its way for large copies; slices keep it to the one for small.
void copy_sliced(std::byte* to, const std::byte* from, std::size_t bytes) {
    for (std::size_t at = 0; at < bytes; at += kSliceBytes)
        std::memcpy(to + at, from + at, std::min(kSliceBytes, bytes - at));
}

#if defined(__x86_64__)
// Stores that pass the caches by. Both ends begin on a page.
void copy_streamed(std::byte* to, const std::byte* from, std::size_t bytes) {
    constexpr std::size_t kStep = 4 * sizeof(__m128i);
    const std::size_t even = bytes / kStep * kStep;
    for (std::size_t at = 0; at < even; at += kStep) {
        const auto* source = reinterpret_cast<const __m128i*>(from + at);
        auto* target = reinterpret_cast<__m128i*>(to + at);
        const __m128i words[] = {_mm_loadu_si128(source), _mm_loadu_si128(source + 1),
                                 _mm_loadu_si128(source + 2), _mm_loadu_si128(source + 3)};
        for (int word = 0; word < 4; ++word) _mm_stream_si128(target + word, words[word]);
    }
    _mm_sfence();
    std::memcpy(to + even, from + even, bytes - even);
}
#endif

/// Blocks at random places of the pages to the buffer, or back for a put.
class CopyWork final : public Work {
public:
    CopyWork(const BenchCase& row, Copy copy, const SharedPages& pages, MutableBytes buffer)
        : row_(row),
          copy_(copy),
          pages_(pages.bytes()),
          buffer_(buffer),
          rng_(SystemEntropy().next_u64()),
          places_(static_cast<std::size_t>(calls_for(row)) * row.batch) {}
    void prepare() override {
        const std::uint64_t stride = round_up(row_.size, model::kUnitBytes);
        for (auto& place : places_) place = pages_.data() + rng_.below(pages_.size() / stride) * stride;
    }
    Result<void> run() override {
        for (std::size_t index = 0; index < places_.size(); ++index) {
            std::byte* ours = buffer_.data() + index % row_.batch * row_.size;
            if (row_.op == BenchOp::Put) {
                copy_(places_[index], ours, row_.size);
            } else {
                copy_(ours, places_[index], row_.size);
            }
        }
        return {};
    }
    [[nodiscard]] std::uint32_t calls() const noexcept override { return calls_for(row_); }

private:
    BenchCase row_;
    Copy copy_;
    MutableBytes pages_, buffer_;
    Rng rng_;
    std::vector<std::byte*> places_;
};

// ---- probes ----

/// One bucket for each block of a chain, independent of each other; from among as many as the pool holds.
class ProbeWork final : public Work {
public:
    /// `ahead`: how many buckets are asked for before the first is looked at.
    ProbeWork(const BenchCase& row, std::uint64_t blocks, std::uint32_t ahead, const SharedPages& pages)
        : table_(reinterpret_cast<const model::Bucket*>(pages.bytes().data()),
                 pages.bytes().size() / sizeof(model::Bucket)),
          batch_(row.batch),
          ahead_(std::min(ahead, row.batch)),
          rng_(SystemEntropy().next_u64()),
          held_(std::max<std::uint64_t>(blocks / row.batch, 1) * row.batch),
          wanted_(static_cast<std::size_t>(kCallsPerRun) * row.batch) {
        for (auto& word : held_) word = rng_.next();
    }
    void prepare() override {
        for (std::size_t first = 0; first < wanted_.size(); first += batch_) {
            const auto chain = std::span(held_).subspan(rng_.below(held_.size() / batch_) * batch_, batch_);
            std::copy(chain.begin(), chain.end(), wanted_.begin() + static_cast<std::ptrdiff_t>(first));
        }
    }
    Result<void> run() override {
        for (std::size_t first = 0; first < wanted_.size(); first += batch_)
            probe(std::span(wanted_).subspan(first, batch_));
        seen_ = found_;
        return {};
    }
    [[nodiscard]] std::uint32_t calls() const noexcept override { return kCallsPerRun; }

private:
    [[nodiscard]] const model::Bucket& bucket(std::uint64_t word) const {
        return table_[word & (table_.size() - 1)];
    }
    void probe(std::span<const std::uint64_t> chain) {
        // A call begins where the one before has ended: only its own probes overlap.
        const std::uint64_t before = found_;
        for (std::size_t at = 0; at < chain.size(); ++at) {
            if (ahead_ > 1 && at % ahead_ == 0) {
                for (std::size_t next = at; next < std::min(at + ahead_, chain.size()); ++next) {
                    const auto* line = reinterpret_cast<const std::byte*>(&bucket(chain[next] + before));
                    __builtin_prefetch(line);
                    __builtin_prefetch(line + sizeof(model::Bucket) / 2);
                }
            }
            const std::uint64_t word = chain[at] + before;
            for (const auto& slot : bucket(word).slots)
                found_ += static_cast<unsigned>(slot.tag_word == word) &
                          static_cast<unsigned>(slot.location_word != 0);  // no branch to guess
        }
    }

    std::span<const model::Bucket> table_;  // a power of two of them
    std::uint32_t batch_, ahead_;
    Rng rng_;
    std::vector<std::uint64_t> held_, wanted_;
    std::uint64_t found_ = 0;
    volatile std::uint64_t seen_ = 0;  // keeps the compiler from leaving it all out
};

// ---- a bare socket ----

bool send_all(int fd, Bytes bytes) {
    while (!bytes.empty()) {
        const auto sent = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) return false;
        bytes = bytes.subspan(static_cast<std::size_t>(sent));
    }
    return true;
}

bool receive_all(int fd, MutableBytes bytes) {
    while (!bytes.empty()) {
        const auto got = ::recv(fd, bytes.data(), bytes.size(), 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        bytes = bytes.subspan(static_cast<std::size_t>(got));
    }
    return true;
}

/// Two ends of one connection over 127.0.0.1.
struct SocketPair {
    UniqueFd near_end, far_end;
};

Result<SocketPair> connect_to_self() {
    const UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    SocketPair pair{.near_end = UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)), .far_end = {}};
    sockaddr_in address{.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t bytes = sizeof address;
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    const bool connected = listener && pair.near_end && ::bind(listener.get(), generic, bytes) == 0 &&
                           ::listen(listener.get(), 1) == 0 &&
                           ::getsockname(listener.get(), generic, &bytes) == 0 &&
                           ::connect(pair.near_end.get(), generic, bytes) == 0;
    if (connected) pair.far_end.reset(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!pair.far_end)
        return fail(Errc::PeerDown, "cannot connect to 127.0.0.1 for a bare socket's pace: {}",
                    std::strerror(errno));
    const int on = 1;
    for (const int fd : {pair.near_end.get(), pair.far_end.get()})
        ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return pair;
}

/// A request, then a reply, of as many bytes as the pool's; the far end is a thread, and its payload
/// lies where a pool's would.
class SocketWork final : public Work {
public:
    SocketWork(const BenchCase& row, SocketPair ends, const SharedPages& pages, MutableBytes buffer)
        : row_(row),
          ends_(std::move(ends)),
          pages_(pages.bytes()),
          payload_(buffer.first(row.op == BenchOp::Match ? 0 : row.call_bytes())),
          request_(kRequestBytes + std::size_t{kRequestBlockBytes} * row.batch),
          reply_(kReplyBytes),
          far_([this] { answer(); }) {}
    ~SocketWork() override { ::shutdown(ends_.near_end.get(), SHUT_RDWR); }
    void prepare() override {}
    Result<void> run() override {
        const int fd = ends_.near_end.get();
        const bool put = row_.op == BenchOp::Put;
        if (send_all(fd, request_) && (!put || send_all(fd, payload_)) &&
            receive_all(fd, row_.op == BenchOp::Get ? payload_ : MutableBytes(reply_)))
            return {};
        return fail(Errc::PeerDown, "the bare socket broke: {}", std::strerror(errno));
    }

private:
    void answer() {
        Rng rng(SystemEntropy().next_u64());
        std::vector<std::byte> request(request_.size());
        const std::vector<std::byte> reply(reply_.size());
        const int fd = ends_.far_end.get();
        while (receive_all(fd, request)) {
            const std::uint64_t stride = std::max<std::uint64_t>(payload_.size(), 1);
            const auto place = pages_.subspan(rng.below(pages_.size() / stride) * stride, payload_.size());
            if (row_.op == BenchOp::Put && !receive_all(fd, place)) return;
            if (!send_all(fd, row_.op == BenchOp::Get ? Bytes(place) : Bytes(reply))) return;
        }
    }

    BenchCase row_;
    SocketPair ends_;
    MutableBytes pages_, payload_;
    std::vector<std::byte> request_, reply_;
    std::jthread far_;  // last: it reads all of the above
};

}  // namespace

namespace {

/// A file without a name, where the pool's own lie: its pages are of the same kind. Elsewhere, where we may
/// not write there or there is no room.
UniqueFd open_pages(const std::string& folder, std::uint64_t bytes) {
    UniqueFd fd(::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (fd && ::fallocate(fd.get(), 0, 0, static_cast<off_t>(bytes)) == 0) return fd;
    fd.reset(::memfd_create("cmpool-bench", MFD_CLOEXEC));
    if (fd && ::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) fd.reset();
    return fd;
}

}  // namespace

Result<std::unique_ptr<SharedPages>> SharedPages::open(const std::string& folder, std::uint64_t bytes) {
    const UniqueFd fd = open_pages(folder, bytes);
    void* at = fd ? ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0) : MAP_FAILED;
    if (at == MAP_FAILED)
        return fail(Errc::NoCapacity, "cannot map {} to compare with: {}", format_bytes(bytes),
                    std::strerror(errno));
    ::madvise(at, bytes, MADV_HUGEPAGE);
    std::unique_ptr<SharedPages> pages(new SharedPages({static_cast<std::byte*>(at), bytes}));
    std::vector<std::uint64_t> block(MiB / sizeof(std::uint64_t));
    Rng rng(SystemEntropy().next_u64());
    for (auto& word : block) word = rng.next();
    const auto from = std::as_bytes(std::span(block));
    for (std::uint64_t done = 0; done < bytes; done += from.size())
        std::memcpy(pages->bytes_.data() + done, from.data(), std::min(from.size(), bytes - done));
    return pages;
}

SharedPages::~SharedPages() { ::munmap(bytes_.data(), bytes_.size()); }

std::uint64_t limit_bytes(const BenchCase& row, std::uint64_t blocks, std::uint64_t capacity_bytes) {
    if (row.op != BenchOp::Match)
        return round_up(round_up(row.size, model::kUnitBytes) * std::max<std::uint64_t>(blocks, row.batch),
                        kPageBytes);
    // As a pool sizes its index: blocks of one page would fill five eighths of the slots.
    const std::uint64_t slots = capacity_bytes / kPageBytes * 8 / 5;
    return std::max(std::bit_ceil(slots / model::kSlotsPerBucket + 1) * sizeof(model::Bucket), kPageBytes);
}

Result<std::vector<Contestant>> limit_work(const BenchCase& row, std::uint64_t blocks,
                                           const SharedPages& pages, MutableBytes buffer) {
    std::vector<Contestant> ways;
    if (row.sealed) {
        ways.push_back({Side::Limit, "aes-gcm", crypt_work(row, pages, buffer)});
        return ways;
    }
    if (row.transport == client::Transport::Tcp) {
        auto ends = connect_to_self();
        if (!ends) return fail(ends.error());
        ways.push_back(
            {Side::Limit, "socket", std::make_unique<SocketWork>(row, std::move(*ends), pages, buffer)});
    } else if (row.op == BenchOp::Match) {
        ways.push_back({Side::Limit, "probe", std::make_unique<ProbeWork>(row, blocks, 1, pages)});
        ways.push_back(
            {Side::Limit, "prefetch", std::make_unique<ProbeWork>(row, blocks, kProbesAhead, pages)});
    } else {
        ways.push_back({Side::Limit, "memcpy", std::make_unique<CopyWork>(row, copy_plain, pages, buffer)});
        if (row.size > kSliceBytes)
            ways.push_back(
                {Side::Limit, "sliced", std::make_unique<CopyWork>(row, copy_sliced, pages, buffer)});
#if defined(__x86_64__)
        if (row.size % sizeof(__m128i) == 0)
            ways.push_back(
                {Side::Limit, "streamed", std::make_unique<CopyWork>(row, copy_streamed, pages, buffer)});
#endif
    }
    return ways;
}

}  // namespace cmpool::cli
