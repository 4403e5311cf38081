#pragma once

#include "descriptor.h"
#include "stream_lane.h"

#include <cmpool/transport/segment.h>

namespace cmpool::transport {

/// What a peer's segment is over tcp: a name and a secret, sent with every request.
class TcpRemote final : public RemoteSegment {
public:
    TcpRemote(const SegmentName& name, Token token) noexcept : name_(name), token_(token) {}
    [[nodiscard]] std::uint64_t size() const noexcept override { return name_.length; }
    [[nodiscard]] Access access() const noexcept override { return name_.access; }
    [[nodiscard]] Result<MutableBytes> map() override {
        return fail(Errc::Unsupported, "tcp maps nothing: read the segment instead");
    }
    [[nodiscard]] std::uint64_t segment() const noexcept { return name_.segment; }
    [[nodiscard]] Token token() const noexcept { return token_; }

private:
    SegmentName name_;
    Token token_;
};

/// A stream lane whose one-sided operations are frames that the target carries out.
class TcpLane final : public StreamLane {
public:
    TcpLane(StreamPeer peer, const Caps& caps, const SegmentTable& table)
        : StreamLane(std::move(peer), caps, table, {.one_sided = true}) {}

    /// Remembers name and secret; the first access shows whether they are right.
    [[nodiscard]] Result<void> import(const Descriptor& descriptor, Token token,
                                      std::uint64_t cookie) override;

protected:
    [[nodiscard]] Result<void> start_one_sided(const Op& op) override;
};

}  // namespace cmpool::transport
