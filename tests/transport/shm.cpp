// What shared memory promises beyond the contract: who may touch what, and what a death leaves.
#include "net.h"

#include <filesystem>
#include <fstream>

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace cmpool;
using namespace cmpool::testing;
using namespace std::chrono_literals;

namespace {

constexpr uid_t kNobody = 65534;

struct Folder {
    Folder() {
        char name[] = "/dev/shm/cmpool-test-XXXXXX";
        path = ::mkdtemp(name);
        ::chmod(path.c_str(), 0711);
    }
    ~Folder() { std::filesystem::remove_all(path); }
    [[nodiscard]] std::string socket() const { return path + "/socket"; }
    std::string path;
};

/// A pool process's side, in this process.
struct Owner {
    explicit Owner(std::string runtime_dir) {
        fabric = open_shm({.runtime_dir = std::move(runtime_dir)}, entropy);
    }
    std::unique_ptr<Segment> make(Access access, std::uint64_t bytes = 64 * KiB) {
        auto segment =
            fabric->allocate({.bytes = bytes, .access = access, .prefault = true, .name = "a/b c"});
        REQUIRE_MESSAGE(segment, (segment ? "" : segment.error().detail));
        std::fill((*segment)->bytes().begin(), (*segment)->bytes().end(), std::byte{0x5a});
        return std::move(*segment);
    }
    /// Answers whoever connects, until `pid` has exited; its exit code.
    int serve(const std::string& socket, pid_t pid) {
        auto listener = fabric->listen(socket);
        REQUIRE(listener);
        return serve(**listener, pid);
    }
    int serve(Listener& listener, pid_t pid) {
        std::vector<std::unique_ptr<End>> ends;
        int status = 0;
        while (::waitpid(pid, &status, WNOHANG) == 0) {
            std::vector<pollfd> waits{{listener.event_fd(), POLLIN, 0}};
            for (const auto& end : ends) waits.push_back({end->lane().event_fd(), POLLIN, 0});
            ::poll(waits.data(), waits.size(), 5);
            if (auto lane = listener.accept()) ends.push_back(std::make_unique<End>(std::move(*lane)));
            for (const auto& end : ends) end->pump();
            std::erase_if(ends, [](const auto& end) { return end->down.has_value(); });
        }
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }

