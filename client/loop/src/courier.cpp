#include <algorithm>
#include <array>
#include <utility>

#include <cmpool/base/assert.h>
#include <cmpool/loop/courier.h>

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace cmpool::loop {

namespace {

constexpr Nanos kQuiesceLimit = std::chrono::milliseconds(100);
constexpr Nanos kLongestSleep = std::chrono::seconds(1);
constexpr std::size_t kCompletionsAtOnce = 256;

}  // namespace

struct Courier::Line {
    explicit Line(std::unique_ptr<transport::Lane> opened) : lane(std::move(opened)) {}

    std::unique_ptr<transport::Lane> lane;
    std::deque<std::vector<std::byte>> outgoing;
    bool look = true;  // it may have something although nobody said so
    std::optional<std::string> ending;
};

/// Hands whole messages on; none of ours has a payload.
class Courier::Inbox final : public transport::Receiver {
public:
    Inbox(Courier& courier, LineId line) : courier_(courier), line_(line) {}

    void place(transport::Lane&, Bytes, std::uint64_t, std::vector<MutableBytes>&) override {}
    void message(transport::Lane&, Bytes head, std::uint64_t) override {
        if (courier_.lines_.at(line_)->ending) return;
        auto message = decode(head);
        if (!message) return courier_.close(line_, message.error().detail);
        courier_.desk_.message(line_, std::move(*message));
    }

private:
    Courier& courier_;
    LineId line_;
};

Courier::Courier(Desk& desk) : desk_(desk), wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    CMPOOL_ASSERT(wake_.get() >= 0);
}

Courier::~Courier() {
    // A peer that neither reads nor dies keeps us no longer than this; the process ends next anyway.
    for (auto& [id, line] : lines_) (void)line->lane->quiesce(kQuiesceLimit);
}

Result<std::string> Courier::listen(transport::Fabric& fabric, const std::string& address) {
    auto listener = fabric.listen(address);
    if (!listener) return fail(listener.error());
    listeners_.push_back(std::move(*listener));
    return listeners_.back()->address();
}

Result<LineId> Courier::connect(transport::Fabric& fabric, const std::string& address) {
    if (lines_.size() >= kLinesMax) return fail(Errc::NoCapacity, "{} lanes are open already", lines_.size());
    auto lane = fabric.connect(address);
    if (!lane) return fail(lane.error());
    return add(std::move(*lane));
}

LineId Courier::add(std::unique_ptr<transport::Lane> lane) {
    lines_.emplace(next_, std::make_unique<Line>(std::move(lane)));
    busy_ = true;
    return next_++;
}

void Courier::send(LineId id, const Message& message) {
    const auto found = lines_.find(id);
    if (found == lines_.end() || found->second->ending) return;
    Line& line = *found->second;
    if (line.outgoing.size() >= kOutgoingMax) return close(id, "the peer does not read what it is sent");
    line.outgoing.push_back(encode(message));
    busy_ = true;
}

std::size_t Courier::post(LineId id, std::span<const transport::Op> batch) {
    const auto found = lines_.find(id);
    if (found == lines_.end() || found->second->ending) return 0;
    busy_ = true;
    const auto posted = found->second->lane->post(batch);
    if (!posted && posted.error().code != Errc::Again) close(id, posted.error().detail);
    return posted.value_or(0);
}

transport::Lane* Courier::lane(LineId id) {
    const auto found = lines_.find(id);
    return found == lines_.end() || found->second->ending ? nullptr : found->second->lane.get();
}

void Courier::close(LineId id, const std::string& why) {
    const auto found = lines_.find(id);
    if (found == lines_.end() || found->second->ending) return;
    found->second->ending = why;
    busy_ = true;
}

void Courier::run(int stop_fd) {
    while (!stopped_.load()) turn(stop_fd);
}

void Courier::turn(int stop_fd) {
    std::vector<pollfd> fds{{wake_.get(), POLLIN, 0}, {stop_fd, POLLIN, 0}};
    for (const auto& listener : listeners_) fds.push_back({listener->event_fd(), POLLIN, 0});
    const std::size_t first_line = fds.size();
    std::vector<LineId> ids;
    for (const auto& [id, line] : lines_) {
        fds.push_back(
            {line->lane->event_fd(), short(line->lane->wants_write() ? POLLIN | POLLOUT : POLLIN), 0});
        ids.push_back(id);
    }
    const Nanos sleep = busy_ ? Nanos{0} : std::clamp(tend_at_ - clock_.now(), Nanos{0}, kLongestSleep);
    const timespec limit{.tv_sec = sleep.count() / 1'000'000'000, .tv_nsec = sleep.count() % 1'000'000'000};
    ::ppoll(fds.data(), fds.size(), &limit, nullptr);
    busy_ = false;
    if (fds[1].revents != 0) return stop();
    std::uint64_t calls = 0;
    const bool called = ::read(wake_.get(), &calls, sizeof calls) > 0;
    accept();
    if (called || clock_.now() >= tend_at_) tend_at_ = desk_.tend(clock_.now());
    for (std::size_t index = 0; index < ids.size(); ++index) {
        const auto found = lines_.find(ids[index]);
        if (found == lines_.end()) continue;
        if (fds[first_line + index].revents != 0) found->second->look = true;
    }
    for (const auto& [id, line] : lines_) ids.push_back(id);  // new ones, too
    std::ranges::sort(ids);
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    for (const LineId id : ids) {
        const auto found = lines_.find(id);
        if (found != lines_.end() && !found->second->ending && serve(id, *found->second)) busy_ = true;
    }
    bury();
}

void Courier::accept() {
    for (const auto& listener : listeners_) {
        while (lines_.size() < kLinesMax) {
            auto lane = listener->accept();
            if (!lane) break;
            desk_.accepted(add(std::move(*lane)));
        }
    }
}

bool Courier::serve(LineId id, Line& line) {
    flush(line);
    bool more = false;
    if (std::exchange(line.look, false)) {
        Inbox inbox(*this, id);
        const auto got = line.lane->receive(inbox);
        if (!got) {
            close(id, got.error().detail);
            return true;
        }
        line.look = more = *got > 0;
    }
    std::array<transport::Completion, kCompletionsAtOnce> done;
    for (std::size_t count = 0; (count = line.lane->poll(done)) > 0;) {
        for (std::size_t index = 0; index < count; ++index) desk_.completed(id, done[index]);
        more = true;
    }
    flush(line);
    return more;
}

void Courier::flush(Line& line) {
    while (!line.outgoing.empty()) {
        const transport::Op op{
            .kind = transport::OpKind::Send, .signal = false, .head = line.outgoing.front()};
        const auto posted = line.lane->post({&op, 1});
        if (!posted) {
            line.look = true;  // receive() says whether it is over, after what the peer said last
            return;
        }
        line.outgoing.pop_front();
    }
}

void Courier::bury() {
    std::vector<std::pair<LineId, std::string>> over;
    for (auto& [id, line] : lines_) {
        // What still moves bytes of ours is asked again next time round.
        if (line->ending && line->lane->quiesce(Nanos{0})) over.emplace_back(id, *line->ending);
    }
    for (const auto& [id, why] : over) {
        lines_.erase(id);
        desk_.closed(id, why);
    }
    if (!over.empty()) busy_ = true;
}

void Courier::wake() noexcept {
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(wake_.get(), &one, sizeof one);
}

void Courier::stop() noexcept {
    stopped_.store(true);
    wake();
}

}  // namespace cmpool::loop
