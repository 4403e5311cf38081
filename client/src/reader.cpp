#include "reader.h"

#include <algorithm>
#include <array>
#include <cstring>

#include <cmpool/base/assert.h>
#include <cmpool/transport/fabric.h>

namespace cmpool::client {

using model::kHeaderBytes;
using model::kUnitBytes;

namespace {

/// Import cookies carry this bit, so that no batch has the same.
constexpr std::uint64_t kImportBit = std::uint64_t{1} << 63;
constexpr std::uint32_t kIndexImport = UINT32_MAX;
/// An attempt that takes longer has failed.
constexpr std::chrono::seconds kAttemptLimit{5};
/// After a failure nothing is tried for so long, then twice as long, up to the second.
constexpr std::chrono::milliseconds kPauseMin{250};
constexpr std::chrono::milliseconds kPauseMax{10'000};
/// Reads change nothing at the peer: only our own device has to let go.
constexpr std::chrono::milliseconds kQuiesceLimit{1'000};
/// Operations that one post() is given; the rest follows as slots come free.
constexpr std::size_t kOpsPerPost = 256;
constexpr std::size_t kScratchBytes = 128;  // on lines of their own

static_assert(kHeaderBytes + sizeof(model::Slot) <= kScratchBytes);

std::uint64_t slot_offset(std::uint32_t slot) noexcept {
    return slot / model::kSlotsPerBucket * sizeof(model::Bucket) + offsetof(model::Bucket, slots) +
           slot % model::kSlotsPerBucket * sizeof(model::Slot);
}

std::uint64_t offset_of(const wire::Place& place) noexcept {
    return (place.location_word >> model::kUnitsBits) * kUnitBytes;
}

}  // namespace

Reader::Reader(Environment environment, PoolUri uri, model::NamespaceSpec spec, std::uint32_t shard)
    : environment_(std::move(environment)), uri_(std::move(uri)), spec_(std::move(spec)), shard_(shard) {}

Reader::~Reader() { close(); }

transport::LaneCounts Reader::counts() const noexcept {
    transport::LaneCounts sum = counts_;
    const auto now = lane_ ? lane_->counts() : transport::LaneCounts{};
    sum.requests += now.requests;
    sum.doorbells += now.doorbells;
    sum.signalled += now.signalled;
    return sum;
}

// ---- coming and going ----

void Reader::offer(const wire::Welcome& server) {
    server_ = server;
    pause_ = {};
    state_ = State::Waiting;
    retry_at_ = environment_.clock->now();
}

void Reader::withdraw(const Error& why) {
    lose(why.detail);
    state_ = State::Idle;
    retry_at_ = Instant::never();
}

Instant Reader::next_deadline() const noexcept {
    if (state_ == State::Idle) return Instant::never();
    if (state_ == State::Waiting) return retry_at_;
    Instant next = state_ == State::Ready ? Instant::never() : attempt_ends_;
    for (const auto& [id, batch] : batches_) next = std::min(next, batch.until);
    return next;
}

void Reader::progress() {
    if (state_ == State::Idle) return;
    const Instant now = environment_.clock->now();
    if (state_ == State::Waiting && now >= retry_at_) connect();
    while (lane_ != nullptr && !failure_) {
        const auto received = lane_->receive(*this);
        std::array<transport::Completion, 64> done;
        const std::size_t count = lane_->poll(done);
        for (std::size_t index = 0; index < count; ++index) completed(done[index]);
        if (!received) fail(received.error().detail);
        if ((!received || *received == 0) && count < done.size()) break;
    }
    post_all();
    if (connecting() && now >= attempt_ends_) fail("it did not answer in time");
    for (const auto& [id, batch] : batches_) {
        if (now >= batch.until) fail("a read took too long");
    }
    if (failure_) lose(*std::exchange(failure_, std::nullopt));
}

// The first plane that both sides have. What the URI names is the only one then.
void Reader::connect() {
    attempt_ends_ = environment_.clock->now() + std::max<Nanos>(uri_.deadline, kAttemptLimit);
    retry_at_ = Instant::never();
    state_ = State::Greeting;
    std::string why = "the pool offers no plane to read from";
    for (const auto& text : server_.planes) {
        const auto plane = transport::parse_plane(text);
        if (!plane) continue;
        if (!uri_.kv.empty() && uri_.kv != plane->name) {
            why = fmt::format("the URI asks for {}, the pool offers {}", uri_.kv, plane->name);
            continue;
        }
        const auto opened = open_plane(*plane);
        if (opened) return;
        why = fmt::format("{}: {}", plane->name, opened.error().detail);
    }
    // What is missing on this host or at the pool does not come by itself, a lane may.
    why_ = why;
    state_ = State::Waiting;
    lane_.reset();
    pause_ = kPauseMax;
    retry_at_ = environment_.clock->now() + pause_;
}

Result<void> Reader::open_plane(const transport::PlaneAddress& plane) {
    if (!environment_.planes) return cmpool::fail(Errc::Unsupported, "this client reads nothing one-sided");
    auto fabric = environment_.planes->open(plane.name, *environment_.entropy);
    if (!fabric) return cmpool::fail(fabric.error());
    if (fabric_ != *fabric) {
        fabric_ = std::move(*fabric);
        constexpr std::size_t kBytes = kBlocksAtOnce * kScratchBytes;
        scratch_.reset();
        scratch_bytes_ = std::make_unique<std::byte[]>(kBytes);
        auto known = fabric_->register_memory({scratch_bytes_.get(), kBytes}, transport::Access::None);
        if (!known) {
            fabric_.reset();
            return cmpool::fail(known.error());
        }
        scratch_ = std::move(*known);
    }
    free_scratch_.clear();
    for (std::uint32_t slot = kBlocksAtOnce; slot > 0; --slot) free_scratch_.push_back(slot - 1);
    auto lane = fabric_->connect(plane.address);
    if (!lane) return cmpool::fail(lane.error());
    lane_ = std::move(*lane);
    name_ = plane.name;
    why_ = fmt::format("connecting to {}://{}", plane.name, plane.address);
    say(wire::Hello{.client = "libcmpool reader", .shard = shard_});
    return {};
}

void Reader::close() {
    if (lane_ == nullptr) return;
    const auto now = lane_->counts();
    counts_.requests += now.requests;
    counts_.doorbells += now.doorbells;
    counts_.signalled += now.signalled;
    (void)lane_->quiesce(kQuiesceLimit);
    lane_.reset();
    index_.reset();
    data_.clear();
    importing_.clear();
    imports_left_ = 0;
    asking_ = false;
    unposted_.clear();
}

void Reader::lose(const std::string& why) {
    close();
    if (state_ != State::Idle) {
        pause_ = std::clamp(pause_ * 2, kPauseMin, kPauseMax);
        retry_at_ = environment_.clock->now() + pause_;
        state_ = State::Waiting;
    }
    why_ = why;
    failure_.reset();
    const Error error{Errc::PeerDown, why};
    for (const auto& [id, batch] : std::exchange(batches_, {})) batch.user->read_lost(batch.part, error);
}

void Reader::say(wire::Body body) {
    const Bytes head = encoder_.encode({.request_id = next_id_++, .epoch = 1, .body = std::move(body)});
    const transport::Op op{.kind = transport::OpKind::Send, .signal = false, .head = head};
    if (const auto posted = lane_->post({&op, 1}); !posted) fail(posted.error().detail);
}

void Reader::message(transport::Lane&, Bytes head, std::uint64_t) {
    const auto message = decoder_.decode(head);
    if (!message) return fail(message.error().detail);
    if (const auto* failed = std::get_if<wire::Failed>(&message->body)) return fail(failed->detail);
    // Which members there are, the session hears as well.
    if (std::holds_alternative<wire::Members>(message->body)) return;
    if (const auto* welcome = std::get_if<wire::Welcome>(&message->body)) {
        // Another run of the server would have other memory than the one that told us where blocks lie.
        if (welcome->incarnation != server_.incarnation) return fail("another server answers there");
        state_ = State::Opening;
        return say(wire::OpenNamespace{
            .spec = spec_, .tenant_key = uri_.tenant_key, .fingerprint = spec_.fingerprint()});
    }
    if (const auto* opened = std::get_if<wire::NamespaceOpened>(&message->body)) {
        namespace_id_ = opened->namespace_id;
        state_ = State::Attaching;
        asking_ = true;
        return say(wire::Attach{.namespace_id = namespace_id_});
    }
    const auto* memory = std::get_if<wire::Attached>(&message->body);
    if (memory != nullptr && asking_) return attached(*memory);
    fail(fmt::format("it answered with an unexpected {}", wire::name_of(message->body)));
}

// ---- the domain's memory ----

void Reader::attached(const wire::Attached& attached) {
    asking_ = false;
    if (attached.segment_bytes == 0) return fail("the pool described its memory wrongly");
    segment_bytes_ = attached.segment_bytes;
    more_segments_ = attached.segments.size() == wire::kGrantsMax;
    importing_.clear();
    std::vector<const wire::Grant*> grants;
    if (index_ == nullptr) {
        importing_.push_back(kIndexImport);
        grants.push_back(&attached.index);
    }
    for (const auto& grant : attached.segments) {
        if (grant.index < data_.size() && data_[grant.index] != nullptr) continue;
        importing_.push_back(grant.index);
        grants.push_back(&grant);
    }
    imports_left_ = importing_.size();
    for (std::size_t at = 0; at < grants.size(); ++at) {
        const auto started = lane_->import({grants[at]->descriptor}, {grants[at]->token}, at | kImportBit);
        if (!started) return fail(started.error().detail);
    }
    if (imports_left_ == 0) state_ = State::Ready;
}

void Reader::imported(const transport::Completion& done) {
    if (done.error) return fail("the pool did not hand over its memory");
    const auto which = importing_.at(done.cookie & ~kImportBit);
    auto segment = lane_->imported(done.cookie);
    if (which == kIndexImport) {
        index_ = std::move(segment);
    } else {
        if (which >= data_.size()) data_.resize(which + 1);
        data_[which] = std::move(segment);
    }
    if (--imports_left_ > 0) return;
    if (more_segments_) {
        asking_ = true;
        return say(wire::Attach{.namespace_id = namespace_id_,
                                .known_segments = static_cast<std::uint32_t>(data_.size())});
    }
    state_ = State::Ready;
    pause_ = {};
    why_ = fmt::format("{}: the pool's memory is read by {}", name_, lane_->peer().address);
}

bool Reader::reaches(const wire::Place& place) const {
    const std::uint64_t offset = offset_of(place);
    const std::uint64_t index = offset / segment_bytes_;
    const std::uint64_t end = offset % segment_bytes_ + kHeaderBytes + place.length;
    return slot_offset(place.slot) + sizeof(model::Slot) <= index_->size() && index < data_.size() &&
           data_[index] != nullptr && end <= data_[index]->size();
}

bool Reader::may_reach(const wire::Place& place) {
    if (offset_of(place) / segment_bytes_ < data_.size()) return reaches(place);
    // New memory of the domain. One question at a time: a later one finds this one's answer.
    if (!asking_ && imports_left_ == 0) {
        asking_ = true;
        say(wire::Attach{.namespace_id = namespace_id_,
                         .known_segments = static_cast<std::uint32_t>(data_.size())});
    }
    return true;
}

bool Reader::waits(const Batch& batch) const {
    if (batch.posted > 0 || (!asking_ && imports_left_ == 0)) return false;
    return !std::all_of(batch.items.begin(), batch.items.end(),
                        [&](const ReadItem& item) { return reaches(item.place); });
}

// ---- reading ----

Reader::Scratch& Reader::scratch(std::uint32_t slot) const {
    return *reinterpret_cast<Scratch*>(scratch_bytes_.get() + slot * kScratchBytes);
}

bool Reader::read(ReadUser& user, std::uint64_t part, std::vector<ReadItem> items, Instant until) {
    if (!ready() || failure_ || free_scratch_.size() < items.size()) return false;
    const std::uint64_t id = next_batch_++;
    Batch& batch = batches_.emplace(id, Batch{&user, part, std::move(items), {}, until, {}}).first->second;
    for (std::uint32_t item = 0; item < batch.items.size(); ++item) {
        batch.scratch.push_back(free_scratch_.back());
        free_scratch_.pop_back();
        batch.steps.push_back({item, Step::What::Header});
        if (batch.items[item].range.offset > 0) batch.steps.push_back({item, Step::What::Bytes});
    }
    for (std::uint32_t item = 0; item < batch.items.size(); ++item)
        batch.steps.push_back({item, Step::What::Slot});
    unposted_.push_back(id);
    if (unposted_.size() == 1 && !waits(batch)) post(id, batch);
    if (batch.posted == batch.steps.size()) unposted_.pop_back();
    return true;
}

void Reader::post_all() {
    while (lane_ != nullptr && !failure_ && !unposted_.empty()) {
        const std::uint64_t id = unposted_.front();
        const auto found = batches_.find(id);
        if (found == batches_.end()) {
            unposted_.pop_front();
            continue;
        }
        Batch& batch = found->second;
        if (waits(batch)) return;
        const bool all = std::all_of(batch.items.begin(), batch.items.end(),
                                     [&](const ReadItem& item) { return reaches(item.place); });
        if (!all && batch.posted == 0) {
            // The memory did not come: whoever wanted it asks for the blocks.
            Batch ended = std::move(batch);
            batches_.erase(found);
            unposted_.pop_front();
            free_scratch_.insert(free_scratch_.end(), ended.scratch.begin(), ended.scratch.end());
            ended.user->read_done(ended.part, std::vector<std::optional<std::uint64_t>>(ended.items.size()));
            continue;
        }
        post(id, batch);
        if (batch.posted < batch.steps.size()) return;
        unposted_.pop_front();
    }
}

transport::Op Reader::operation(const Batch& batch, const Step& step,
                                std::vector<MutableBytes>& scatter) const {
    const ReadItem& item = batch.items[step.item];
    Scratch& aside = scratch(batch.scratch[step.item]);
    transport::Op op{.kind = transport::OpKind::Read};
    if (step.what == Step::What::Slot) {
        scatter.emplace_back(std::as_writable_bytes(std::span(&aside.slot, 1)));
        op.remote = index_.get();
        op.offset = slot_offset(item.place.slot);
    } else {
        const std::uint64_t block = offset_of(item.place);
        op.remote = data_[block / segment_bytes_].get();
        op.offset = block % segment_bytes_;
        if (step.what == Step::What::Header) {
            scatter.emplace_back(reinterpret_cast<std::byte*>(&aside.header), kHeaderBytes);
        } else {
            op.offset += kHeaderBytes + item.range.offset;
        }
        if (step.what == Step::What::Bytes || item.range.offset == 0)
            scatter.insert(scatter.end(), item.into.begin(), item.into.end());
    }
    op.scatter = scatter;
    return op;
}

// The blocks, and behind them their slots: the fence lets no slot be read before every block is here. Only
// the last operation announces its end, which is that of all.
void Reader::post(std::uint64_t id, Batch& batch) {
    const auto& steps = batch.steps;
    while (batch.posted < steps.size()) {
        const std::size_t first = batch.posted;
        const std::size_t some = std::min(kOpsPerPost, steps.size() - first);
        std::vector<transport::Op> ops(some);
        std::vector<std::vector<MutableBytes>> scatter(some);
        for (std::size_t at = 0; at < some; ++at) {
            ops[at] = operation(batch, steps[first + at], scatter[at]);
            ops[at].cookie = id;
            ops[at].signal = first + at + 1 == steps.size();
            ops[at].fence = first + at == steps.size() - batch.items.size();
        }
        const auto posted = lane_->post(ops);
        if (!posted && posted.error().code != Errc::Again) fail(posted.error().detail);
        batch.posted += posted.value_or(0);
        if (!posted || *posted < some) return;
    }
}

void Reader::completed(const transport::Completion& done) {
    if (done.kind == transport::OpKind::Import) return imported(done);
    if (done.kind != transport::OpKind::Read) return;
    // A read that failed takes its lane along; batches end by that.
    if (done.error)
        return fail(fmt::format("a read failed with code {}", static_cast<unsigned>(*done.error)));
    const auto found = batches_.find(done.cookie);
    if (found == batches_.end()) return;
    Batch batch = std::move(found->second);
    batches_.erase(found);
    finish(batch);
}

void Reader::finish(Batch& batch) {
    std::vector<std::optional<std::uint64_t>> checksums(batch.items.size());
    for (std::size_t at = 0; at < batch.items.size(); ++at) {
        const ReadItem& item = batch.items[at];
        const Scratch& seen = scratch(batch.scratch[at]);
        const bool unmoved =
            seen.slot.tag_word == item.place.tag_word && seen.slot.location_word == item.place.location_word;
        const bool same = seen.header.digest == item.key && seen.header.length == item.place.length;
        if (unmoved && same) checksums[at] = seen.header.payload_checksum;
        free_scratch_.push_back(batch.scratch[at]);
    }
    batch.user->read_done(batch.part, checksums);
}

bool Reader::forget(const ReadUser& user) {
    bool known = false;
    for (const auto& [id, batch] : batches_) known = known || batch.user == &user;
    if (!known) return false;
    std::erase_if(batches_, [&](const auto& each) { return each.second.user == &user; });
    lose("a read did not end in time");
    return true;
}

}  // namespace cmpool::client
