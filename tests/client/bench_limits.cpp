// What the smallest rows of `cmpool-cli bench` cannot go below on this host, in as little code as shows it:
//
//   tcp   asking 160 bytes and hearing 4,240 over loopback, between two processes that do nothing else.
//         Where the scheduler puts them decides more than all code above: on one core, or on two, where
//         a sleeper has to be woken on the other one, or looks again and again (and yields in between).
//         Then, on one core, what no server of many clients and many blocks can leave out: it waits by epoll,
//         and finds each block as below; a client with a deadline waits by ppoll.
//   put   1 MiB over loopback on one core, answered by 144 bytes: into memory that is in the cache as in a
//         bare program; into a random place of many; and summed up by both ends, as who keeps it for others
//         must.
//   shm   4 KiB from random places of many: a page; a block that is not aligned to pages; the same found
//         by a cold line of an index, and believed after a look at its header: three misses in a row.
//
//   Usage  bench_limits [BLOCKS]   default 1,000,000, some 4.3 GB of shared memory
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include <cmpool/model/digest.h>

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

constexpr std::size_t kAskBytes = 160;
constexpr std::size_t kAnswerBytes = 4240;
constexpr std::size_t kBatch = 16;
constexpr std::size_t kLongBytes = 144 + kBatch * 4096;
constexpr int kTrips = 10'000;
constexpr int kPutTrips = 1'000;
constexpr int kRounds = 5;
constexpr std::size_t kPage = 4096;
constexpr std::size_t kHeader = 64;
constexpr std::size_t kHead = 144;  // of an answer
constexpr std::size_t kPut = std::size_t{1} << 20;
constexpr std::size_t kPiece = std::size_t{128} << 10;  // received at once, and summed up before it is cold
constexpr std::size_t kLine = 64;
constexpr int kCopies = 20'000;

std::int64_t now_ns() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

double median_us(std::vector<std::int64_t>& times) {
    const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
    std::nth_element(times.begin(), middle, times.end());
    return static_cast<double>(*middle) / 1000;
}

[[noreturn]] void give_up(const char* what) {
    std::perror(what);
    std::exit(1);
}

// ---- tcp ----

enum class Waits { Sleeping, Looking };

bool receive_all(int socket, std::size_t bytes, Waits waits) {
    static std::array<char, kLongBytes> buffer;
    for (std::size_t got = 0; got < bytes;) {
        const ssize_t more =
            ::recv(socket, buffer.data() + got, bytes - got, waits == Waits::Looking ? MSG_DONTWAIT : 0);
        if (more == 0) return false;
        if (more > 0) got += static_cast<std::size_t>(more);
        if (more < 0 && waits == Waits::Looking) ::sched_yield();
    }
    return true;
}

void send_all(int socket, std::size_t bytes) {
    static const std::array<char, kLongBytes> buffer{};
    for (std::size_t sent = 0; sent < bytes;) {
        const ssize_t more = ::send(socket, buffer.data() + sent, bytes - sent, MSG_NOSIGNAL);
        if (more < 0) give_up("send");
        sent += static_cast<std::size_t>(more);
    }
}

/// A core, or -1: wherever the scheduler likes.
void stay_on(int core) {
    if (core < 0) return;
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET(static_cast<std::size_t>(core), &cores);
    if (::sched_setaffinity(0, sizeof cores, &cores) != 0) give_up("sched_setaffinity");
}

/// The median time of a trip between two processes: what `trip` does here, while `serve` answers there.
template <class Serve, class Trip>
double between_processes_us(int asking_core, int answering_core, const Serve& serve, const Trip& trip,
                            int trips = kTrips) {
    const int door = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (::bind(door, reinterpret_cast<sockaddr*>(&address), size) != 0 || ::listen(door, 1) != 0 ||
        ::getsockname(door, reinterpret_cast<sockaddr*>(&address), &size) != 0)
        give_up("listen");
    const int yes = 1;
    const pid_t answering = ::fork();
    if (answering < 0) give_up("fork");
    if (answering == 0) {
        stay_on(answering_core);
        const int socket = ::accept(door, nullptr, nullptr);
        ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        serve(socket);
        ::_exit(0);
    }
    ::close(door);
    cpu_set_t before;
    ::sched_getaffinity(0, sizeof before, &before);
    stay_on(asking_core);
    const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
    ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (::connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) give_up("connect");
    std::vector<std::int64_t> times;
    for (int count = 0; count < trips; ++count) {
        const auto begin = now_ns();
        trip(socket);
        times.push_back(now_ns() - begin);
    }
    ::close(socket);
    ::waitpid(answering, nullptr, 0);
    ::sched_setaffinity(0, sizeof before, &before);
    return median_us(times);
}

