#include "runtime_dir.h"
#include "shm_lane.h"
#include "shm_segment.h"
#include "stream_listener.h"

#include <cerrno>
#include <cstring>
#include <mutex>

#include <cmpool/transport/fabric.h>

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

namespace cmpool::transport {

namespace {

constexpr int kBacklog = 4096;

constexpr Caps kCaps{.one_sided = true,
                     .pull = true,
                     .ordered = true,
                     .exposes_pool = true,
                     .map = MapKind::Coherent,
                     .atomics = Atomics::Cpu,
                     .lane_depth = kLaneDepth,
                     .op_bytes_max = kOpBytesMax,
                     .head_bytes_max = kHeadBytesMax,
                     .payload_bytes_max = kPayloadBytesMax};

Result<sockaddr_un> socket_address(std::string_view path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.empty() || path.size() >= sizeof address.sun_path) {
        return fail(Errc::Invalid, "a socket's path has 1 to {} bytes, \"{}\" has {}: use a shorter folder",
                    sizeof address.sun_path - 1, path, path.size());
    }
    std::memcpy(address.sun_path, path.data(), path.size());
    return address;
}

const sockaddr* generic(const sockaddr_un& address) noexcept {
    return reinterpret_cast<const sockaddr*>(&address);
}

UniqueFd unix_socket() noexcept {
    return UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

// A socket's file outlives a process that died; whether somebody listens shows by asking.
Result<void> clear_stale(const sockaddr_un& address) {
    struct stat status {};
    if (::lstat(address.sun_path, &status) != 0) return {};
    if (!S_ISSOCK(status.st_mode)) {
        return fail(Errc::PeerDown, "cannot listen on {}: a file of that name is there", address.sun_path);
    }
    const UniqueFd probe = unix_socket();
    const bool answers = ::connect(probe.get(), generic(address), sizeof address) == 0 || errno == EAGAIN;
    if (answers) {
        return fail(Errc::PeerDown, "cannot listen on {}: another process does, address in use",
                    address.sun_path);
    }
    ::unlink(address.sun_path);
    return {};
}

PeerIdentity identify(int socket, std::string_view path) {
    PeerIdentity identity{.same_host = true, .address = std::string(path)};
    ucred who{};
    socklen_t bytes = sizeof who;
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &who, &bytes) == 0) {
        identity.uid = who.uid;
        if (who.pid > 0) identity.pid = who.pid;  // 0: a process number space that we cannot see
    }
    return identity;
}

class ShmFabric final : public Fabric {
public:
    ShmFabric(ShmOptions options, Entropy& entropy) : options_(std::move(options)), entropy_(entropy) {}

    [[nodiscard]] const Caps& caps() const noexcept override { return kCaps; }

    [[nodiscard]] Result<std::unique_ptr<Segment>> allocate(const SegmentSpec& spec) override {
        if (!allows(spec.access, Access::ReadWrite)) {
            if (auto ready = prepare_runtime_dir(options_.runtime_dir); !ready) return fail(ready.error());
        }
        return make_shm_segment(table_, options_.runtime_dir, spec, draw());
    }

    [[nodiscard]] Result<std::unique_ptr<Segment>> register_memory(MutableBytes memory,
                                                                   Access access) override {
        if (access != Access::Read) {
            return fail(Errc::Unsupported, "on shm a window into a process can only be read");
        }
        return make_shm_window(memory, draw());
    }

    [[nodiscard]] Result<std::unique_ptr<Listener>> listen(std::string_view path) override {
        auto address = socket_address(path);
        if (!address) return fail(address.error());
        if (auto ready = prepare_runtime_dir(options_.runtime_dir); !ready) return fail(ready.error());
        if (auto clear = clear_stale(*address); !clear) return fail(clear.error());
        UniqueFd socket = unix_socket();
        if (::bind(socket.get(), generic(*address), sizeof *address) != 0 ||
            ::chmod(address->sun_path, 0666) != 0 || ::listen(socket.get(), kBacklog) != 0) {
            return fail(Errc::PeerDown, "cannot listen on {}: {}", path, std::strerror(errno));
        }
        const std::string name(path);
        return std::make_unique<StreamListener>(
            std::move(socket), name,
            [this, name](UniqueFd incoming) { return welcome(std::move(incoming), name); }, name);
    }

    [[nodiscard]] Result<std::unique_ptr<Lane>> connect(std::string_view path) override {
        auto address = socket_address(path);
        if (!address) return fail(address.error());
        StreamPeer peer{.socket = unix_socket(),
                        .identity = {.same_host = true, .address = std::string(path)}};
        if (::connect(peer.socket.get(), generic(*address), sizeof *address) == 0) {
            peer.identity = identify(peer.socket.get(), path);
        } else {
            peer.absent =
                Error{Errc::PeerDown, fmt::format("nobody listens on {}: {}", path, std::strerror(errno))};
        }
        return std::make_unique<ShmLane>(std::move(peer), kCaps, table_, ShmTrust::Listener);
    }

private:
    std::unique_ptr<Lane> welcome(UniqueFd socket, const std::string& path) {
        auto identity = identify(socket.get(), path);
        const auto trust = identity.uid == ::geteuid() ? ShmTrust::Listener : ShmTrust::Stranger;
        return std::make_unique<ShmLane>(StreamPeer{std::move(socket), std::move(identity), std::nullopt},
                                         kCaps, table_, trust);
    }

    SegmentSecrets draw() {
        const std::scoped_lock lock(entropy_mutex_);
        const auto id = entropy_.next_u64();
        return {.id = id, .token = Token{entropy_.next_u64()}};
    }

    ShmOptions options_;
    Entropy& entropy_;
    std::mutex entropy_mutex_;  // an Entropy belongs to nobody, a fabric to every thread
    SegmentTable table_;
};

}  // namespace

std::unique_ptr<Fabric> open_shm(ShmOptions options, Entropy& entropy) {
    return std::make_unique<ShmFabric>(std::move(options), entropy);
}

}  // namespace cmpool::transport
