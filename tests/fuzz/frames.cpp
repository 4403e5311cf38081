// A stream lane's peer: frames, requests on our memory, answers to what we never asked, and descriptors.
// Whatever arrives, the lane ends or goes on; it touches the segment and the landing places, nothing else.
#include "frame.h"
#include "tcp_lane.h"

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include <cmpool/base/assert.h>

#include <sys/socket.h>
#include <unistd.h>

using namespace cmpool;
using namespace cmpool::transport;

namespace {

constexpr std::uint64_t kSegment = 1;
constexpr std::uint64_t kToken = 2;
constexpr std::uint64_t kSegmentBytes = 512;
constexpr std::uint64_t kReadBytes = 64;
constexpr std::size_t kInputMax = 64 * KiB;  // a socket takes it at once
constexpr int kReceivesMax = 256;            // each moves a frame at least, or says that there is nothing

// Gives each payload exactly its room: one byte more, and the address sanitizer sees it.
class Places final : public Receiver {
public:
    void place(Lane&, Bytes head, std::uint64_t payload_bytes, std::vector<MutableBytes>& into) override {
        CMPOOL_ASSERT(head.size() <= kHeadBytesMax && payload_bytes <= kPayloadBytesMax);
        room_.assign(std::min<std::uint64_t>(payload_bytes, kInputMax), std::byte{});
        into.emplace_back(room_);
    }
    void message(Lane&, Bytes head, std::uint64_t) override {
        if (!head.empty()) CMPOOL_ASSERT(head.front() == head.front());  // it can be read
    }

private:
    std::vector<std::byte> room_;
};

void check_headers(Bytes input) {
    if (const auto header = parse_frame(input)) {
        const auto again = parse_frame(encode_frame(*header));
        CMPOOL_ASSERT(again.has_value() && *again == *header);
    } else {
        CMPOOL_ASSERT(header.error().code == Errc::Invalid);
    }
    if (input.size() >= kRequestBytes) {
        const auto bytes = encode_request(parse_request(input));
        CMPOOL_ASSERT(std::equal(bytes.begin(), bytes.end(), input.begin()));
    }
    const Descriptor descriptor{{input.begin(), input.end()}};
    if (const auto name = open_descriptor(descriptor)) {
        CMPOOL_ASSERT(describe(*name).bytes == descriptor.bytes);
    } else {
        CMPOOL_ASSERT(name.error().code == Errc::Invalid || name.error().code == Errc::Mismatch);
    }
}

// One read, one atomic and one message of ours are in flight, for answers to belong to.
void post_some(TcpLane& lane, MutableBytes into) {
    static const TcpRemote remote(
        {.kind = SegmentKind::Tcp, .access = Access::Atomic, .length = kSegmentBytes}, Token{kToken});
    const std::array ops{Op{.kind = OpKind::Read, .remote = &remote, .scatter = {&into, 1}, .cookie = 1},
                         Op{.kind = OpKind::FetchAdd, .remote = &remote, .operand = 1, .cookie = 2},
                         Op{.kind = OpKind::Send, .cookie = 3}};
    const auto posted = lane.post(ops);
    CMPOOL_ASSERT(posted.has_value() && *posted == ops.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const Bytes input = std::as_bytes(std::span(data, std::min(size, kInputMax)));
    check_headers(input);

    std::array<int, 2> ends{};
    CMPOOL_ASSERT(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) == 0);
    UniqueFd peer(ends[1]);
    make_nonblocking(ends[0]);

    std::vector<std::uint64_t> memory(kSegmentBytes / sizeof(std::uint64_t));
    SegmentTable table;
    table.add(std::make_shared<SegmentEntry>(kSegment, Token{kToken}, Access::Atomic,
                                             std::as_writable_bytes(std::span(memory))));
    const Caps caps{.one_sided = true, .lane_depth = kLaneDepth, .op_bytes_max = kOpBytesMax};
    std::vector<std::byte> read(kReadBytes);
    Places places;
    TcpLane lane({UniqueFd(ends[0]), {}, std::nullopt}, caps, table);
    post_some(lane, read);

    if (!input.empty()) {
        CMPOOL_ASSERT(::send(peer.get(), input.data(), input.size(), MSG_NOSIGNAL) ==
                      static_cast<ssize_t>(input.size()));
    }
    CMPOOL_ASSERT(::shutdown(peer.get(), SHUT_WR) == 0);
    std::array<bool, 4> ended{};
    for (int turn = 0; turn < kReceivesMax; ++turn) {
        const auto received = lane.receive(places);
        std::array<Completion, 8> done;
        const std::size_t count = lane.poll(done);
        for (const auto& each : std::span(done).first(count)) {
            CMPOOL_ASSERT(each.cookie >= 1 && each.cookie <= 3 && !ended[each.cookie]);
            ended[each.cookie] = true;
        }
        if (!received) break;
    }
    (void)lane.quiesce(Nanos{0});
    return 0;
}
