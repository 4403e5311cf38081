#include "verbs_device.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <cmpool/base/units.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <netinet/in.h>
#include <sys/socket.h>

namespace cmpool::transport {

namespace {

constexpr std::uint32_t kQueueDepth = 128;
constexpr std::uint32_t kPiecesMax = 16;
constexpr std::uint32_t kReadsMax = 16;
constexpr std::uint64_t kSliceBytes = 1 * MiB;
constexpr std::size_t kNamesMax = 1024;

using Gid = std::array<std::uint8_t, 16>;

Gid gid_of(const TcpAddress& address) noexcept {
    Gid gid{};
    if (address.storage.ss_family == AF_INET6) {
        const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address.storage);
        std::memcpy(gid.data(), &v6.sin6_addr, gid.size());
    } else {
        const auto& v4 = reinterpret_cast<const sockaddr_in&>(address.storage);
        gid[10] = gid[11] = 0xff;
        std::memcpy(gid.data() + 12, &v4.sin_addr, 4);
    }
    return gid;
}

bool holds_v4(const Gid& gid) noexcept {
    return std::all_of(gid.begin(), gid.begin() + 10, [](auto byte) { return byte == 0; }) &&
           gid[10] == 0xff && gid[11] == 0xff;
}

std::string text_of(const Gid& gid) {
    std::array<char, INET6_ADDRSTRLEN> text{};
    const bool v4 = holds_v4(gid);
    ::inet_ntop(v4 ? AF_INET : AF_INET6, gid.data() + (v4 ? 12 : 0), text.data(), text.size());
    return text.data();
}

const char* name_of_type(std::uint32_t type) noexcept {
    switch (type) {
        case IBV_GID_TYPE_ROCE_V2:
            return "RoCE v2";
        case IBV_GID_TYPE_ROCE_V1:
            return "RoCE v1";
        default:
            return "InfiniBand";
    }
}

// Of several names of a port: one that routers know before one that stays on the cable, an address that
// people know before one that is made of the hardware's.
int rank(const ibv_gid_entry& entry) noexcept {
    Gid gid;
    std::memcpy(gid.data(), entry.gid.raw, gid.size());
    return (entry.gid_type == IBV_GID_TYPE_ROCE_V1 ? 0 : 2) + (holds_v4(gid) ? 1 : 0);
}

}  // namespace

Result<std::vector<std::unique_ptr<VerbsDevice>>> VerbsDevice::open_all() {
    int count = 0;
    ibv_device** list = ::ibv_get_device_list(&count);
    if (list == nullptr && errno == ENOSYS)
        return fail(Errc::Unsupported, "no RDMA device on this host: its kernel has no ib_uverbs loaded");
    if (list == nullptr) return fail(Errc::Denied, "cannot list RDMA devices: {}", std::strerror(errno));
    std::vector<std::unique_ptr<VerbsDevice>> all;
    std::string trouble;
    for (int at = 0; at < count; ++at) {
        ibv_context* context = ::ibv_open_device(list[at]);
        ibv_pd* domain = context == nullptr ? nullptr : ::ibv_alloc_pd(context);
        if (domain == nullptr) {
            trouble +=
                fmt::format("; cannot open {}: {}", ::ibv_get_device_name(list[at]), std::strerror(errno));
            if (context != nullptr) ::ibv_close_device(context);
            continue;
        }
        all.push_back(std::unique_ptr<VerbsDevice>(new VerbsDevice(context, domain, all.size())));
    }
    ::ibv_free_device_list(list);
    if (all.empty()) return fail(Errc::Unsupported, "no RDMA device on this host{}", trouble);
    return all;
}

VerbsDevice::VerbsDevice(ibv_context* context, ibv_pd* domain, std::size_t index)
    : context_(context), domain_(domain), index_(index), name_(::ibv_get_device_name(context->device)) {
    ibv_device_attr device{};
    ::ibv_query_device(context_, &device);
    ports_ = device.phys_port_cnt;
    std::uint64_t message_max = kSliceBytes;
    for (std::uint8_t port = 1; port <= ports_; ++port) {
        ibv_port_attr attributes{};
        if (::ibv_query_port(context_, port, &attributes) != 0) continue;
        message_max = std::min<std::uint64_t>(message_max, attributes.max_msg_sz);
    }
    limits_ = {.queue_depth = std::min(kQueueDepth, static_cast<std::uint32_t>(device.max_qp_wr)),
               .pieces_max = std::min(kPiecesMax, static_cast<std::uint32_t>(device.max_sge)),
               .reads_max = static_cast<std::uint8_t>(
                   std::min<std::uint32_t>({kReadsMax, static_cast<std::uint32_t>(device.max_qp_rd_atom),
                                            static_cast<std::uint32_t>(device.max_qp_init_rd_atom)})),
               .slice_bytes = message_max & ~std::uint64_t{7},
               .windows = (device.device_cap_flags & IBV_DEVICE_MEM_WINDOW_TYPE_2B) != 0 && device.max_mw > 0,
               .atomics = device.atomic_cap != IBV_ATOMIC_NONE};
    ::fcntl(context_->async_fd, F_SETFL, ::fcntl(context_->async_fd, F_GETFL) | O_NONBLOCK);
}