    SystemEntropy entropy;
    std::unique_ptr<Fabric> fabric;
};

/// In a child: an import, waited for without a test framework. Null when refused.
std::unique_ptr<RemoteSegment> import_quietly(Lane& lane, const Descriptor& descriptor, Token token) {
    struct Deaf final : Receiver {
        void place(Lane&, Bytes, std::uint64_t, std::vector<MutableBytes>&) override {}
        void message(Lane&, Bytes, std::uint64_t) override {}
    } deaf;
    if (!lane.import(descriptor, token, 1)) return nullptr;
    Completion done;
    while (lane.poll({&done, 1}) == 0) {
        pollfd wait{lane.event_fd(), POLLIN, 0};
        ::poll(&wait, 1, 1000);
        if (!lane.receive(deaf)) return nullptr;
    }
    return done.error ? nullptr : lane.imported(1);
}

/// The descriptor of the one file of cmpool that this process holds, found by its name.
int imported_fd(const char* part) {
    for (int fd = 3; fd < 256; ++fd) {
        char target[512] = {};
        const auto link = "/proc/self/fd/" + std::to_string(fd);
        if (::readlink(link.c_str(), target, sizeof target - 1) > 0 && std::strstr(target, part) != nullptr) {
            return fd;
        }
    }
    return -1;
}

/// Runs `body` in a child and gives its exit code; `parent` runs meanwhile.
pid_t child(const std::function<int()>& body) {
    const pid_t pid = ::fork();
    REQUIRE(pid >= 0);
    if (pid == 0) ::_exit(body());
    return pid;
}

bool root_or_skip() {
    if (::geteuid() == 0) return true;
    MESSAGE("skipped: only root can become another uid");
    return false;
}

/// Forks a client of another uid before the owner's segment exists in its memory: what it knows comes
/// through a pipe, as it would in life.
struct Secrets {
    Descriptor descriptor;
    Token token;
};

int as_nobody(const std::string& socket, int from, const std::function<int(Lane&, const Secrets&)>& body) {
    std::array<std::byte, 64> raw{};
    const ssize_t got = ::read(from, raw.data(), raw.size());
    Secrets secrets;
    std::memcpy(&secrets.token.value, raw.data(), 8);
    secrets.descriptor.bytes.assign(raw.begin() + 8, raw.begin() + got);
    for (int fd = 3; fd < 256; ++fd) ::close(fd);
    if (::setgid(kNobody) != 0 || ::setuid(kNobody) != 0) return 90;
    SystemEntropy entropy;
    auto fabric = open_shm({}, entropy);
    auto lane = fabric->connect(socket);
    if (!lane) return 91;
    return body(**lane, secrets);
}

int run_as_nobody(Access access, const std::function<int(Lane&, const Secrets&)>& body) {
    Folder folder;
    int pipe[2];
    REQUIRE(::pipe(pipe) == 0);
    // The child connects when the secrets have come, so the listener is there by then.
    const pid_t pid = child([&] { return as_nobody(folder.socket(), pipe[0], body); });
    Owner owner(folder.path);
    auto listener = owner.fabric->listen(folder.socket());
    REQUIRE(listener);
    auto segment = owner.make(access);
    std::vector<std::byte> raw(8);
    const auto token = segment->token().value;
    std::memcpy(raw.data(), &token, 8);
    raw.insert(raw.end(), segment->descriptor().bytes.begin(), segment->descriptor().bytes.end());
    REQUIRE(::write(pipe[1], raw.data(), raw.size()) == static_cast<ssize_t>(raw.size()));
    const int code = owner.serve(**listener, pid);
    ::close(pipe[0]);
    ::close(pipe[1]);
    if (access == Access::Read) CHECK(segment->bytes()[0] == std::byte{0x5a});
    return code;
}

}  // namespace

TEST_CASE("another uid imports what its token opens, and reads it") {
    if (!root_or_skip()) return;
    CHECK(run_as_nobody(Access::Read, [](Lane& lane, const Secrets& secrets) {
              if (lane.peer().uid != 0) return 1;
              auto remote = import_quietly(lane, secrets.descriptor, secrets.token);
              if (!remote) return 2;
              auto mapped = remote->map();
              return mapped && (*mapped)[0] == std::byte{0x5a} ? 0 : 3;
          }) == 0);
}

TEST_CASE("another uid imports nothing without the token") {
    if (!root_or_skip()) return;
    CHECK(run_as_nobody(Access::Read, [](Lane& lane, const Secrets& secrets) {
              return import_quietly(lane, secrets.descriptor, Token{secrets.token.value + 1}) ? 1 : 0;
          }) == 0);
}

TEST_CASE("another uid cannot turn a segment it reads into one it writes") {
    if (!root_or_skip()) return;
    CHECK(run_as_nobody(Access::Read, [](Lane& lane, const Secrets& secrets) {
              auto remote = import_quietly(lane, secrets.descriptor, secrets.token);
              const int fd = imported_fd("segment-");
              if (!remote || fd < 0) return 1;
              const auto link = "/proc/self/fd/" + std::to_string(fd);
              if (::open(link.c_str(), O_RDWR) >= 0) return 2;
              if (::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED) return 3;
              void* view = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 0);
              if (view == MAP_FAILED) return 4;
              if (::mprotect(view, 4096, PROT_READ | PROT_WRITE) == 0) return 5;
              if (::ftruncate(fd, 0) == 0 || ::write(fd, "x", 1) >= 0) return 6;
              if (::fchmod(fd, 0666) == 0) return 7;
              return 0;
          }) == 0);
}

