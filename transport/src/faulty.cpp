#include <algorithm>
#include <array>
#include <deque>
#include <mutex>

#include <cmpool/base/rng.h>
#include <cmpool/transport/fabric.h>

namespace cmpool::transport {

namespace {

constexpr std::uint64_t kHeldCallsMax = 8;  // calls of poll() that a completion can be held back

/// A lane that is no kinder than a fabric may be: all that it does to its owner, a real one may do.
class FaultyLane final : public Lane, private Receiver {
public:
    FaultyLane(std::unique_ptr<Lane> inner, FaultPlan plan, std::uint64_t seed)
        : inner_(std::move(inner)), plan_(plan), rng_(seed) {}

    [[nodiscard]] Result<std::size_t> post(std::span<const Op> batch) override {
        if (auto up = survive(); !up) return fail(up.error());
        if (rng_.chance(plan_.short_post) && !batch.empty()) {
            batch = batch.first(rng_.below(batch.size()));
            if (batch.empty()) return fail(Errc::Again, "the lane takes nothing now");
        }
        std::size_t taken = 0;
        while (taken < batch.size()) {
            const auto run = until_lost(batch.subspan(taken));
            if (run > 0) {
                auto some = inner_->post(batch.subspan(taken, run));
                if (!some && taken == 0) return fail(some.error());
                taken += some.value_or(0);
                if (some.value_or(0) < run) break;
            }
            if (taken < batch.size()) lose(batch[taken++]);
        }
        return taken;
    }

    [[nodiscard]] Result<void> import(const Descriptor& descriptor, Token token,
                                      std::uint64_t cookie) override {
        if (auto up = survive(); !up) return up;
        return inner_->import(descriptor, token, cookie);
    }
    [[nodiscard]] std::unique_ptr<RemoteSegment> imported(std::uint64_t cookie) override {
        return inner_->imported(cookie);
    }

    [[nodiscard]] std::size_t poll(std::span<Completion> out) override {
        std::array<Completion, 64> some;
        while (const auto count = inner_->poll(some)) {
            for (std::size_t at = 0; at < count; ++at) hold(some[at]);
        }
        ++polls_;
        std::size_t count = 0;
        while (count < out.size() && !held_.empty() && (killed_ || held_.front().due <= polls_)) {
            out[count++] = held_.front().completion;
            held_.pop_front();
        }
        return count;
    }

    [[nodiscard]] Result<std::size_t> receive(Receiver& receiver) override {
        if (auto up = survive(); !up) return fail(up.error());
        outer_ = &receiver;
        return inner_->receive(*this);
    }
    void discard_landing() noexcept override { inner_->discard_landing(); }
    [[nodiscard]] int event_fd() const noexcept override { return inner_->event_fd(); }
    [[nodiscard]] bool wants_write() const noexcept override { return inner_->wants_write(); }
    [[nodiscard]] Result<void> quiesce(Nanos limit) override {
        killed_ = true;  // nothing is held back any more
        return inner_->quiesce(limit);
    }
    [[nodiscard]] std::size_t free_slots() const noexcept override {
        return inner_->free_slots() - std::min(inner_->free_slots(), held_.size());
    }
    [[nodiscard]] const Caps& caps() const noexcept override { return inner_->caps(); }
    [[nodiscard]] const PeerIdentity& peer() const noexcept override { return inner_->peer(); }

private:
    struct Held {
        Completion completion;
        std::uint64_t due = 0;  // in calls of poll()
    };

    // The owner knows this lane, not the one inside.
    void place(Lane&, Bytes head, std::uint64_t payload_bytes, std::vector<MutableBytes>& into) override {
        outer_->place(*this, head, payload_bytes, into);
    }
    void landed(Lane&, std::uint64_t bytes) override { outer_->landed(*this, bytes); }
    void message(Lane&, Bytes head, std::uint64_t payload_bytes) override {
        outer_->message(*this, head, payload_bytes);
    }