double round_trip_us(int asking_core, int answering_core, Waits waits, std::size_t answer = kAnswerBytes) {
    return between_processes_us(
        asking_core, answering_core,
        [&](int socket) {
            while (receive_all(socket, kAskBytes, waits)) send_all(socket, answer);
        },
        [&](int socket) {
            send_all(socket, kAskBytes);
            if (!receive_all(socket, answer, waits)) give_up("receive");
        });
}

// ---- shm ----

std::byte* shared(std::size_t bytes) {
    const int file = ::memfd_create("limits", MFD_CLOEXEC);
    if (file < 0 || ::ftruncate(file, static_cast<off_t>(bytes)) != 0) give_up("memfd");
    void* const memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED) give_up("mmap");
    ::close(file);
    std::memset(memory, 1, bytes);
    return static_cast<std::byte*>(memory);
}

std::uint64_t load(const std::byte* from) {
    std::uint64_t word = 0;
    std::memcpy(&word, from, sizeof word);
    // What follows waits for it, as it does for a digest that has to be compared.
    asm volatile("lfence" : "+r"(word)::"memory");
    return word;
}

class Blocks {
public:
    explicit Blocks(std::size_t count)
        : count_(count),
          lines_(count * 8 / 5 * 16 / kLine),
          data_(shared(count * (kHeader + kPage))),
          index_(shared(lines_ * kLine)) {}

    double page_us() {
        return each([this](std::size_t block, std::size_t) { copy(data_ + block * kPage); });
    }
    double block_us() {
        return each(
            [this](std::size_t block, std::size_t) { copy(data_ + block * (kHeader + kPage) + kHeader); });
    }
    double found_us() {
        return each([this](std::size_t block, std::size_t line) {
            const std::byte* at = data_ + block * (kHeader + kPage);
            at += load(index_ + line * kLine) & 0;
            at += load(at) & 0;
            copy(at + kHeader);
            (void)load(index_ + line * kLine);
        });
    }

    /// A get of so many blocks from a server on the same core.
    double served_us(std::size_t batch) {
        return between_processes_us(
            0, 0, [&](int socket) { serve(socket, batch); },
            [&](int socket) {
                send_all(socket, kAskBytes);
                pollfd wait{socket, POLLIN, 0};
                const timespec limit{.tv_sec = 1, .tv_nsec = 0};
                std::array<iovec, kBatch + 1> into;
                static std::array<char, kLongBytes> answer;
                const std::size_t bytes = kHead + batch * kPage;
                for (std::size_t got = 0; got < bytes;) {
                    if (::ppoll(&wait, 1, &limit, nullptr) < 0) give_up("ppoll");
                    std::size_t count = 0;
                    for (std::size_t at = got; at < bytes;) {
                        const std::size_t end = at < kHead ? kHead : at - (at - kHead) % kPage + kPage;
                        into[count++] = {answer.data() + at, end - at};
                        at = end;
                    }
                    const ssize_t more = ::readv(socket, into.data(), static_cast<int>(count));
                    if (more <= 0) give_up("readv");
                    got += static_cast<std::size_t>(more);
                }
            });
    }

    /// A put of 1 MiB to a server on the same core.
    double put_us(bool anywhere, bool summed) {
        return between_processes_us(
            0, 0, [&](int socket) { take(socket, anywhere, summed); },
            [&](int socket) {
                const std::byte* from = data_;
                for (std::size_t sent = 0; sent < kPut;) {
                    const ssize_t more = ::send(socket, from + sent, kPut - sent, MSG_NOSIGNAL);
                    if (more < 0) give_up("send");
                    sent += static_cast<std::size_t>(more);
                }
                if (summed) sum_ ^= cmpool::model::checksum({from, kPut});
                if (!receive_all(socket, kHead, Waits::Sleeping)) give_up("receive");
            },
            kPutTrips);
    }

private:
    // A process that was forked has yet to map each page of what it shares: a server has done so long ago.
    void map() const {
        for (const auto& [memory, bytes] :
             {std::pair(data_, count_ * (kHeader + kPage)), std::pair(index_, lines_ * kLine)}) {
            if (::madvise(memory, bytes, MADV_POPULATE_WRITE) != 0) give_up("madvise");
        }
    }

    void take(int socket, bool anywhere, bool summed) {
        map();
        for (;;) {
            std::byte* const into = data_ + (anywhere ? random_() % (count_ - kPut / kPage) : 0) * kPage;
            for (std::size_t got = 0; got < kPut;) {
                const ssize_t more = ::recv(socket, into + got, std::min(kPiece, kPut - got), 0);
                if (more <= 0) return;
                if (summed) sum_ ^= cmpool::model::checksum({into + got, static_cast<std::size_t>(more)});
                got += static_cast<std::size_t>(more);
            }
            send_all(socket, kHead);
        }
    }