TEST_CASE("a segment that peers write cannot be shrunk under its owner") {
    if (!root_or_skip()) return;
    CHECK(run_as_nobody(Access::ReadWrite, [](Lane& lane, const Secrets& secrets) {
              auto remote = import_quietly(lane, secrets.descriptor, secrets.token);
              const int fd = imported_fd("memfd:cmpool-");
              if (!remote || fd < 0) return 1;
              auto mapped = remote->map();
              if (!mapped) return 2;
              (*mapped)[0] = std::byte{1};
              if (::ftruncate(fd, 0) == 0 || ::ftruncate(fd, 1 << 30) == 0) return 3;
              return ::fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) == 0 ? 4 : 0;
          }) == 0);
}

TEST_CASE("another uid cannot read a window into a process of root") {
    if (!root_or_skip()) return;
    Folder folder;
    static std::array<std::byte, 64> secret{std::byte{42}};
    int pipe[2];
    REQUIRE(::pipe(pipe) == 0);
    const pid_t pid = child([&] {
        return as_nobody(folder.socket(), pipe[0], [](Lane& lane, const Secrets& secrets) {
            auto remote = import_quietly(lane, secrets.descriptor, secrets.token);
            if (!remote) return 1;
            std::byte byte{0};
            const MutableBytes scatter[] = {MutableBytes(&byte, 1)};
            const Op read{.kind = OpKind::Read, .remote = remote.get(), .scatter = scatter};
            Completion done;
            if (!lane.post({&read, 1}) || lane.poll({&done, 1}) != 1) return 2;
            return done.error == Errc::Denied && byte == std::byte{0} ? 0 : 3;
        });
    });
    Owner owner(folder.path);
    auto listener = owner.fabric->listen(folder.socket());
    REQUIRE(listener);
    auto window = owner.fabric->register_memory(secret, Access::Read);
    REQUIRE(window);
    std::vector<std::byte> raw(8);
    raw.insert(raw.end(), (*window)->descriptor().bytes.begin(), (*window)->descriptor().bytes.end());
    REQUIRE(::write(pipe[1], raw.data(), raw.size()) == static_cast<ssize_t>(raw.size()));
    CHECK(owner.serve(**listener, pid) == 0);
    ::close(pipe[0]);
    ::close(pipe[1]);
}