    Result<void> survive() {
        if (!killed_ && rng_.chance(plan_.kill_lane)) (void)quiesce(Nanos{0});
        if (killed_) return fail(Errc::PeerDown, "the lane to {} has failed", inner_->peer().address);
        return {};
    }

    // How many leading operations go through before one is lost.
    std::size_t until_lost(std::span<const Op> batch) {
        const auto lost = std::find_if(batch.begin(), batch.end(), [this](const Op& op) {
            return op.kind == OpKind::Send && rng_.chance(plan_.lose_message);
        });
        return static_cast<std::size_t>(lost - batch.begin());
    }

    // To its sender a lost message looks like any other.
    void lose(const Op& op) {
        Completion completion{.cookie = op.cookie, .kind = op.kind};
        for (const Bytes piece : op.gather) completion.bytes += piece.size();
        if (op.signal) hold(completion);
    }

    void hold(const Completion& completion) {
        Held held{completion, polls_};
        if (rng_.chance(plan_.delay_completion)) held.due += 1 + rng_.below(kHeldCallsMax);
        auto at = held_.end();
        if (rng_.chance(plan_.reorder_completion)) {
            at = held_.begin() + static_cast<std::ptrdiff_t>(rng_.below(held_.size() + 1));
        }
        held_.insert(at, held);
    }

    std::unique_ptr<Lane> inner_;
    FaultPlan plan_;
    Rng rng_;
    Receiver* outer_ = nullptr;
    std::deque<Held> held_;
    std::uint64_t polls_ = 0;
    bool killed_ = false;
};

class FaultyFabric final : public Fabric {
public:
    FaultyFabric(std::unique_ptr<Fabric> inner, FaultPlan plan)
        : inner_(std::move(inner)), plan_(plan), rng_(plan.seed) {}

    [[nodiscard]] const Caps& caps() const noexcept override { return inner_->caps(); }
    [[nodiscard]] Result<std::unique_ptr<Segment>> allocate(const SegmentSpec& spec) override {
        return inner_->allocate(spec);
    }
    [[nodiscard]] Result<std::unique_ptr<Segment>> register_memory(MutableBytes memory,
                                                                   Access access) override {
        return inner_->register_memory(memory, access);
    }
    [[nodiscard]] Result<std::unique_ptr<Listener>> listen(std::string_view address) override;
    [[nodiscard]] Result<std::unique_ptr<Lane>> connect(std::string_view address) override {
        return wrap(inner_->connect(address));
    }

    [[nodiscard]] Result<std::unique_ptr<Lane>> wrap(Result<std::unique_ptr<Lane>> lane) {
        if (!lane) return lane;
        const std::scoped_lock lock(mutex_);
        return std::make_unique<FaultyLane>(std::move(*lane), plan_, rng_.next());
    }

private:
    std::unique_ptr<Fabric> inner_;
    FaultPlan plan_;
    std::mutex mutex_;
    Rng rng_;  // each lane draws its own seed
};

class FaultyListener final : public Listener {
public:
    FaultyListener(std::unique_ptr<Listener> inner, FaultyFabric& fabric)
        : inner_(std::move(inner)), fabric_(fabric) {}
    [[nodiscard]] Result<std::unique_ptr<Lane>> accept() override { return fabric_.wrap(inner_->accept()); }
    [[nodiscard]] int event_fd() const noexcept override { return inner_->event_fd(); }
    [[nodiscard]] const std::string& address() const noexcept override { return inner_->address(); }

private:
    std::unique_ptr<Listener> inner_;
    FaultyFabric& fabric_;
};

Result<std::unique_ptr<Listener>> FaultyFabric::listen(std::string_view address) {
    auto inner = inner_->listen(address);
    if (!inner) return inner;
    return std::make_unique<FaultyListener>(std::move(*inner), *this);
}

}  // namespace

std::unique_ptr<Fabric> open_faulty(std::unique_ptr<Fabric> inner, FaultPlan plan) {
    return std::make_unique<FaultyFabric>(std::move(inner), plan);
}

}  // namespace cmpool::transport