    // What lies far apart is on its way at once.
    void serve(int socket, std::size_t batch) {
        map();
        const int set = ::epoll_create1(0);
        epoll_event event{.events = EPOLLIN, .data = {}};
        ::epoll_ctl(set, EPOLL_CTL_ADD, socket, &event);
        static std::array<char, kHead> head{};
        while (::epoll_wait(set, &event, 1, 1000) >= 0) {
            if (!receive_all(socket, kAskBytes, Waits::Sleeping)) return;
            std::array<iovec, kBatch + 1> from;
            from[0] = {head.data(), head.size()};
            std::array<const std::byte*, kBatch> lines;
            std::array<std::byte*, kBatch> blocks;
            for (std::size_t at = 0; at < batch; ++at) {
                lines[at] = index_ + random_() % lines_ * kLine;
                __builtin_prefetch(lines[at]);
            }
            for (std::size_t at = 0; at < batch; ++at) {
                blocks[at] = data_ + random_() % count_ * (kHeader + kPage) + (load(lines[at]) & 0);
                __builtin_prefetch(blocks[at]);
            }
            for (std::size_t at = 0; at < batch; ++at)
                from[at + 1] = {blocks[at] + (load(blocks[at]) & 0) + kHeader, kPage};
            msghdr message{};
            message.msg_iov = from.data();
            message.msg_iovlen = batch + 1;
            if (::sendmsg(socket, &message, MSG_NOSIGNAL) != static_cast<ssize_t>(kHead + batch * kPage))
                give_up("sendmsg");
        }
    }

    template <class Do>
    double each(const Do& work) {
        std::vector<std::int64_t> times;
        for (int round = 0; round < kCopies; ++round) {
            const std::size_t block = random_() % count_;
            const std::size_t line = random_() % lines_;
            const auto begin = now_ns();
            work(block, line);
            times.push_back(now_ns() - begin);
        }
        return median_us(times);
    }
    void copy(const std::byte* from) {
        std::memcpy(page_.data(), from, kPage);
        asm volatile("" ::"r"(page_.data()) : "memory");
    }

    std::size_t count_;
    std::size_t lines_;
    std::byte* data_;
    std::byte* index_;
    std::array<std::byte, kPage> page_;
    std::uint64_t sum_ = 0;
    std::mt19937_64 random_{1};
};

/// The median of interleaved rounds: this host has other work too.
void print(const std::vector<std::pair<const char*, std::function<double()>>>& rows) {
    std::vector<std::vector<double>> seen(rows.size());
    for (int round = 0; round < kRounds; ++round) {
        for (std::size_t row = 0; row < rows.size(); ++row) seen[row].push_back(rows[row].second());
    }
    for (std::size_t row = 0; row < rows.size(); ++row) {
        std::sort(seen[row].begin(), seen[row].end());
        std::printf("%-58s %7.2f us  (%.2f to %.2f)\n", rows[row].first, seen[row][kRounds / 2],
                    seen[row].front(), seen[row].back());
    }
}

}  // namespace

int main(int count, char** words) {
    const std::size_t blocks = count > 1 ? std::strtoull(words[1], nullptr, 10) : 1'000'000;
    if (blocks <= kPut / kPage)
        return std::fprintf(stderr, "expected more than %zu blocks, saw %s\n", kPut / kPage, words[1]), 2;
    print({{"tcp, sleeping, wherever the scheduler likes",
            [] { return round_trip_us(-1, -1, Waits::Sleeping); }},
           {"tcp, sleeping, one core", [] { return round_trip_us(0, 0, Waits::Sleeping); }},
           {"tcp, sleeping, two cores", [] { return round_trip_us(0, 1, Waits::Sleeping); }},
           {"tcp, looking again and again, one core", [] { return round_trip_us(0, 0, Waits::Looking); }},
           {"tcp, looking again and again, two cores", [] { return round_trip_us(0, 1, Waits::Looking); }}});
    Blocks memory(blocks);
    print({{"tcp, one core, from warm memory", [] { return round_trip_us(0, 0, Waits::Sleeping); }},
           {"tcp, one core, epoll, a block that was found", [&] { return memory.served_us(1); }},
           {"tcp, one core, 16 x 4 KiB from warm memory",
            [] { return round_trip_us(0, 0, Waits::Sleeping, kLongBytes); }},
           {"tcp, one core, epoll, 16 blocks that were found", [&] { return memory.served_us(kBatch); }}});
    print({{"tcp, one core, put 1 MiB into warm memory", [&] { return memory.put_us(false, false); }},
           {"tcp, one core, put 1 MiB anywhere", [&] { return memory.put_us(true, false); }},
           {"tcp, one core, put 1 MiB anywhere, summed up by both",
            [&] { return memory.put_us(true, true); }}});
    print({{"shm, a page", [&] { return memory.page_us(); }},
           {"shm, a block behind its header", [&] { return memory.block_us(); }},
           {"shm, index line, then header, then block", [&] { return memory.found_us(); }}});
}