TEST_CASE("mapped bytes of an owner that was killed stay readable, and its folder can be cleaned") {
    Folder folder;
    int ready[2], go[2];
    REQUIRE(::pipe(ready) == 0);
    REQUIRE(::pipe(go) == 0);
    const pid_t owner_pid = child([&] {
        SystemEntropy entropy;
        auto fabric = open_shm({.runtime_dir = folder.path}, entropy);
        auto segment = fabric->allocate({.bytes = 4096, .access = Access::Read, .name = "left"});
        auto listener = fabric->listen(folder.socket());
        if (!segment || !listener) return 1;
        (*segment)->bytes()[7] = std::byte{77};
        const auto token = (*segment)->token().value;
        if (::write(ready[1], &token, 8) != 8) return 2;
        const auto& bytes = (*segment)->descriptor().bytes;
        if (::write(ready[1], bytes.data(), bytes.size()) < 0) return 3;
        std::unique_ptr<Lane> lane;
        struct Deaf final : Receiver {
            void place(Lane&, Bytes, std::uint64_t, std::vector<MutableBytes>&) override {}
            void message(Lane&, Bytes, std::uint64_t) override {}
        } deaf;
        for (;;) {  // until it is killed
            pollfd wait{lane ? lane->event_fd() : (*listener)->event_fd(), POLLIN, 0};
            ::poll(&wait, 1, 1000);
            if (lane) {
                (void)lane->receive(deaf);
            } else if (auto incoming = (*listener)->accept()) {
                lane = std::move(*incoming);
            }
        }
    });
    Token token;
    Descriptor descriptor{std::vector<std::byte>(33)};
    REQUIRE(::read(ready[0], &token.value, 8) == 8);
    REQUIRE(::read(ready[0], descriptor.bytes.data(), descriptor.bytes.size()) == 33);
    SystemEntropy entropy;
    auto fabric = open_shm({}, entropy);
    auto lane = fabric->connect(folder.socket());
    REQUIRE(lane);
    auto remote = import_quietly(**lane, descriptor, token);
    REQUIRE(remote);
    auto mapped = remote->map();
    REQUIRE(mapped);
    ::kill(owner_pid, SIGKILL);
    ::waitpid(owner_pid, nullptr, 0);
    End end(std::move(*lane));
    pollfd wait{end.lane().event_fd(), POLLIN, 0};
    REQUIRE(::poll(&wait, 1, 10'000) == 1);  // the death wakes us
    end.pump();
    REQUIRE(end.down);
    CHECK(end.down->code == Errc::PeerDown);
    CHECK((*mapped)[7] == std::byte{77});
    // The next owner takes the address over and the dead one's files away, but not what is still read.
    Owner next(folder.path);
    CHECK(next.fabric->listen(folder.socket()));
    const std::ofstream half(folder.path + "/segment-1-of-one-that-died-while-it-made-it");
    CHECK(remove_stale_segments(folder.path) == 1);
    CHECK((*mapped)[7] == std::byte{77});
    CHECK(remove_stale_segments(folder.path) == 0);
    for (const int fd : {ready[0], ready[1], go[0], go[1]}) ::close(fd);
}

// Whoever cut it short would kill all that have it mapped, by SIGBUS.
TEST_CASE("a segment file is 0600 and known to descriptors alone: no name leads to it") {
    Folder folder;
    Owner owner(folder.path);
    auto segment = owner.make(Access::Read);
    CHECK(std::filesystem::is_empty(folder.path));
    const int fd = imported_fd("a_b_c");  // its name without slashes, for people who look at a process
    REQUIRE(fd >= 0);
    struct stat status {};
    REQUIRE(::fstat(fd, &status) == 0);
    CHECK((status.st_mode & 0777) == 0600);
    CHECK(status.st_nlink == 0);
    segment.reset();
    CHECK(imported_fd("a_b_c") == -1);
}

TEST_CASE("a runtime folder that others can write to is refused with what to change") {
    Folder folder;
    ::chmod(folder.path.c_str(), 0777);
    Owner owner(folder.path);
    const auto refused = owner.fabric->allocate({.bytes = 4096});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == Errc::Denied);
    CHECK(refused.error().detail.find("chmod") != std::string::npos);
    ::chmod(folder.path.c_str(), 0711);
    CHECK(owner.fabric->allocate({.bytes = 4096}));
    // One that is missing is made so that others reach a socket in it and list nothing.
    Owner fresh(folder.path + "/made");
    CHECK(fresh.fabric->allocate({.bytes = 4096}));
    struct stat status {};
    REQUIRE(::stat((folder.path + "/made").c_str(), &status) == 0);
    CHECK((status.st_mode & 0777) == 0711);
}

TEST_CASE("memory that the machine does not have is refused, not promised") {
    Folder folder;
    Owner owner(folder.path);
    const auto refused = owner.fabric->allocate({.bytes = 1ull << 45, .prefault = true});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == Errc::NoCapacity);
    CHECK(std::filesystem::is_empty(folder.path));
    CHECK(owner.fabric->allocate({.bytes = 0}).error().code == Errc::Invalid);
}

TEST_CASE("a socket's path that is too long is refused with its length") {
    Folder folder;
    Owner owner(folder.path);
    const auto refused = owner.fabric->listen(folder.path + "/" + std::string(200, 's'));
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == Errc::Invalid);
    CHECK(refused.error().detail.find("107") != std::string::npos);
}

TEST_CASE("a file that is no socket is never removed to listen in its place") {
    Folder folder;
    Owner owner(folder.path);
    std::ofstream(folder.socket()) << "precious";
    CHECK_FALSE(owner.fabric->listen(folder.socket()));
    CHECK(std::filesystem::file_size(folder.socket()) == 8);
}
