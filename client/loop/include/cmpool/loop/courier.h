#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <cmpool/base/clock.h>
#include <cmpool/base/unique_fd.h>
#include <cmpool/loop/messages.h>
#include <cmpool/transport/fabric.h>

namespace cmpool::loop {

/// Names a lane of a Courier.
using LineId = std::uint64_t;

/// What a role does with what its lanes bring. Called on the courier's thread only.
class Desk {
public:
    virtual ~Desk() = default;
    /// Somebody connected to us.
    virtual void accepted(LineId /*line*/) {}
    virtual void message(LineId line, Message message) = 0;
    virtual void completed(LineId /*line*/, const transport::Completion& /*completion*/) {}
    /// The lane is over, and none of its operations touches any memory any more.
    virtual void closed(LineId line, const std::string& why) = 0;
    /// After a wake(), or when the instant has come that the last call asked for. Returns when to call again.
    virtual Instant tend(Instant now) = 0;
};

/// Drives all lanes of a process on one background thread, so that whoever computes never waits for them.
///
///   Lifetime  the fabrics and the desk outlive it
///   Threads   wake() and stop() from any; everything else on the thread of run()
///   Limits    kOutgoingMax messages wait for a peer; one that reads slower is cut off
class Courier {
public:
    static constexpr std::size_t kOutgoingMax = 65'536;
    static constexpr std::size_t kLinesMax = 1024;

    explicit Courier(Desk& desk);
    ~Courier();

    /// Returns what to connect to. Errors: those of the fabric.
    [[nodiscard]] Result<std::string> listen(transport::Fabric& fabric, const std::string& address);
    [[nodiscard]] Result<LineId> connect(transport::Fabric& fabric, const std::string& address);
    void send(LineId line, const Message& message);
    /// As Lane::post(); 0 where it is over.
    std::size_t post(LineId line, std::span<const transport::Op> batch);
    /// Null where it is over.
    [[nodiscard]] transport::Lane* lane(LineId line);
    /// Ends a lane of ours; closed() follows.
    void close(LineId line, const std::string& why);

    /// Until stop(), or until `stop_fd` is readable.
    void run(int stop_fd = -1);
    void wake() noexcept;
    void stop() noexcept;

private:
    struct Line;
    class Inbox;
    void turn(int stop_fd);
    void accept();
    bool serve(LineId id, Line& line);
    void flush(Line& line);
    void bury();
    [[nodiscard]] LineId add(std::unique_ptr<transport::Lane> lane);

    Desk& desk_;
    SystemClock clock_;
    UniqueFd wake_;
    std::atomic<bool> stopped_{false};
    std::vector<std::unique_ptr<transport::Listener>> listeners_;
    std::map<LineId, std::unique_ptr<Line>> lines_;
    LineId next_ = 1;
    Instant tend_at_{};
    bool busy_ = false;  // somebody has more to do at once
};

}  // namespace cmpool::loop