VerbsDevice::~VerbsDevice() {
    ::ibv_dealloc_pd(domain_);
    ::ibv_close_device(context_);
}

std::vector<VerbsPort> VerbsDevice::names_of(std::uint8_t port) const {
    ibv_port_attr attributes{};
    if (::ibv_query_port(context_, port, &attributes) != 0) return {};
    std::vector<ibv_gid_entry> entries(kNamesMax);
    const auto count = ::ibv_query_gid_table(context_, entries.data(), entries.size(), 0);
    entries.resize(static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
    // Indices beyond a byte do not fit an address handle.
    std::erase_if(entries,
                  [&](const auto& entry) { return entry.port_num != port || entry.gid_index > 255; });
    std::stable_sort(entries.begin(), entries.end(),
                     [](const auto& one, const auto& other) { return rank(one) > rank(other); });
    std::vector<VerbsPort> names;
    for (const auto& entry : entries) {
        VerbsPort name{.number = port,
                       .gid_index = static_cast<std::uint8_t>(entry.gid_index),
                       .lid = attributes.lid,
                       .mtu = static_cast<std::uint8_t>(attributes.active_mtu),
                       .routed = attributes.link_layer == IBV_LINK_LAYER_ETHERNET};
        std::memcpy(name.gid.data(), entry.gid.raw, name.gid.size());
        name.text = fmt::format("{} port {}, GID {} ({}, {})", name_, port, entry.gid_index,
                                text_of(name.gid), name_of_type(entry.gid_type));
        names.push_back(std::move(name));
    }
    return names;
}

Result<VerbsPort> VerbsDevice::port_for(const TcpAddress& local) const {
    const Gid wanted = gid_of(local);
    std::string why;
    for (std::uint8_t port = 1; port <= ports_; ++port) {
        ibv_port_attr attributes{};
        const bool known = ::ibv_query_port(context_, port, &attributes) == 0;
        if (!known || attributes.state != IBV_PORT_ACTIVE) {
            why += fmt::format("; {} port {} is {}", name_, port,
                               known ? ::ibv_port_state_str(attributes.state) : "unknown");
            continue;
        }
        for (auto& name : names_of(port)) {
            if (local.loopback() || name.gid == wanted) return std::move(name);
        }
        why += fmt::format("; {} port {} does not have the address", name_, port);
    }
    return fail(Errc::PeerDown, "{}", why);
}

std::vector<std::string> VerbsDevice::explain() const {
    std::vector<std::string> lines;
    for (std::uint8_t port = 1; port <= ports_; ++port) {
        ibv_port_attr attributes{};
        if (::ibv_query_port(context_, port, &attributes) != 0) continue;
        const auto names = names_of(port);
        lines.push_back(
            fmt::format("{}: {}, {}{}",
                        names.empty() ? fmt::format("{} port {}, no GID", name_, port) : names.front().text,
                        ::ibv_port_state_str(attributes.state),
                        limits_.windows ? "grants by memory windows"
                                        : "grants by memory regions, since it has no windows",
                        names.size() > 1 ? fmt::format(", {} other GIDs", names.size() - 1) : ""));
    }
    return lines;
}

int VerbsDevice::event_fd() const noexcept { return context_->async_fd; }

void VerbsDevice::take_events() {
    const std::scoped_lock lock(mutex_);
    ibv_async_event event{};
    while (::ibv_get_async_event(context_, &event) == 0) {
        switch (event.event_type) {
            case IBV_EVENT_QP_FATAL:
            case IBV_EVENT_QP_REQ_ERR:
            case IBV_EVENT_QP_ACCESS_ERR:
            case IBV_EVENT_PATH_MIG_ERR:
                ++failures_;
                if (const auto found = watched_.find(event.element.qp->qp_num); found != watched_.end())
                    ::shutdown(found->second.socket, SHUT_RDWR);
                break;
            case IBV_EVENT_CQ_ERR:
            case IBV_EVENT_DEVICE_FATAL:
            case IBV_EVENT_PORT_ERR:
                ++failures_;
                for (const auto& [number, watched] : watched_) {
                    const bool all = event.event_type != IBV_EVENT_PORT_ERR;
                    if (all || watched.port == event.element.port_num) ::shutdown(watched.socket, SHUT_RDWR);
                }
                break;
            default:  // a port that came up, another LID or GID: the next connect() sees it
                break;
        }
        ::ibv_ack_async_event(&event);
    }
}

void VerbsDevice::watch(std::uint32_t queue_number, std::uint8_t port, int socket) {
    const std::scoped_lock lock(mutex_);
    watched_[queue_number] = {port, socket};
}

void VerbsDevice::unwatch(std::uint32_t queue_number) {
    const std::scoped_lock lock(mutex_);
    watched_.erase(queue_number);
}

std::uint64_t VerbsDevice::failures() const noexcept {
    const std::scoped_lock lock(mutex_);
    return failures_;
}

}  // namespace cmpool::transport
