#pragma once

#include <functional>
#include <memory>
#include <string>

#include <cmpool/base/unique_fd.h>
#include <cmpool/transport/fabric.h>

namespace cmpool::transport {

/// Accepts on a listening stream socket and makes a lane of each that comes in.
class StreamListener final : public Listener {
public:
    using MakeLane = std::function<std::unique_ptr<Lane>(UniqueFd socket)>;

    StreamListener(UniqueFd socket, std::string address, MakeLane make_lane, std::string unlink_path = {})
        : socket_(std::move(socket)),
          address_(std::move(address)),
          make_lane_(std::move(make_lane)),
          unlink_path_(std::move(unlink_path)) {}
    ~StreamListener() override;

    [[nodiscard]] Result<std::unique_ptr<Lane>> accept() override;
    [[nodiscard]] int event_fd() const noexcept override { return socket_.get(); }
    [[nodiscard]] const std::string& address() const noexcept override { return address_; }

private:
    UniqueFd socket_;
    std::string address_;
    MakeLane make_lane_;
    std::string unlink_path_;  // a Unix socket's file, ours to remove
};

}  // namespace cmpool::transport
